"""Reading the archive back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import NamedTuple

from meshtasks.errors import SchemaMismatch, SinkRejected
from meshtasks.flows.archive.archived import (
    ObjectName,
    fault_of,
    parse_name,
    records_in,
)
from meshtasks.flows.archive.objects import ObjectInfo, ObjectStore, archived_objects
from meshtasks.flows.archive.objects.store import DamagedObject
from meshtasks.flows.archive.objects.zstd import decompress


class Period(NamedTuple):
    """From one moment up to, not including, another; epoch seconds."""

    start: float
    end: float

    def meets_hour(self, hour: float) -> bool:
        """Whether any of the hour that begins then is in it."""
        return hour < self.end and hour + 3_600 > self.start


class Found(NamedTuple):
    """An object of the archive; ``said`` is None if its name is not the mesh's."""

    info: ObjectInfo
    said: ObjectName | None


class Checked(NamedTuple):
    """A look into an object: how many records it has, and what is wrong with it."""

    records: int
    fault: str | None


def objects_in(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> list[Found]:
    """The objects of a period, the oldest hour first; foreign ones at the end.

    Args:
        store: the object store.
        period: those whose hour has any of it.
        domains: of these; of all if there are none.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    found = [Found(info, parse_name(info.name)) for info in archived_objects(store)]
    wanted = [
        each
        for each in found
        if each.said is None
        or (period.meets_hour(each.said.hour) and _is_of(each.said, domains))
    ]
    return sorted(wanted, key=_by_hour)


def check(store: ObjectStore, name: str) -> Checked:
    """Look into an object: whether its bytes, its records, and what the store knows of
    both agree.

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
    said = metadata.get("sha256")
    if said is not None and said != hashlib.sha256(data).hexdigest():
        return Checked(records, "its sha256 is not that of its metadata")
    if (count := metadata.get("count")) is not None and count != str(records):
        fault = f"it has {records} records, and {count} by its metadata"
        return Checked(records, fault)
    return Checked(records, fault_of(name, content))


def _is_of(said: ObjectName, domains: Collection[str]) -> bool:
    return not domains or said.domain in domains


def _by_hour(found: Found) -> tuple[float, str]:
    return (found.said.hour if found.said else float("inf"), found.info.name)


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
