"""Bodies with a byte order mark, compressed ones, and those that are not there."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.delivery import Delivery
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import UndecodableMessage
from meshtasks.flows.contract import Handler
from meshtasks.outcome import DONE, Dead
from meshtasks.records.json_text import plain_body
from meshtasks.records.models import SensorReading
from meshtasks.worker.results import BatchResult
from meshtasks.worker.runner import BatchRunner

SETTINGS = Settings(Environment(config_dir=Path(__file__).parents[2] / "config"))
LIMIT = 1_048_576
READING = b'{"value": 21.5}'
ARRAY = b'[{"value": 1}, {"value": "x"}, {"value": 3}]'


def run(*bodies: bytes, exchange: str = "sensors") -> tuple[list[Any], BatchResult]:
    """The records that the worker gives to a handler, and what became of the batch."""
    records: list[Any] = []

    def handle(batch: Any, _sinks: Any) -> list[Any]:
        records.extend(batch.records)
        assert all(json.loads(each.body) for each in batch.envelopes)
        return [DONE] * len(batch.records)

    runner = BatchRunner(Handler("q", handle, SensorReading, (), True), SETTINGS)
    deliveries = [
        Delivery(tag, body, exchange, "sensors.temperature.a", {}, False, 1.8e9)
        for tag, body in enumerate(bodies)
    ]
    return records, runner([each.to_wire() for each in deliveries])


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + READING,
        b"\xef\xbb\xbf21.5",
        gzip.compress(READING, mtime=0),
        gzip.compress(READING[:5], mtime=0) + gzip.compress(READING[5:], mtime=0),
        zlib.compress(READING, 9),
        zlib.compress(READING, 1),
        gzip.compress(b"\xef\xbb\xbf" + READING, mtime=0),
    ],
)
def test_what_is_around_the_json_makes_no_difference(body: bytes) -> None:
    records, result = run(body, READING)

    assert records == [{"value": 21.5}] * 2
    assert result.failures == ()


def test_a_bad_member_of_a_compressed_array_is_dead_in_plain_text() -> None:
    records, result = run(gzip.compress(ARRAY, mtime=0))

    assert records == [{"value": 1.0}, {"value": 3.0}]
    ((_, outcome, body, place),) = result.failures
    assert isinstance(outcome, Dead)
    assert (body, place) == (b'{"value": "x"}', 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(READING, mtime=0)[:-9], "ends in the middle"),
        (gzip.compress(READING, mtime=0)[:-8] + b"\0" * 8, "is damaged"),
        (gzip.compress(READING, mtime=0) + b"more", "is damaged"),
        (b"\x28\xb5\x2f\xfd" + READING, "compressed with zstd"),
        ('{"value": 1}'.encode("utf-16"), "is UTF-16"),
        ('{"value": 1}'.encode("utf-16-be"), "is UTF-16"),
        ('{"value": 1}'.encode("utf-16-le"), "is UTF-16"),
        ('{"value": 1}'.encode("utf-32"), "is UTF-16"),
        (b"", "is empty"),
    ],
)
def test_what_cannot_be_read_is_dead_with_its_reason(body: bytes, reason: str) -> None:
    records, result = run(body, READING)

    assert records == [{"value": 21.5}]
    (failure,) = result.failures
    assert isinstance(failure.outcome, Dead)
    assert reason in failure.outcome.reason


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    bomb = gzip.compress(b" " * 100_000_000, mtime=0)
    tracemalloc.start()

    with pytest.raises(UndecodableMessage, match="more than 1,048,576 bytes"):
        plain_body(bomb, LIMIT)

    assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
    tracemalloc.stop()


def test_a_retained_message_that_is_withdrawn_is_passed_over_and_counted() -> None:
    _, result = run(b"", READING, b"", exchange="amq.topic")

    assert result.failures == ()
    assert (result.messages, result.records, result.empty) == (3, 1, 2)
