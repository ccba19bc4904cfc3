"""Reading the archive: names of objects, their content, and whether both agree."""

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
#: Where the JSON reader's texts name a field.
_FIELD = re.compile(r"(?:field `|at `\$\.)(?P<name>\w+)")


class ObjectName(NamedTuple):
    """The parts of an object's name.

    Attributes:
        domain: of its records, as a directory is named.
        hour: the UTC hour that its records are of.
        stem: the name without directory and suffix.
        digest: of the ids of its records, 16 hex digits; None if the last word of the
            name is not the mesh's.
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
    """The parts of the name; None if the mesh gives no such names."""
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
        exchange: of first publication.
        routing_key: of first publication.
        time: epoch seconds; when it was made.
        record: its JSON, as it stands there.
        line: the whole line, without the line's end.
    """

    id: str
    exchange: str
    routing_key: str
    time: float
    record: bytes
    line: bytes


_read_line = msgspec.json.Decoder(_Line).decode


def read_line(line: bytes) -> ArchivedRecord:
    """One line of the archive, whatever JSON its record is.

    Raises:
        SchemaMismatch: it is not a line of the archive, or not any more.
    """
    try:
        line.decode()  # of the record nothing is looked at otherwise
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
    """A fault, its field first."""
    field = _FIELD.search(text)
    return f"{field['name']}: {text}" if field else text


def records_in(content: bytes) -> Iterator[ArchivedRecord]:
    """The records of an object, in their order.

    Args:
        content: its lines, not compressed.

    Raises:
        SchemaMismatch: a line is not one of the archive's; the text has its number.
    """
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            yield read_line(line)
        except SchemaMismatch as error:
            message = f"line {number}: {error}"
            raise SchemaMismatch(message) from error


def fault_of(name: str, content: bytes) -> str | None:
    """What is wrong with an object, by its name and content; None if nothing is.

    The name is made of the ids and times of the records, so one that is missing,
    foreign or changed in either does not fit it.

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
    """From one moment up to, not including, another; epoch seconds."""

    start: float = -math.inf
    end: float = math.inf

    def meets_hour(self, hour: datetime) -> bool:
        """Whether any of the hour that begins then is in it."""
        start = hour.timestamp()
        return start < self.end and start + SECONDS_PER_HOUR > self.start

    def meets_day(self, day: date) -> bool:
        """Whether any of the UTC date is in it."""
        hours = (datetime.combine(day, time(hour), UTC) for hour in range(24))
        return any(map(self.meets_hour, hours))


class Found(NamedTuple):
    """An object of the archive; ``parsed`` is None if its name is not the mesh's."""

    info: ObjectInfo
    parsed: ObjectName | None


class Checked(NamedTuple):
    """A look into an object: how many records it has, and what is wrong with it."""

    records: int
    fault: str | None


def objects_in(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> list[Found]:
    """The objects of a period, the oldest hour first; foreign ones at the end.

    Args:
        period: those whose hour has any of it.
        domains: of these; of all if there are none.

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
    """Look into an object: whether its bytes, its records and its metadata agree.

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
    """The content of an object, not compressed.

    Raises:
        DamagedObject: it is not what was stored.
        SinkRejected: it is not there.
        SinkUnavailable: the store cannot be read.
    """
    try:
        return decompress(store.get(name))
    except DamagedObject as error:
        message = f"object {name}: {error}"
        raise DamagedObject(message) from error
