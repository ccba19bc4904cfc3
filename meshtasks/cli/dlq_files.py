"""``meshtasks dlq export`` and ``import``: dead letters as lines of JSON.

A line holds the whole dead letter, its reason included, in the mesh's own headers even
if the broker dead-lettered it. So what is imported is shown and replayed as before,
under the same id.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letters import DeadLetter, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.failed import DEAD_LETTER_ROUTING_KEY, kept_headers, kept_properties
from meshtasks.amqp.headers import as_json, from_json
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE
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
from meshtasks.records.models import explain

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

        def write(delivery: Delivery, letter: DeadLetter) -> None:
            nonlocal count
            if selection.matches(letter):
                target.write(_to_line(delivery, letter) + b"\n")
                count += 1

        if ids:
            find(letters, ids)
        letters.peek("writing", write)
    say(f"{count:,} dead letters written", err=True)


def import_(file: _File) -> None:
    """Put exported dead letters back into the dead-letter queue.

    Those that are there already are left out, so an interrupted import may simply be
    run again.

    Exit codes: 0; 65 a line is not from an export, and nothing after it was put back;
    66 the file cannot be read; 69 the broker cannot be reached.
    """
    there: Counter[int] = Counter()  # a third of what the text of the ids would take

    def note(_delivery: Delivery, letter: DeadLetter) -> None:
        there[int(letter.id, 16)] += 1

    with opened(load_settings()) as letters, _reading(file) as source:
        letters.peek("looking", note)
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
                message = _from_line(line)
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


class _Properties(BaseModel):
    """The AMQP properties that a message keeps."""

    model_config = ConfigDict(extra="forbid")

    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None
    priority: Annotated[int | None, Field(ge=0, le=255)] = None
    delivery_mode: int = 2


class _Line(BaseModel):
    """What is read of a line; the other members are for people."""

    headers: dict[str, JsonValue]
    properties: _Properties = _Properties()
    body: str | None = None
    body_base64: str | None = None


def _to_line(delivery: Delivery, letter: DeadLetter) -> bytes:
    """A dead letter as JSON, without the line's end."""
    table = {headers.ERROR_MESSAGE: letter.reason} | kept_headers(delivery)
    table |= {
        headers.REASON: letter.reason,
        headers.ERROR_TYPE: letter.kind,
        headers.EXCHANGE: letter.exchange,
        headers.ROUTING_KEY: letter.routing_key,
    }
    if letter.queue is not None:
        table[headers.QUEUE] = letter.queue
    if letter.failed_at is not None:
        failed_at = datetime.fromtimestamp(letter.failed_at, UTC)
        table[headers.FAILED_AT] = failed_at.isoformat()
    document: dict[str, Any] = {
        "id": letter.id,
        "headers": {name: as_json(value) for name, value in table.items()},
        "properties": kept_properties(delivery),
    }
    try:
        document["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        document["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(document, ensure_ascii=True, default=str).encode()


def _from_line(line: bytes) -> Outgoing:
    """The message that puts the dead letter of a line into its queue.

    Raises:
        SchemaMismatch: the line is not one of :func:`_to_line`.
    """
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error
    try:
        table = {name: from_json(value) for name, value in read.headers.items()}
    except ValueError as error:
        message = f"headers: {error}"
        raise SchemaMismatch(message) from error
    if headers.REASON not in table:
        message = f"headers: {headers.REASON} is missing, so it is no dead letter"
        raise SchemaMismatch(message)
    return Outgoing(
        DEAD_LETTER_EXCHANGE,
        DEAD_LETTER_ROUTING_KEY,
        _body(read),
        headers=table,
        properties=read.properties.model_dump(exclude_none=True)
        | {"content_type": read.properties.content_type},
    )


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


def _body(read: _Line) -> bytes:
    if read.body is not None:
        return read.body.encode()
    try:
        return base64.b64decode(read.body_base64 or "", validate=True)
    except binascii.Error as error:
        message = f"body_base64: {error}"
        raise SchemaMismatch(message) from error
