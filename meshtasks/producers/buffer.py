"""Where a producer keeps what the broker has not confirmed yet."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing


class Pending(NamedTuple):
    """A message on its way.

    Attributes:
        message: what is published, and published again if need be.
        records: how many records its body holds.
    """

    message: Outgoing
    records: int


class Buffer:
    """A bounded first-in, first-out store with one batch in flight; in memory, so it is
    lost with the process.

    Called by one thread at a time; the producer holds its lock.

    Args:
        max_bytes: most bytes of bodies waiting. A larger message is kept alone.
    """

    #: What a message counts beside its body.
    overhead_bytes = 0
    #: Records that an earlier run had left here.
    restored_records = 0

    def __init__(
        self, max_messages: int = 100_000, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        #: With the time at which each came.
        self._memory: deque[tuple[float, Pending]] = deque()
        self._memory_bytes = 0
        self._in_flight: list[Pending] = []
        self._in_flight_since = 0.0

    def append(self, pending: Pending) -> Sequence[Pending]:
        """Keep a message; the oldest waiting ones that were dropped to make room for
        it."""
        dropped = []
        while not self.has_room(len(pending.message.body)):
            if (oldest := self._drop_oldest()) is None:
                break
            dropped.append(oldest)
        self._memory.append((time.monotonic(), pending))
        self._memory_bytes += len(pending.message.body) + self.overhead_bytes
        return dropped

    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        """The oldest messages, at most ``count`` and about ``size_bytes`` of them.

        They are in flight until :meth:`resolve`; a second call before that gives
        the same batch.
        """
        if not self._in_flight and self._memory:
            self._in_flight_since = self._memory[0][0]
            taken_bytes = 0
            while (
                self._memory
                and len(self._in_flight) < count
                and taken_bytes < size_bytes
            ):
                self._in_flight.append(self._pop())
                taken_bytes += len(self._in_flight[-1].message.body)
        return tuple(self._in_flight)

    def resolve(self) -> None:
        """Forget the batch in flight: its fate is known."""
        self._in_flight.clear()

    def keep(self) -> None:
        """The broker does not answer: bring to safety what can be."""

    def close(self) -> Sequence[Pending]:
        """Nothing more will come; what is lost with the process, oldest first."""
        return (*self._in_flight, *(pending for _, pending in self._memory))

    @property
    def waiting(self) -> int:
        """Messages that are not in flight."""
        return len(self._memory)

    @property
    def waiting_bytes(self) -> int:
        """Sum of what they count."""
        return self._memory_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether a message with a body of this size would drop no other."""
        waiting_bytes = self.waiting_bytes + size_bytes + self.overhead_bytes
        return not self.waiting or (
            self.waiting < self._max_messages and waiting_bytes <= self._max_bytes
        )

    def _drop_oldest(self) -> Pending | None:
        return self._pop() if self._memory else None

    def _pop(self) -> Pending:
        _, pending = self._memory.popleft()
        self._memory_bytes -= len(pending.message.body) + self.overhead_bytes
        return pending


@dataclass(frozen=True, slots=True)
class Batching:
    """A batch is published as soon as one of these is reached.

    Attributes:
        count: messages.
        size_bytes: sum of the bodies.
        age_seconds: time since the first record that is not published yet.
        array_size: records with the same exchange and routing key that are
            packed into one message (a JSON array, at most ``size_bytes`` long);
            1 packs nothing.
    """

    count: int = 1_000
    size_bytes: int = 1024 * 1024
    age_seconds: float = 0.1
    array_size: int = 1


@dataclass(slots=True)
class Counts:
    """What became of the records, so far.

    Attributes:
        accepted: records submitted.
        restored: records that an earlier run had left unconfirmed.
        confirmed: records that the broker has stored.
        dropped: records that a full buffer dropped, or that cannot be published.
        unroutable: records that no queue was bound for.
        messages: messages confirmed.
        resent: messages that were published again, not knowing whether the
            attempt before had been stored.
    """

    accepted: int = 0
    restored: int = 0
    confirmed: int = 0
    dropped: int = 0
    unroutable: int = 0
    messages: int = 0
    resent: int = 0

    @property
    def unresolved(self) -> int:
        """Records that are none of these yet."""
        resolved = self.confirmed + self.dropped + self.unroutable
        return self.accepted + self.restored - resolved


#: Exchange and routing key.
Route = tuple[str, str]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(record: object) -> bytes:
    """The record as compact JSON.

    Raises:
        TypeError, ValueError: JSON cannot hold it (NaN and Infinity included).
    """
    return _ENCODER.encode(record).encode()


@dataclass(slots=True)
class _Array:
    timestamp: float
    elements: list[bytes] = field(default_factory=list)
    size_bytes: int = 1

    def add(self, record: bytes) -> None:
        self.elements.append(record)
        self.size_bytes += len(record) + 1


class ArrayPacker:
    """Collects encoded records until an array is full, by count or by size.

    An array message carries the timestamp of its first record. When arrays are to hold
    one record, every record is a message of its own and no array.
    """

    def __init__(self, batching: Batching) -> None:
        self._count = batching.array_size
        self._size_bytes = batching.size_bytes
        self._open: dict[Route, _Array] = {}

    def __len__(self) -> int:
        """Arrays that are being filled."""
        return len(self._open)

    def add(self, route: Route, record: bytes, timestamp: float) -> list[Pending]:
        """Put a record into its route's array; the messages that completes."""
        if self._count == 1:
            return [_pending(route, record, 1, timestamp)]
        complete = []
        array = self._open.get(route)
        if array and array.size_bytes + len(record) >= self._size_bytes:
            complete += self.close(route)
        array = self._open.setdefault(route, _Array(timestamp))
        array.add(record)
        if len(array.elements) >= self._count:
            complete += self.close(route)
        return complete

    def close(self, route: Route) -> list[Pending]:
        """The message of a route's unfilled array, if it has one."""
        if (array := self._open.pop(route, None)) is None:
            return []
        body = b"[" + b",".join(array.elements) + b"]"
        return [_pending(route, body, len(array.elements), array.timestamp)]

    def close_all(self) -> list[Pending]:
        """The messages of all unfilled arrays."""
        return [pending for route in tuple(self._open) for pending in self.close(route)]


def _pending(route: Route, body: bytes, records: int, timestamp: float) -> Pending:
    message = Outgoing(*route, body, message_id=new_message_id(), timestamp=timestamp)
    return Pending(message, records)
