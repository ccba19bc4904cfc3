"""The archive as it is read: what the name of an object says, what is in it, and
whether both agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, NamedTuple, get_args

import msgspec

from meshtasks.errors import SchemaMismatch
from meshtasks.flows.archive.layout import Entry, domain_of, objects_of
from meshtasks.flows.excerpts import ArchiveClass

_NAME = re.compile(
    r"(?P<archive_class>[a-z]+)/(?P<domain>[^/]+)"
    r"/date=(?P<date>\d{4}-\d\d-\d\d)/hour=(?P<hour>\d\d)"
    r"/[^/]+\.jsonl\.zst"
)


#: Where the JSON reader's texts name a field.
_FIELD = re.compile(r"(?:field `|at `\$\.)(?P<name>\w+)")


class ObjectName(NamedTuple):
    """What an object's name says of it.

    Attributes:
        domain: of its records, as a directory is named.
        hour: epoch seconds of the UTC hour that its records are of.
    """

    archive_class: ArchiveClass
    domain: str
    hour: float

    @property
    def date(self) -> str:
        """The UTC date, as in ISO 8601."""
        return f"{datetime.fromtimestamp(self.hour, UTC):%Y-%m-%d}"


def parse_name(name: str) -> ObjectName | None:
    """What the name says; None if the mesh gives no such names."""
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
    return ObjectName(archive_class, found["domain"], hour.timestamp())


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
        SchemaMismatch: a line is not one of the archive's; says which.
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
        name: its name.
        content: its lines, not compressed.
    """
    said = parse_name(name)
    if said is None:
        return "the mesh gives no objects such names"
    try:
        entries = [
            Entry(each.id, domain_of(each.routing_key), each.time, each.line)
            for each in records_in(content)
        ]
    except SchemaMismatch as error:
        return str(error)
    should_be = objects_of(said.archive_class, entries)
    if [each.name for each in should_be] != [name]:
        return "its records are not those that its name was made of"
    return None
