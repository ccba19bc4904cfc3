"""Objects of the archive, made from records.

An object is zstd-compressed JSON lines of one domain and one UTC hour, named::

    events/<domain>/date=YYYY-MM-DD/hour=HH/<first>-<last>-<digest>.jsonl.zst

``first`` and ``last`` are times of its records (``20261123T130700Z``), and the digest
is computed from the ids of the records. So the same records always give the same object
with the same name, and the name can be checked against the content: a missing or
foreign record gives another digest.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count, groupby
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from pydantic_core import from_json

from meshtasks.amqp import headers
from meshtasks.errors import SchemaMismatch
from meshtasks.flows.excerpts import (
    TIMES_END,
    ArchiveClass,
    Excerpt,
    archive_line,
)
from meshtasks.outcome import Dead
from meshtasks.records.envelope import Envelope, record_id
from meshtasks.records.json_text import first_not_json_number, members_of
from meshtasks.records.timestamps import (
    InvalidTimestamp,
    epoch_seconds,
    rfc3339,
    utc_of,
)

SECONDS_PER_HOUR = 3600

#: Maximum length of a domain in an object's name; a routing key may have 255 bytes.
_DOMAIN_LIMIT_CHARS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Entry(NamedTuple):
    """One record to archive.

    Attributes:
        id: see :func:`~meshtasks.records.envelope.record_id`.
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
        name: full name.
        ids: ids of its records.
        content: its lines in order of time, not compressed.
        metadata: ``count``, ``first`` and ``last`` (RFC 3339), as text.
    """

    name: str
    ids: tuple[str, ...]
    content: bytes
    metadata: dict[str, str]


def entries_of(
    records: Iterable[Any],
    envelopes: Iterable[Envelope],
    indexes: Iterable[int | None],
    is_wanted: Callable[[str], bool] = lambda _domain: True,
) -> Iterator[tuple[int, Entry | BadEntry]]:
    """Yield the entries of a batch, each with the index of the record from which it is
    made. Records that were replayed from the archive are omitted.

    Args:
        records: parsed JSON values; all valid records of each message.
        envelopes: for each record, the envelope of its message. Records of an array
            are consecutive and share one envelope object.
        indexes: for each record, its index in the array; None if there is no array.
        is_wanted: whether to include a domain.
    """
    found = zip(count(), records, envelopes, indexes, strict=False)
    for _, group in groupby(found, key=lambda item: id(item[2])):
        together = list(group)
        envelope = together[0][2]
        if envelope.is_archived:
            continue
        if headers.EXCERPTS in envelope.headers:
            for number, record, _, _ in together:
                for entry in _read_excerpt(record, envelope, is_wanted):
                    yield number, entry
        elif is_wanted(domain_of(envelope.routing_key)):
            # any other message is kept unchanged, whatever its JSON is
            members = members_of(envelope.body)
            texts = [members[index or 0] for _, _, _, index in together]
            times = [_time_of(envelope, record) for _, record, _, _ in together]
            entries = _entries(envelope, texts, times)
            for (number, _, _, _), entry in zip(together, entries, strict=True):
                yield number, entry


def domain_of(routing_key: str) -> str:
    """Return the domain of a routing key: its first word."""
    return routing_key.partition(".")[0]


def objects_of(
    archive_class: ArchiveClass, entries: Iterable[Entry]
) -> list[ArchiveObject]:
    """Make the objects of these records: one per domain and hour.

    Args:
        archive_class: class of all the records.
        entries: entries with distinct ids.
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
    start = utc_of(hour * SECONDS_PER_HOUR)
    return ArchiveObject(
        f"{prefix}/date={start:%Y-%m-%d}/hour={start:%H}/"
        f"{_compact(first)}-{_compact(last)}-{digest}.jsonl.zst",
        tuple(ids),
        b"".join(entry.line + b"\n" for entry in entries),
        {"count": str(len(ids)), "first": rfc3339(first), "last": rfc3339(last)},
    )


def _read_excerpt(
    record: Any, carrier: Envelope, is_wanted: Callable[[str], bool]
) -> Iterator[Entry | BadEntry]:
    """Yield the records of an excerpt, or the reason why it is invalid."""
    try:
        found = msgspec.convert(record, Excerpt)
    except msgspec.ValidationError as error:
        if is_wanted(domain_of(carrier.routing_key)):
            yield _bad(carrier, f"the header {headers.EXCERPTS} is set: {error}")
        return
    if not is_wanted(domain_of(found.routing_key)):
        return
    source = replace(
        carrier,
        exchange=found.exchange,
        routing_key=found.routing_key,
        message_id=found.message_id,
    )
    try:
        body = found.body.encode()
        from_json(body)  # raises ValueError if it is not JSON
        members = members_of(body)
        indexes = range(len(found.times)) if found.places is None else found.places
        texts = [members[index] for index, _ in zip(indexes, found.times, strict=True)]
    except (ValueError, IndexError, RecursionError) as error:
        yield _bad(source, f"the body of an excerpt is not what it claims: {error}")
        return
    yield from _entries(source, texts, found.times)


def _entries(
    source: Envelope, texts: Sequence[bytes], times: Sequence[float]
) -> Iterator[Entry | BadEntry]:
    domain = domain_of(source.routing_key)
    occurrences: Counter[bytes] = Counter()
    for text, time in zip(texts, times, strict=True):
        if number := first_not_json_number(text):
            yield _bad(source, f"the body is not JSON: {number} is no number there")
            continue
        name = record_id(source, text, occurrences[text], time)
        occurrences[text] += 1
        line = archive_line(name, source, text, time)
        # rounded as in the line, so that both are in the same hour
        yield Entry(name, domain, round(time, 3), line)


def _bad(envelope: Envelope, reason: str) -> BadEntry:
    dead = Dead(reason, SchemaMismatch.__name__)
    return BadEntry(domain_of(envelope.routing_key), dead)


def _time_of(envelope: Envelope, record: Any) -> float:
    """Return the time of the record, else of the message, else of its receipt; epoch
    seconds. Invalid timestamps are ignored, because the record itself is kept. The time
    of receipt may come from a header, so it may be any number."""
    own = record.get("timestamp") if isinstance(record, dict) else None
    for stamp in (own, envelope.timestamp):
        if stamp is not None:
            with suppress(InvalidTimestamp):
                return min(epoch_seconds(stamp, envelope.received_at), TIMES_END - 1.0)
    received_at = envelope.received_at
    return min(received_at, TIMES_END - 1.0) if received_at >= 0 else 0.0


def _safe(domain: str) -> str:
    """Return a domain as a valid directory name; publishers may use any word."""
    return _UNSAFE.sub("-", domain)[:_DOMAIN_LIMIT_CHARS] or "unnamed"


def _compact(time: float) -> str:
    return f"{utc_of(int(time)):%Y%m%dT%H%M%SZ}"
