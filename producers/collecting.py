"""Collectors: producers that look at something again and again."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Annotated, Any, NamedTuple, Protocol

import typer

from producers.base import Producer
from producers.batching import Batching
from producers.session import run_session, spooling_producer
from producers.ticks import ticks

EXCHANGE = "metrics"
#: The metric that says how it went to read a service's metrics.
SCRAPE = "scrape"
#: What a rate may be made of: as many intervals. One tick may be late and one fail.
LONGEST_GAP_INTERVALS = 3
#: Metrics with the same routing key that are published as one message.
_ARRAY_SIZE = 100
#: With two of them there are rates.
_DRY_ROUNDS = 2

_NOT_OF_A_WORD = re.compile(r"[^A-Za-z0-9_-]+")

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print two rounds of metrics, one JSON object a line, and end; "
        "without a broker.",
    ),
]


class Measured(NamedTuple):
    """One metric, and where it goes.

    Attributes:
        routing_key: on the exchange ``metrics``.
        record: name, fields, tags and timestamp, as the mesh wants a metric.
    """

    routing_key: str
    record: dict[str, Any]


class Collector(Protocol):
    """Looks at its object, and says what it found."""

    def collect(self) -> Iterable[Measured]:
        """One round. What cannot be read is left out and logged."""


def metric(
    name: str,
    fields: Mapping[str, float | bool | None],
    tags: Mapping[str, str],
    timestamp: float,
) -> dict[str, Any]:
    """A metric's record; fields without a value are left out.

    Args:
        timestamp: epoch seconds; a point has milliseconds.
    """
    return {
        "name": name,
        "fields": {key: value for key, value in fields.items() if value is not None},
        "tags": dict(tags),
        "timestamp": round(timestamp, 3),
    }


def routing_word(text: str) -> str:
    """``text`` as one word of a routing key: ``my.host`` is ``my_host``."""
    return _NOT_OF_A_WORD.sub("_", text)


def run_collector(
    context: typer.Context,
    collector: Collector,
    interval_seconds: float,
    *,
    dry_run: bool,
) -> None:
    """Collect and publish until SIGTERM or SIGINT.

    Raises:
        typer.Exit: at the end, with the exit code of the session.
        ConfigError: there is no usable ``MESH_BROKER_URL``.
    """
    stop = context.ensure_object(threading.Event)
    rounds = ticks(interval_seconds, stop)
    if dry_run:
        for _ in islice(rounds, _DRY_ROUNDS):
            for measured in collector.collect():
                typer.echo(json.dumps(measured._asdict(), ensure_ascii=False))
        return
    name = context.info_name or ""
    producer = spooling_producer(name, Batching(array_size=_ARRAY_SIZE))
    feed = _feed(collector, producer, rounds)
    raise typer.Exit(run_session(producer, feed, stop))


def _feed(
    collector: Collector, producer: Producer, rounds: Iterable[None]
) -> Callable[[], None]:
    def feed() -> None:
        for _ in rounds:
            for measured in collector.collect():
                producer.submit(
                    EXCHANGE,
                    measured.routing_key,
                    measured.record,
                    timestamp=measured.record["timestamp"],
                )

    return feed
