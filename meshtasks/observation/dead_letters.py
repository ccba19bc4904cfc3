"""The dead letters in the queue, grouped by cause with a few examples; and dead letters
as lines of JSON.

A line holds the whole dead letter with its reason. It uses the mesh's headers even if
the broker dead-lettered the message. So an imported dead letter is shown and replayed
as before, with the same id.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letter_groups import (
    Cause,
    CauseGroups,
    Group,
    Groups,
)
from meshtasks.amqp.dead_letters import (
    DEAD_LETTER_ROUTING_KEY,
    DeadLetter,
    dead_letter_of,
    kept_headers,
    kept_properties,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.headers import as_json, from_json
from meshtasks.amqp.peek import HeldMessages, peek
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE
from meshtasks.errors import SchemaMismatch
from meshtasks.records.models import explain

#: Largest body that is kept, and limit for all bodies: there may be thousands of
#: causes. Other bodies are read from the queue when they are needed.
_LARGEST_KEPT_BYTES, _MOST_KEPT_BYTES = 16 * 1024, 16 * 1024 * 1024


class WaitingDeadLetter(NamedTuple):
    """A dead letter with its message; None if the message was not kept."""

    letter: DeadLetter
    delivery: Delivery | None


class DeadLettersOfCause(NamedTuple):
    """The dead letters of one cause.

    Attributes:
        found: their number by queue.
        examples: the first dead letters of the cause.
    """

    found: CauseGroups
    examples: tuple[WaitingDeadLetter, ...]


class WaitingDeadLetters(NamedTuple):
    """The dead-letter queue at one moment.

    Attributes:
        total: number of dead letters read.
        groups: by cause and queue, largest first.
        causes: by cause over all queues, largest first.
        taken_at: epoch seconds.
    """

    total: int
    groups: tuple[Group, ...]
    causes: tuple[DeadLettersOfCause, ...]
    taken_at: float


def waiting_dead_letters(
    url: str,
    queue: str,
    *,
    examples: int = 0,
    most: int | None = None,
    stopping: threading.Event | None = None,
    on_progress: Callable[[HeldMessages], None] = lambda _: None,
) -> WaitingDeadLetters:
    """Read the dead letters; they stay in their queue.

    Args:
        url: of the broker.
        queue: the dead-letter queue.
        examples: number of dead letters to keep of each cause.
        most: number to read at most; None for all.
        stopping: ends reading when set; the dead letters are requeued as usual.
        on_progress: called after each dead letter.

    Raises:
        ConfigError: the broker refuses the account.
        Transient: the broker cannot be reached, or another client peeks the queue.
    """
    groups = Groups()
    kept: dict[Cause, list[WaitingDeadLetter]] = {}
    kept_bytes = 0
    stopping = stopping or threading.Event()
    with peek(url, queue, stopping=stopping) as held:
        for delivery in held:
            letter = dead_letter_of(delivery)
            groups.add(letter)
            on_progress(held)
            if len(shown := kept.setdefault(Cause.of(letter), [])) < examples:
                size = len(delivery.body)
                fits = size <= _LARGEST_KEPT_BYTES and kept_bytes < _MOST_KEPT_BYTES
                kept_bytes += size * fits
                shown.append(WaitingDeadLetter(letter, delivery if fits else None))
            if held.seen == most:
                stopping.set()
    causes = (
        DeadLettersOfCause(found, tuple(kept[found.cause])) for found in groups.causes()
    )
    largest = tuple(groups.largest_first())
    return WaitingDeadLetters(groups.total, largest, tuple(causes), time.time())


class _Properties(BaseModel):
    """The AMQP properties that a dead letter keeps."""

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
    """The members of a line that are read; the others are for people."""

    headers: dict[str, JsonValue]
    properties: _Properties = _Properties()
    body: str | None = None
    body_base64: str | None = None


def to_line(delivery: Delivery, letter: DeadLetter) -> bytes:
    """A dead letter as a line of JSON, without the line end."""
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


def from_line(line: bytes) -> Outgoing:
    """The message that puts the dead letter of a line into the dead-letter queue.

    Raises:
        SchemaMismatch: the line is not one of :func:`to_line`.
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


def _body(read: _Line) -> bytes:
    if read.body is not None:
        return read.body.encode()
    try:
        return base64.b64decode(read.body_base64 or "", validate=True)
    except binascii.Error as error:
        message = f"body_base64: {error}"
        raise SchemaMismatch(message) from error
