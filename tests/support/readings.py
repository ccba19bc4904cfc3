"""Batches of temperature messages, good and bad, that can be told apart again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from meshtasks.amqp.publisher import Outgoing

#: Epoch milliseconds of the first reading; each next is a millisecond later.
START_MS = 1_795_000_000_000
SENSORS = 50


def reading(number: int, **changes: object) -> dict[str, object]:
    """The reading of that number: its own sensor and time, so its own point."""
    sensor = f"s{number % SENSORS}"
    good = {
        "sensor_id": sensor,
        "value": 15 + number % 10,
        "unit": ("°C", "C", "celsius")[number % 3],
        "timestamp": START_MS + number,
    }
    return {**good, **changes}


def message(number: int, body: bytes | None = None) -> Outgoing:
    """A message of one reading, or of the given body."""
    body = json.dumps(reading(number)).encode() if body is None else body
    key = f"sensors.temperature.room{number % SENSORS}"
    return Outgoing("sensors", key, body, message_id=f"m{number}")


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Bodies that are bad in ten ways, in turn and without end, each with words
    of the reason that a person must be given."""

    def record(number: int, **changes: object) -> bytes:
        return json.dumps(reading(number, **changes)).encode()

    for number in itertools.count(1_000_000):
        valueless = reading(number)
        del valueless["value"]
        good, bad = reading(number), reading(number, value="warm")
        yield "not JSON", b'{"value": %d' % number
        yield "not UTF-8", b'{"sensor_id": "\xff%d", "value": 1}' % number
        yield "empty", b" " * (number % 7)
        yield 'the text "warm"', json.dumps([good, bad]).encode()
        yield "missing", json.dumps(valueless).encode()
        yield "number", record(number, value="21,5")
        yield "finite", record(number, value=float("nan"))
        yield "furlong", record(number, unit="furlong")
        yield "timestamp", record(number, timestamp="2019-02-30T25:00:00Z")
        yield "bytes", json.dumps({**good, "note": "x" * 2_000_000}).encode()
