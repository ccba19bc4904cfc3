"""Reading the archive: names and content of objects, and checks of both."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Iterator
from datetime import UTC, date, datetime, time
from typing import Annotated, NamedTuple, get_args

import msgspec

from meshtasks.errors import SchemaMismatch, SinkRejected
from meshtasks.flows.archive.layout import (
    SECONDS_PER_HOUR,
    Entry,
    domain_of,
    objects_of,
)
from meshtasks.flows.archive.objects import (
    DamagedObject,
    ObjectInfo,
    ObjectStore,
    archived_objects,
    decompress,
)
from meshtasks.flows.excerpts import ArchiveClass

_NAME = re.compile(
    r"(?P<archive_class>[a-z]+)/(?P<domain>[^/]+)"
    r"/date=(?P<date>\d{4}-\d\d-\d\d)/hour=(?P<hour>\d\d)"
    r"/(?P<stem>\d{8}T\d{6}Z-\d{8}T\d{6}Z-(?P<digest>[0-9a-f]{16})|[^/]+)\.jsonl\.zst"
)
#: Matches the name of the field in messages of the JSON decoder.
_FIELD = re.compile(r"(?:field `|at `\$\.)(?P<name>\w+)")


class ObjectName(NamedTuple):
    """The parts of an object's name.

    Attributes:
        domain: domain of its records, as in the directory's name.
        hour: start of the UTC hour of its records.
        stem: last word of the name, without its suffix.
        digest: digest of the ids of its records, 16 hex digits; None if the last word
            does not have the form of the mesh's names.
    """

    archive_class: ArchiveClass
    domain: str
    hour: datetime
    stem: str
    digest: str | None

    @property
    def day(self) -> date:
        """The UTC date."""
        return self.hour.date()


def parse_name(name: str) -> ObjectName | None:
    """Parse an object's name; None if it does not have the form of the mesh's names."""
    found = _NAME.fullmatch(name)
    if found is None or found["archive_class"] not in get_args(ArchiveClass):
        return None
    try:
        hour = datetime.fromisoformat(f"{found['date']}T{found['hour']}:00:00+00:00")
    except ValueError:
        return None
    archive_class: ArchiveClass = (
        "metrics" if found["archive_class"] == "metrics" else "events"
    )
    return ObjectName(
        archive_class, found["domain"], hour, found["stem"], found["digest"]
    )


class _Line(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    routing_key: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    record: msgspec.Raw
    exchange: str = ""


class ArchivedRecord(NamedTuple):
    """One record of the archive.

    Attributes:
        id: see :func:`~meshtasks.records.envelope.record_id`.
        exchange: exchange of its first publication.
        routing_key: routing key of its first publication.
        time: time of the record, epoch seconds.
        record: its JSON, as in the line.
        line: the whole line, without the line break.
    """

    id: str
    exchange: str
    routing_key: str
    time: float
    record: bytes
    line: bytes


_read_line = msgspec.json.Decoder(_Line).decode


def read_line(line: bytes) -> ArchivedRecord:
    """Parse one line of the archive; its record may be any JSON value.

    Raises:
        SchemaMismatch: it is not a valid line of the archive.
    """
    try:
        line.decode()  # the decoder does not check the bytes of the record
        read = _read_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaMismatch(_fault(str(error))) from error
    return ArchivedRecord(
        read.id,
        read.exchange,
        read.routing_key,
        read.time.timestamp(),
        bytes(read.record),
        line,
    )


def _fault(text: str) -> str:
    """Return the message, with the name of its field first."""
    field = _FIELD.search(text)
    return f"{field['name']}: {text}" if field else text


def records_in(content: bytes) -> Iterator[ArchivedRecord]:
    """Yield the records of an object, in order.

    Args:
        content: its lines, not compressed.

    Raises:
        SchemaMismatch: a line is not valid; the message has its number.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield read_line(line)
        except SchemaMismatch as error:
            message = f"line {number}: {error}"
            raise SchemaMismatch(message) from error


def fault_of(name: str, content: bytes) -> str | None:
    """Return what is wrong with an object; None if nothing is.

    The name is derived from the ids and times of the records. So it does not match if a
    record is missing or foreign, or if its id or time was changed.

    Args:
        content: its lines, not compressed.
    """
    parsed = parse_name(name)
    if parsed is None:
        return "the mesh gives no objects such names"
    try:
        entries = [
            Entry(record.id, domain_of(record.routing_key), record.time, record.line)
            for record in records_in(content)
        ]
    except SchemaMismatch as error:
        return str(error)
    should_be = objects_of(parsed.archive_class, entries)
    if [found.name for found in should_be] != [name]:
        return "its records are not those that its name was made of"
    return None


class Period(NamedTuple):
    """From ``start`` up to, not including, ``end``; epoch seconds."""

    start: float = -math.inf
    end: float = math.inf

    def meets_hour(self, hour: datetime) -> bool:
        """Whether the hour that begins then overlaps the period."""
        start = hour.timestamp()
        return start < self.end and start + SECONDS_PER_HOUR > self.start

    def meets_day(self, day: date) -> bool:
        """Whether the UTC date overlaps the period."""
        hours = (datetime.combine(day, time(hour), UTC) for hour in range(24))
        return any(map(self.meets_hour, hours))


class Found(NamedTuple):
    """An object of the archive; ``parsed`` is None if its name is not the mesh's."""

    info: ObjectInfo
    parsed: ObjectName | None


class Checked(NamedTuple):
    """Result of a check: number of records, and what is wrong with the object."""

    records: int
    fault: str | None


def objects_in(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> list[Found]:
    """List the objects of a period, the oldest hour first, foreign objects last.

    Args:
        period: objects whose hour overlaps it are listed.
        domains: domains to list; empty for all.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    objects = (Found(info, parse_name(info.name)) for info in archived_objects(store))
    wanted = [
        found
        for found in objects
        if found.parsed is None
        or (
            period.meets_hour(found.parsed.hour)
            and (not domains or found.parsed.domain in domains)
        )
    ]
    return sorted(wanted, key=_by_hour)


def check(store: ObjectStore, name: str) -> Checked:
    """Check that an object's bytes, records and metadata agree.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    try:
        data, metadata = store.read(name)
        content = decompress(data)
        records = sum(1 for _ in records_in(content))
    except SinkRejected as error:
        return Checked(0, str(error))
    except SchemaMismatch as error:
        return Checked(0, f"its content is damaged: {error}")
    digest = metadata.get("sha256")
    if digest is not None and digest != hashlib.sha256(data).hexdigest():
        return Checked(records, "its sha256 is not that of its metadata")
    if (count := metadata.get("count")) is not None and count != str(records):
        fault = f"it has {records} records, and {count} by its metadata"
        return Checked(records, fault)
    return Checked(records, fault_of(name, content))


def _by_hour(found: Found) -> tuple[float, str]:
    hour = found.parsed.hour.timestamp() if found.parsed else math.inf
    return hour, found.info.name


def content_of(store: ObjectStore, name: str) -> bytes:
    """Return the content of an object, not compressed.

    Raises:
        DamagedObject: the content is not what was stored.
        SinkRejected: there is no such object.
        SinkUnavailable: the store cannot be read.
    """
    try:
        return decompress(store.get(name))
    except DamagedObject as error:
        message = f"object {name}: {error}"
        raise DamagedObject(message) from error
