"""Several records in one message: a JSON array per exchange and routing key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from meshtasks.amqp.message_id import new_message_id
from meshtasks.amqp.publisher import Outgoing
from producers.batching import Batching
from producers.buffer import Pending

#: Exchange and routing key.
Route = tuple[str, str]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(record: object) -> bytes:
    """The record as compact JSON.

    Raises:
        TypeError, ValueError: JSON cannot say it (NaN and Infinity included).
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

    An array message carries the timestamp of its first record. When arrays are
    to hold one record, every record is a message of its own and no array.
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
