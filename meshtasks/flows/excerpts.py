"""What is archived, and how a record travels to the archive.

A handler publishes the records it selects to the exchange ``archive``, many
messages' in one: an *excerpt* of each message has where it came from, which of its
records are selected, and when they were made. The archive's handlers take excerpts
apart and make each record a line of JSON. So for those who store readings a record
costs what its time costs to write, and the archive has time for the rest.

An excerpt carries the message's body as text inside JSON: whatever a body may do to
a parser, it does to its own excerpt alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Annotated, Literal
from zlib import crc32

import msgspec
from pydantic import Field, StringConstraints

from meshtasks.amqp import headers
from meshtasks.amqp.entities import topic_matches
from meshtasks.amqp.frames import Outgoing
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import on_one_line
from meshtasks.records.timestamps import utc_of
from meshtasks.text import without_surrogates

#: The two halves of the archive, each with a queue of its own.
ArchiveClass = Literal["events", "metrics"]

#: Excerpts are gathered up to this size; a larger one travels alone.
MESSAGE_LIMIT_BYTES = 512 * 1024

#: Epoch seconds that `datetime` can write are those of the years 1970 to 9999.
TIMES_END = 253_402_300_799
_Time = Annotated[float, msgspec.Meta(ge=0, lt=TIMES_END)]
_Place = Annotated[int, msgspec.Meta(ge=0)]

Domain = Annotated[str, StringConstraints(pattern=r"^[^.\s]+$")]


class Selection(ConfigModel):
    """Records to archive.

    Attributes:
        pattern: of their routing keys, as in a binding of a topic exchange.
        sample: keep one record in this many.
    """

    pattern: Annotated[str, Field(min_length=1)]
    sample: Annotated[int, Field(ge=1)] = 1


class ArchivePolicy(ConfigModel):
    """config/archive.yaml.

    Attributes:
        select: what is archived; the first pattern that matches counts.
        metrics: domains (first words of routing keys) whose records are metrics;
            those of every other domain are events.
        compression_level: of zstd; 1 is fastest, 19 smallest.
    """

    select: tuple[Selection, ...] = ()
    metrics: frozenset[Domain] = frozenset()
    compression_level: Annotated[int, Field(ge=1, le=19)] = 9

    def class_of(self, domain: str) -> ArchiveClass:
        """Which half of the archive a domain's records belong to."""
        return "metrics" if domain in self.metrics else "events"

    def one_in(self, routing_key: str) -> int:
        """One record in so many is archived; 0 is none."""
        for selection in self.select:
            if topic_matches(selection.pattern, routing_key):
                return selection.sample
        return 0


def sampled(routing_key: str, times: Sequence[float], one_in: int) -> Sequence[int]:
    """Which records of one message are chosen, by their index in ``times`` (epoch
    seconds): one in so many, and the same ones each time."""
    if one_in == 1:
        return range(len(times))
    key = routing_key.encode("utf-8", "replace")
    return [
        index
        for index, time in enumerate(times)
        if crc32(b"%d %b" % (round(time * 1000), key)) % one_in == 0
    ]


def archive_line(
    name: str, envelope: Envelope, record_json: bytes, time: float
) -> bytes:
    """One line of the archive: a JSON object without a line break.

    Args:
        name: the record's id (see :func:`~meshtasks.records.envelope.record_id`).
        envelope: the message the record came in.
        record_json: the record; valid JSON in UTF-8, embedded as it is.
        time: epoch seconds; when the record was made.

    Returns:
        The object, its members in this order: ``id``, ``exchange``,
        ``routing_key``, ``time`` (RFC 3339 in UTC with milliseconds), ``record``.
    """
    return b'{"id":%b,%b,"time":"%b","record":%b}' % (
        encode_basestring(name).encode(),
        _origin(envelope.exchange, envelope.routing_key),
        rfc3339(time).encode(),
        on_one_line(record_json),
    )


def excerpt(
    envelope: Envelope, times: list[float], places: Sequence[int | None]
) -> bytes:
    """What the archive needs of one message.

    Args:
        times: when each of its selected records was made, epoch seconds.
        places: of each in the message's array, ascending; (None,) if the message is
            no array.

    Returns:
        A JSON object: ``exchange``, ``routing_key``, ``message_id`` (or null),
        ``times``, ``places`` unless they are the first ones, and ``body``: the
        message's body as text.
    """
    is_whole = places[-1] in (None, len(places) - 1)
    made = Excerpt(
        envelope.exchange,
        envelope.routing_key,
        envelope.message_id,
        times,
        envelope.body.decode(),
        None if is_whole else [place for place in places if place is not None],
    )
    try:
        return _encode(made)
    except UnicodeEncodeError:  # AMQP text may hold lone surrogates, which no JSON may
        made.exchange = without_surrogates(made.exchange)
        made.routing_key = without_surrogates(made.routing_key)
        made.message_id = made.message_id and without_surrogates(made.message_id)
        return _encode(made)


class Excerpt(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """See :func:`excerpt`; its members in the order in which they are written. What it
    is read from may be anyone's, who has set a header."""

    exchange: str
    routing_key: str
    message_id: str | None
    times: Annotated[list[_Time], msgspec.Meta(min_length=1)]
    body: str
    places: Sequence[_Place] | None = None


_encode = msgspec.json.Encoder().encode


def archive_messages(excerpts: Sequence[bytes], domain_kind: str) -> Iterator[Outgoing]:
    """The messages that bring these excerpts to the archive.

    They need no ids: those of the records are made of what is in them.

    Args:
        excerpts: see :func:`excerpt`. One that is longer than
            :data:`MESSAGE_LIMIT_BYTES` gets a message of its own.
        domain_kind: ``sensors.temperature``, say; the messages' routing key.
    """
    for body in arrays_of(excerpts, MESSAGE_LIMIT_BYTES):
        table: dict[str, object] = {headers.EXCERPTS: 1}
        yield Outgoing(ARCHIVE_EXCHANGE, domain_kind, body, headers=table)


def arrays_of(texts: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """JSON arrays of these texts, in order, each up to a size; a larger text is alone
    in one."""
    together: list[bytes] = []
    size_bytes = 0
    for text in texts:
        if together and size_bytes + len(text) > limit_bytes:
            yield b"[" + b",\n".join(together) + b"]"
            together, size_bytes = [], 0
        together.append(text)
        size_bytes += len(text)
    if together:
        yield b"[" + b",\n".join(together) + b"]"


def rfc3339(time: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with milliseconds and ``Z``; see
    :func:`~meshtasks.records.timestamps.utc_of` for those that no calendar has."""
    second, milliseconds = divmod(round(time * 1000), 1000)
    return f"{_rfc3339_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=16_384)
def _origin(exchange: str, routing_key: str) -> bytes:
    """The members that all records of a device share."""
    text = (
        f'"exchange":{encode_basestring(without_surrogates(exchange))},'
        f'"routing_key":{encode_basestring(without_surrogates(routing_key))}'
    )
    return text.encode()


@lru_cache(maxsize=4_096)
def _rfc3339_second(second: int) -> str:
    return utc_of(second).isoformat()[:19]


ARCHIVE = ConfigFile("archive.yaml", ArchivePolicy)
