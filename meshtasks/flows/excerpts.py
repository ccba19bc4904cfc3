"""Selects records for the archive, and encodes them for the exchange ``archive``.

A handler publishes the selected records of many messages in one message. It has an
*excerpt* of each: the body, its origin, and indexes and times of the selected records.
The archive's handlers make one line of JSON of each record. So a handler of readings
has to encode only the time of a record, and the archive does the rest.

An excerpt contains the body as JSON text. So a body that is not parsable affects only
its own excerpt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from meshtasks.records.json_text import arrays_of, on_one_line
from meshtasks.records.timestamps import rfc3339
from meshtasks.text import without_surrogates

#: The two halves of the archive; each has a queue.
ArchiveClass = Literal["events", "metrics"]

#: Largest message of several excerpts; a larger excerpt has a message of its own.
MESSAGE_LIMIT_BYTES = 512 * 1024

#: Limit of times, epoch seconds: the end of the year 9999, the last of `datetime`.
TIMES_END = 253_402_300_799
_Time = Annotated[float, msgspec.Meta(ge=0, lt=TIMES_END)]
_Place = Annotated[int, msgspec.Meta(ge=0)]

Domain = Annotated[str, StringConstraints(pattern=r"^[^.\s]+$")]


class Selection(ConfigModel):
    """Records to archive.

    Attributes:
        pattern: pattern for their routing keys, as in a binding of a topic exchange.
        sample: archive one record in this many.
    """

    pattern: Annotated[str, Field(min_length=1)]
    sample: Annotated[int, Field(ge=1)] = 1


class ArchivePolicy(ConfigModel):
    """config/archive.yaml.

    Attributes:
        select: records to archive; the first pattern that matches is used.
        metrics: domains whose records are metrics; records of all other domains are
            events.
        compression_level: zstd level; 1 is the fastest, 19 gives the smallest files.
    """

    select: tuple[Selection, ...] = ()
    metrics: frozenset[Domain] = frozenset()
    compression_level: Annotated[int, Field(ge=1, le=19)] = 9

    def class_of(self, domain: str) -> ArchiveClass:
        """The half of the archive to which the records of a domain belong."""
        return "metrics" if domain in self.metrics else "events"

    def one_in(self, routing_key: str) -> int:
        """Number ``n`` so that one record in ``n`` is archived; 0 for none."""
        for selection in self.select:
            if topic_matches(selection.pattern, routing_key):
                return selection.sample
        return 0


def sampled(routing_key: str, times: Sequence[float], one_in: int) -> Sequence[int]:
    """Indexes in ``times`` (epoch seconds) of the records of a message that are
    archived: one in ``one_in``. The result is the same at every call."""
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
    """One line of the archive: a JSON object without line breaks.

    Args:
        name: id of the record (see :func:`~meshtasks.records.envelope.record_id`).
        envelope: message of the record.
        record_json: the record, valid JSON in UTF-8; it is embedded unchanged.
        time: time of the record, epoch seconds.

    Returns:
        The object, with the members ``id``, ``exchange``, ``routing_key``, ``time``
        (RFC 3339 in UTC with milliseconds) and ``record``, in this order.
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
    """The excerpt of one message.

    Args:
        envelope: the message.
        times: times of its selected records, epoch seconds.
        places: indexes of these records in the array, ascending; (None,) if the message
            is not an array.

    Returns:
        A JSON object with ``exchange``, ``routing_key``, ``message_id`` (or null),
        ``times``, ``body`` (as text), and ``places`` unless these are 0, 1, 2, ….
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
    except UnicodeEncodeError:  # AMQP text may have lone surrogates, JSON may not
        made.exchange = without_surrogates(made.exchange)
        made.routing_key = without_surrogates(made.routing_key)
        made.message_id = made.message_id and without_surrogates(made.message_id)
        return _encode(made)


class Excerpt(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An excerpt, see :func:`excerpt`; the members are in the order of the JSON. It is
    also used to decode, so any publisher may have made the JSON."""

    exchange: str
    routing_key: str
    message_id: str | None
    times: Annotated[list[_Time], msgspec.Meta(min_length=1)]
    body: str
    places: Sequence[_Place] | None = None


_encode = msgspec.json.Encoder().encode


def archive_messages(excerpts: Sequence[bytes], domain_kind: str) -> Iterator[Outgoing]:
    """The messages that carry excerpts to the archive.

    They have no message id: the ids of the records are made from the excerpts.

    Args:
        excerpts: see :func:`excerpt`. An excerpt that is longer than
            :data:`MESSAGE_LIMIT_BYTES` has a message of its own.
        domain_kind: routing key of the messages, such as ``sensors.temperature``.
    """
    for body in arrays_of(excerpts, MESSAGE_LIMIT_BYTES):
        table: dict[str, object] = {headers.EXCERPTS: 1}
        yield Outgoing(ARCHIVE_EXCHANGE, domain_kind, body, headers=table)


@lru_cache(maxsize=16_384)
def _origin(exchange: str, routing_key: str) -> bytes:
    """The members ``exchange`` and ``routing_key``, cached for records of a device."""
    text = (
        f'"exchange":{encode_basestring(without_surrogates(exchange))},'
        f'"routing_key":{encode_basestring(without_surrogates(routing_key))}'
    )
    return text.encode()


ARCHIVE = ConfigFile("archive.yaml", ArchivePolicy)
