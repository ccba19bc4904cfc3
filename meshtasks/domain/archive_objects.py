"""From archived records to the objects that hold them.

An object is zstd-compressed JSON lines of one domain and one UTC hour, named::

    events/<domain>/date=YYYY-MM-DD/hour=HH/<first>-<last>-<digest>.jsonl.zst

``first`` and ``last`` are the times of its records (``20261123T130700Z``), and
the digest is made of their ids. So the same records always make the same object
under the same name, and from an object's content its name can be checked: a
missing or foreign record gives another digest.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from meshtasks.domain.archiving import (
    LINES_HEADER,
    ArchiveClass,
    archive_line,
    rfc3339,
)
from meshtasks.domain.envelope import Envelope, record_id
from meshtasks.domain.errors import InvalidMessage, SchemaMismatch, UndecodableMessage
from meshtasks.domain.json_text import (
    array_members,
    first_not_json_number,
    on_one_line,
)
from meshtasks.domain.outcome import Dead
from meshtasks.domain.timestamps import InvalidTimestamp, epoch_seconds

SECONDS_PER_HOUR = 3600

#: Longest domain in an object's name; a routing key may have 255 bytes.
_DOMAIN_LIMIT_CHARS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Entry(NamedTuple):
    """One record on its way into an object.

    Attributes:
        id: see :func:`~meshtasks.domain.envelope.record_id`.
        domain: first word of its routing key, as published.
        time: epoch seconds.
        line: its archive line, without a line break.
    """

    id: str
    domain: str
    time: float
    line: bytes


class BadEntry(NamedTuple):
    """A record that cannot be archived, and the domain of its message."""

    domain: str
    dead: Dead


class ArchiveObject(NamedTuple):
    """An object to store.

    Attributes:
        name: its full name.
        ids: of its records.
        content: its lines, not yet compressed, in order of time.
        metadata: ``count``, ``first`` and ``last`` (RFC 3339), as text.
    """

    name: str
    ids: tuple[str, ...]
    content: bytes
    metadata: dict[str, str]


def entries_of(
    records: Iterable[Any], envelopes: Iterable[Envelope]
) -> Iterator[Entry | BadEntry]:
    """One entry per record of a batch, in order.

    Args:
        records: the parsed JSON values; all of those of each message.
        envelopes: for each record the message it came in; the records of an array
            message stand together and share one envelope object.
    """
    pairs = zip(records, envelopes, strict=True)
    for _, group in groupby(pairs, key=lambda pair: id(pair[1])):
        together = list(group)
        envelope = together[0][1]
        body = envelope.body.strip()
        texts = array_members(body) if body.startswith(b"[") else [body]
        if len(texts) > len(together):  # the worker refused those with NaN
            texts = [text for text in texts if first_not_json_number(text) is None]
        to_entry = _read_line if LINES_HEADER in envelope.headers else _wrap
        twins: Counter[bytes] = Counter()
        for (record, _), text in zip(together, texts, strict=True):
            try:
                yield to_entry(envelope, record, text, twins[text])
            except InvalidMessage as error:
                dead = Dead(str(error), type(error).__name__)
                yield BadEntry(domain_of(envelope.routing_key), dead)
            twins[text] += 1


def domain_of(routing_key: str) -> str:
    """The domain of a routing key: its first word."""
    return routing_key.partition(".")[0]


def objects_of(
    archive_class: ArchiveClass, entries: Iterable[Entry]
) -> list[ArchiveObject]:
    """The objects that hold these records: one per domain and hour.

    Args:
        archive_class: the half of the archive that all of them belong to.
        entries: with distinct ids.
    """
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        hour = int(entry.time // SECONDS_PER_HOUR)
        groups.setdefault((_safe(entry.domain), hour), []).append(entry)
    return [
        _object(f"{archive_class}/{domain}", hour, group)
        for (domain, hour), group in groups.items()
    ]


def _object(prefix: str, hour: int, entries: list[Entry]) -> ArchiveObject:
    entries.sort(key=lambda entry: (entry.time, entry.id))
    first, last = entries[0].time, entries[-1].time
    ids = sorted(entry.id for entry in entries)
    digest = hashlib.blake2b("\n".join(ids).encode(), digest_size=8).hexdigest()
    start = datetime.fromtimestamp(hour * SECONDS_PER_HOUR, UTC)
    return ArchiveObject(
        f"{prefix}/date={start:%Y-%m-%d}/hour={start:%H}/"
        f"{_compact(first)}-{_compact(last)}-{digest}.jsonl.zst",
        tuple(ids),
        b"".join(entry.line + b"\n" for entry in entries),
        {"count": str(len(ids)), "first": rfc3339(first), "last": rfc3339(last)},
    )


def _read_line(envelope: Envelope, record: Any, text: bytes, _twin: int) -> Entry:
    """A line that the mesh itself wrote; its form is checked all the same, since
    anyone may set a header."""
    match record:
        case {"id": str(name), "routing_key": str(key), "time": str(time), "record": _}:
            _refuse_not_json(text)
            seconds = epoch_seconds(time, envelope.received_at)
            return Entry(name, domain_of(key), seconds, on_one_line(text))
        case _:
            message = (
                f"the message has the header {LINES_HEADER}, but this is not an "
                "archive line: expected id, routing_key and time as text, and record"
            )
            raise SchemaMismatch(message)


def _wrap(envelope: Envelope, record: Any, text: bytes, twin: int) -> Entry:
    """Any other JSON: kept whatever it says, with a line around it."""
    _refuse_not_json(text)
    time = _time_of(envelope, record)
    return Entry(
        record_id(envelope, text, twin, time),
        domain_of(envelope.routing_key),
        round(time, 3),  # as the line has it, so that both fall into the same hour
        archive_line(envelope, text, twin, time),
    )


def _time_of(envelope: Envelope, record: Any) -> float:
    """The record's timestamp, else the message's, else its receipt. One that makes
    no sense is passed over: the record is kept, and its timestamp in it."""
    own = record.get("timestamp") if isinstance(record, dict) else None
    for stamp in (own, envelope.timestamp):
        if stamp is not None:
            with suppress(InvalidTimestamp):
                return epoch_seconds(stamp, envelope.received_at)
    return envelope.received_at


def _refuse_not_json(text: bytes) -> None:
    if name := first_not_json_number(text):
        message = f"the body is not JSON: {name} is not a number in JSON"
        raise UndecodableMessage(message)


def _safe(domain: str) -> str:
    """A domain as a directory name, whatever word a publisher came up with."""
    return _UNSAFE.sub("-", domain)[:_DOMAIN_LIMIT_CHARS] or "unnamed"


def _compact(time: float) -> str:
    return f"{datetime.fromtimestamp(int(time), UTC):%Y%m%dT%H%M%SZ}"
