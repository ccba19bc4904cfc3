"""Where a producer keeps what the broker has not confirmed yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing


class Pending(NamedTuple):
    """A message on its way.

    Attributes:
        message: what is published, and published again if need be.
        records: how many records its body holds.
    """

    message: Outgoing
    records: int


class Buffer(Protocol):
    """A bounded first-in, first-out store with one batch in flight.

    Called by one thread at a time; the producer holds its lock.
    """

    def append(self, pending: Pending) -> Sequence[Pending]:
        """Keep a message.

        Returns:
            The oldest waiting messages, dropped to make room for it.
        """

    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        """The oldest messages, at most ``count`` and about ``size_bytes`` of them.

        They are in flight until :meth:`settle`; a second call before that gives
        the same batch.
        """

    def settle(self) -> None:
        """Forget the batch in flight: its fate is known."""

    def keep(self) -> None:
        """The broker does not answer: see to it that what is kept outlives us."""

    def close(self) -> Sequence[Pending]:
        """Nothing more will come.

        Returns:
            What is lost with the process, in flight and waiting, oldest first.
        """

    @property
    def restored_records(self) -> int:
        """Records that an earlier run had left here."""

    @property
    def waiting(self) -> int:
        """Messages that are not in flight."""

    @property
    def waiting_bytes(self) -> int:
        """Sum of their bodies."""

    def has_room(self, size_bytes: int) -> bool:
        """Whether a message with a body of this size would drop no other."""


class MemoryBuffer(Buffer):
    """Keeps messages in memory; they are lost with the process.

    Args:
        max_messages: most messages waiting.
        max_bytes: most bytes of bodies waiting. A message larger than this is
            kept alone.
    """

    def __init__(
        self, max_messages: int = 100_000, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Pending] = deque()
        self._waiting_bytes = 0
        self._in_flight: list[Pending] = []

    @override
    def append(self, pending: Pending) -> Sequence[Pending]:
        size = len(pending.message.body)
        dropped = []
        while not self.has_room(size):
            dropped.append(self._pop())
        self._waiting.append(pending)
        self._waiting_bytes += size
        return dropped

    @override
    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        if not self._in_flight:
            taken_bytes = 0
            while (
                self._waiting
                and len(self._in_flight) < count
                and taken_bytes < size_bytes
            ):
                pending = self._pop()
                taken_bytes += len(pending.message.body)
                self._in_flight.append(pending)
        return tuple(self._in_flight)

    @override
    def settle(self) -> None:
        self._in_flight.clear()

    @override
    def keep(self) -> None:
        """Do nothing; they are lost with the process."""

    @override
    def close(self) -> Sequence[Pending]:
        return (*self._in_flight, *self._waiting)

    @property
    @override
    def restored_records(self) -> int:
        return 0

    @property
    @override
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    @override
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    @override
    def has_room(self, size_bytes: int) -> bool:
        return not self._waiting or (
            len(self._waiting) < self._max_messages
            and self._waiting_bytes + size_bytes <= self._max_bytes
        )

    def _pop(self) -> Pending:
        pending = self._waiting.popleft()
        self._waiting_bytes -= len(pending.message.body)
        return pending
