"""What is archived, and how a record travels to the archive.

A handler publishes the records it selects to the exchange ``archive``, many in
one message, each as the line of JSON that will stand in the archive. This runs for
every record of the mesh, so lines are put together from bytes: the record's JSON
is embedded as it is, never parsed or encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Annotated, Literal, NamedTuple
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from meshtasks.domain.envelope import Envelope, record_id
from meshtasks.domain.json_text import on_one_line
from meshtasks.domain.patterns import topic_matches

#: The two halves of the archive, each with a queue of its own.
ArchiveClass = Literal["events", "metrics"]

ARCHIVE_EXCHANGE = "archive"
#: Header of a message that consists of archive lines. Anyone may publish any JSON
#: to the exchange; what comes without the header is wrapped into a line first.
LINES_HEADER = "x-mesh-archive"
#: Well below the size at which a queue refuses a message (1 MiB by default).
MESSAGE_LIMIT_BYTES = 512 * 1024

Domain = Annotated[str, StringConstraints(pattern=r"^[^.\s]+$")]


class Selection(BaseModel):
    """Records to archive.

    Attributes:
        pattern: of their routing keys, as in a binding of a topic exchange.
        sample: keep one record in this many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: Annotated[str, Field(min_length=1)]
    sample: Annotated[int, Field(ge=1)] = 1


class ArchivePolicy(BaseModel):
    """config/archive.yaml.

    Attributes:
        select: what is archived; the first pattern that matches counts.
        metrics: domains (first words of routing keys) whose records are metrics;
            those of every other domain are events.
        compression_level: of zstd; 1 is fastest, 19 smallest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    select: tuple[Selection, ...] = ()
    metrics: frozenset[Domain] = frozenset()
    compression_level: Annotated[int, Field(ge=1, le=19)] = 9

    def selects(self, routing_key: str) -> bool:
        """Whether records with this routing key are archived, all or some."""
        return self._one_in(routing_key) > 0

    def line(
        self, envelope: Envelope, record_json: bytes, twin: int, time: float
    ) -> bytes | None:
        """The record's archive line, or None if it is not selected.

        Of sampled records the same are kept each time the message is processed.
        Takes what :func:`archive_line` takes.
        """
        one_in = self._one_in(envelope.routing_key)
        if not one_in:
            return None
        name = record_id(envelope, record_json, twin, time)
        if one_in > 1 and crc32(name.encode()) % one_in:
            return None
        return _line(name, envelope, record_json, time)

    def class_of(self, domain: str) -> ArchiveClass:
        """Which half of the archive a domain's records belong to."""
        return "metrics" if domain in self.metrics else "events"

    def _one_in(self, routing_key: str) -> int:
        for selection in self.select:
            if topic_matches(selection.pattern, routing_key):
                return selection.sample
        return 0


def archive_line(
    envelope: Envelope, record_json: bytes, twin: int, time: float
) -> bytes:
    """One line of the archive: a JSON object without a line break.

    Args:
        envelope: the message the record came in.
        record_json: the record; valid JSON in UTF-8, embedded as it is.
        twin: how many records just like it come before it in the message.
        time: epoch seconds; when the record was made.

    Returns:
        The object, its members in this order: ``id`` (see
        :func:`~meshtasks.domain.envelope.record_id`), ``exchange``,
        ``routing_key``, ``time`` (RFC 3339 in UTC with milliseconds), ``record``.
    """
    name = record_id(envelope, record_json, twin, time)
    return _line(name, envelope, record_json, time)


class ArchiveMessage(NamedTuple):
    """A message to publish; the fields of
    :class:`~meshtasks.messaging.publisher.Outgoing`, in its order."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str | None
    timestamp: float | None
    headers: dict[str, object]


def archive_message(lines: Sequence[bytes], domain_kind: str) -> ArchiveMessage:
    """The message that brings these lines to the archive.

    It needs no id: every line carries its own.

    Args:
        lines: from :func:`archive_line`; at least one.
        domain_kind: ``sensors.temperature``, say; the message's routing key.
    """
    body = b"[" + b",\n".join(lines) + b"]"
    headers: dict[str, object] = {LINES_HEADER: 1}
    return ArchiveMessage(ARCHIVE_EXCHANGE, domain_kind, body, None, None, headers)


def archive_messages(
    lines: Sequence[bytes], domain_kind: str
) -> Iterator[ArchiveMessage]:
    """As :func:`archive_message`, in messages that no queue finds too large.

    A line that is longer than :data:`MESSAGE_LIMIT_BYTES` gets a message of its own.
    """
    start = size_bytes = 0
    for place, line in enumerate(lines):
        if place > start and size_bytes + len(line) > MESSAGE_LIMIT_BYTES:
            yield archive_message(lines[start:place], domain_kind)
            start, size_bytes = place, 0
        size_bytes += len(line)
    if start < len(lines):
        yield archive_message(lines[start:], domain_kind)


def rfc3339(time: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with milliseconds and ``Z``."""
    second, milliseconds = divmod(round(time * 1000), 1000)
    return f"{_rfc3339_second(second)}.{milliseconds:03d}Z"


def _line(name: str, envelope: Envelope, record_json: bytes, time: float) -> bytes:
    return b'{"id":%b,%b,"time":"%b","record":%b}' % (
        encode_basestring(name).encode(),
        _origin(envelope.exchange, envelope.routing_key),
        rfc3339(time).encode(),
        on_one_line(record_json),
    )


@lru_cache(maxsize=16_384)
def _origin(exchange: str, routing_key: str) -> bytes:
    """The members that all records of a device share."""
    text = (
        f'"exchange":{encode_basestring(exchange)},'
        f'"routing_key":{encode_basestring(routing_key)}'
    )
    # AMQP text may hold lone surrogates, which UTF-8 has no bytes for
    return text.encode("utf-8", "replace")


@lru_cache(maxsize=4_096)
def _rfc3339_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]
