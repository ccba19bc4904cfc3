"""``meshtasks dlq export`` and ``import``: dead letters as lines of JSON."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letters import dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.cli.dlq_queue import (
    DeadLetterQueue,
    Every,
    Filters,
    Ids,
    NewerThan,
    OlderThan,
    Queue,
    Reason,
    RoutingKey,
    Sensor,
    find,
    opened,
)
from meshtasks.cli.terminal import fail, say
from meshtasks.config.private_files import private_opener
from meshtasks.config.settings import load_settings
from meshtasks.errors import SchemaMismatch
from meshtasks.observation.dead_letters import from_line, to_line

#: Published together.
_BATCH = 500

_File = Annotated[
    Path,
    typer.Argument(help="The file; - for standard input or output.", dir_okay=False),
]


def export(  # noqa: PLR0913 - options
    file: _File,
    ids: Ids = None,
    *,
    reason: Reason = "",
    queue: Queue = "",
    routing_key: RoutingKey = "",
    sensor: Sensor = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    every: Every = False,
) -> None:
    """Write dead letters to a file, one JSON object a line; they stay where they are.

    Exit codes: 0; 1 there is no such dead letter; 69 the broker cannot be reached; 73
    the file cannot be written.

    Example: meshtasks dlq export letters.jsonl --queue sensors.temperature
    """
    filters = Filters(reason, queue, routing_key, sensor, older_than, newer_than)
    selection = filters.selection(ids, every=every)
    count = 0
    with opened(load_settings(), queue) as letters, _writing(file) as target:
        if ids:
            find(letters, ids)
        for delivery, letter in letters.peek("writing"):
            if selection.matches(letter):
                target.write(to_line(delivery, letter) + b"\n")
                count += 1
    say(f"{count:,} dead letters written", err=True)


def import_(file: _File) -> None:
    """Put exported dead letters back into the dead-letter queue.

    Those that are there already are left out, so an interrupted import may simply be
    run again.

    Exit codes: 0; 65 a line is not from an export, and nothing after it was put back;
    66 the file cannot be read; 69 the broker cannot be reached.
    """
    with opened(load_settings()) as letters, _reading(file) as source:
        ids = (int(letter.id, 16) for _, letter in letters.peek("looking"))
        there = Counter(ids)  # a third of what the text of the ids would take
        put, known = _put_back(letters, source, there)
    say(f"{put:,} dead letters put back, {known:,} were there already")


def _put_back(
    letters: DeadLetterQueue, source: BinaryIO, there: Counter[int]
) -> tuple[int, int]:
    """Publish what is not there; how many letters that was, and how many were."""
    put = known = 0
    batch: list[Outgoing] = []
    with closing(Publisher(letters.url)) as publisher:
        for number, line in enumerate(source, start=1):
            letters.exit_if_stopped(f"{put:,} letters were put back")
            if not line.strip():
                continue
            try:
                message = from_line(line)
            except SchemaMismatch as error:
                publisher.publish(batch)
                fail(f"line {number}: {error}", os.EX_DATAERR)
            name = int(_id_of(message), 16)
            if there[name]:
                there[name] -= 1
                known += 1
                continue
            batch.append(message)
            if len(batch) == _BATCH:
                publisher.publish(batch)
                put += len(batch)
                batch = []
        publisher.publish(batch)
    return put + len(batch), known


@contextmanager
def _writing(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    try:
        with open(file, "wb", opener=private_opener) as target:
            yield target
    except OSError as error:
        fail(f"{file} cannot be written: {error}", os.EX_CANTCREAT)


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        fail(f"{file} cannot be read: {error}", os.EX_NOINPUT)


def _id_of(message: Outgoing) -> str:
    """The id that this message has as a dead letter."""
    table: dict[str, Any] = message.headers or {}
    properties = {**(message.properties or {}), "application_headers": table}
    return dead_letter_of(
        Delivery(
            0,
            message.body,
            str(table.get(headers.EXCHANGE, message.exchange)),
            str(table.get(headers.ROUTING_KEY, message.routing_key)),
            properties,
            redelivered=False,
            received_at=0.0,
        )
    ).id
