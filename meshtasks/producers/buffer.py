"""Unconfirmed messages of a producer, in memory; counts; packing of array messages."""

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
    """A message that the broker has not confirmed.

    Attributes:
        message: the message, with its id and timestamp.
        records: number of records in its body.
    """

    message: Outgoing
    records: int


class Buffer:
    """A bounded FIFO queue of messages, with one batch in flight.

    It is in memory, so its messages are lost with the process. It is not thread-safe:
    the producer calls it under its lock.

    Args:
        max_messages: limit of waiting messages.
        max_bytes: limit of the bytes of waiting bodies. A larger message is accepted
            if no other message waits.
    """

    #: Bytes that count for a message in addition to its body.
    overhead_bytes = 0
    #: Records that were in the buffer at the start, left by an earlier run.
    restored_records = 0

    def __init__(
        self, max_messages: int = 100_000, max_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        #: (time of arrival in monotonic seconds, message), oldest first.
        self._memory: deque[tuple[float, Pending]] = deque()
        self._memory_bytes = 0
        self._in_flight: list[Pending] = []
        self._in_flight_since = 0.0

    def append(self, pending: Pending) -> Sequence[Pending]:
        """Add a message; return the oldest waiting messages, dropped to make room."""
        dropped = []
        while not self.has_room(len(pending.message.body)):
            if (oldest := self._drop_oldest()) is None:
                break
            dropped.append(oldest)
        self._memory.append((time.monotonic(), pending))
        self._memory_bytes += len(pending.message.body) + self.overhead_bytes
        return dropped

    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        """Take the oldest messages: at most ``count``, and about ``size_bytes``.

        They are in flight until :meth:`resolve`. A second call before that returns the
        same batch.
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
        """Remove the batch in flight: it is confirmed, or cannot be published."""
        self._in_flight.clear()

    def keep(self) -> None:
        """Save the messages, if the buffer can: the broker does not confirm them."""

    def close(self) -> Sequence[Pending]:
        """Close the buffer; return the messages lost with the process, oldest first."""
        return (*self._in_flight, *(pending for _, pending in self._memory))

    @property
    def waiting(self) -> int:
        """Number of messages that are not in flight."""
        return len(self._memory)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the waiting messages, with :attr:`overhead_bytes` for each."""
        return self._memory_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Return whether a body of this size fits without dropping a message."""
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
    """Limits of a batch: it is published when it reaches one of them.

    Attributes:
        count: messages.
        size_bytes: sum of the bodies in bytes.
        age_seconds: time since the first record that is not published yet.
        array_size: records of one exchange and routing key in one message, a JSON array
            of at most ``size_bytes``; 1 sends each record as a message of its own.
    """

    count: int = 1_000
    size_bytes: int = 1024 * 1024
    age_seconds: float = 0.1
    array_size: int = 1


@dataclass(slots=True)
class Counts:
    """Counts of a producer's records since its start.

    Attributes:
        accepted: records submitted.
        restored: records that an earlier run left unconfirmed.
        confirmed: records that the broker has stored.
        dropped: records that a full buffer dropped, or that cannot be published.
        unroutable: records for which no queue is bound.
        messages: messages confirmed.
        resent: messages published again after an attempt whose result is unknown.
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
        """Records that are not yet confirmed, dropped or unroutable."""
        resolved = self.confirmed + self.dropped + self.unroutable
        return self.accepted + self.restored - resolved


#: Exchange and routing key.
Route = tuple[str, str]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(record: object) -> bytes:
    """Return the record as compact JSON.

    Raises:
        TypeError, ValueError: the record cannot be JSON (NaN and Infinity included).
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
    """Packs encoded records into array messages, up to a count and a size.

    An array message has the timestamp of its first record. With an ``array_size`` of 1,
    each record is a message of its own, without an array.
    """

    def __init__(self, batching: Batching) -> None:
        self._count = batching.array_size
        self._size_bytes = batching.size_bytes
        self._open: dict[Route, _Array] = {}

    def __len__(self) -> int:
        """Number of arrays that are not full yet."""
        return len(self._open)

    def add(self, route: Route, record: bytes, timestamp: float) -> list[Pending]:
        """Add a record to its route's array; return the messages that are complete."""
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
        """Return the message of a route's unfilled array, if there is one."""
        if (array := self._open.pop(route, None)) is None:
            return []
        body = b"[" + b",".join(array.elements) + b"]"
        return [_pending(route, body, len(array.elements), array.timestamp)]

    def close_all(self) -> list[Pending]:
        """Return the messages of all unfilled arrays."""
        return [pending for route in tuple(self._open) for pending in self.close(route)]


def _pending(route: Route, body: bytes, records: int, timestamp: float) -> Pending:
    message = Outgoing(*route, body, message_id=new_message_id(), timestamp=timestamp)
    return Pending(message, records)
