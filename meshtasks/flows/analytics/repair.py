"""Repair of the archive: restores lost objects from the rows of the dataset.

After a power failure, an object may be missing, truncated, or zeros of the right length
(if the object store responds before its disk has written). The dataset has the records
of every object that was added to it. The name of an object has the digest of the ids of
its records, which shows whether the rows that were found are complete.

The dataset has an event as the JSON that was published. It has readings and metrics as
values in canonical units; their records are written again from these, with their own id
and time. An object is restored under its own name if all its records are found. If some
are missing, or the object of a record is unknown (compaction keeps only digests), the
records are written to new objects.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq

from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY, Topology
from meshtasks.config.settings import Settings
from meshtasks.errors import SinkRejected
from meshtasks.flows.analytics.dataset import CACHE, DatasetLock, LocalFiles
from meshtasks.flows.analytics.layout import DAMAGED_PREFIX, DataFile, Partition, Split
from meshtasks.flows.analytics.parquet import fault_of_file
from meshtasks.flows.analytics.rows import Table
from meshtasks.flows.archive.layout import (
    SECONDS_PER_HOUR,
    ArchiveObject,
    Entry,
    domain_of,
    objects_of,
)
from meshtasks.flows.archive.objects import ObjectStore, compress
from meshtasks.flows.archive.reading import (
    Period,
    check,
    content_of,
    parse_name,
    records_in,
)
from meshtasks.flows.excerpts import ARCHIVE, archive_line
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import rfc3339

#: Domain and UTC date; a day is repaired as a whole.
Day = tuple[str, date]

#: Number of rows that are read from a file at a time.
_ROWS_AT_ONCE = 10_000

_encode = msgspec.json.Encoder().encode


class Repaired(NamedTuple):
    """Result of the repair of one day, or its plan.

    Attributes:
        restored: objects restored under their own names.
        same_bytes: restored objects that are identical to what was stored, by the
            sha256 in the metadata of the damaged object.
        others: new objects, with records whose own object is unknown.
        records: number of records in restored and new objects.
        aside: damaged objects whose records are in other objects, moved below
            ``damaged/``.
        lost: damaged objects of which no record is found; they are not changed.
        faults: files of the dataset that cannot be read.
    """

    restored: list[str]
    same_bytes: list[str]
    others: list[str]
    records: int
    aside: list[str]
    lost: list[str]
    faults: list[str]


class _Row(NamedTuple):
    """A row, with its file and table."""

    file: DataFile
    table: Table
    values: dict[str, Any]


class Repair:
    """Restores objects of the archive.

    Args:
        partitions: partitions of the dataset, with sources. They must have been listed
            before the archive, so that the archive had all that the dataset has.
        names: names of all objects of the archive.
        damaged: names of damaged objects.
        period: only hours that overlap it are repaired.
        dry: only find out what to do; write nothing.
    """

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        partitions: Mapping[Partition, Split],
        names: Collection[str],
        damaged: Collection[str],
        period: Period,
        *,
        dry: bool,
    ) -> None:
        self._store = store
        self._policy = settings.read(ARCHIVE)
        self._files = LocalFiles(store, settings.env.state_dir / CACHE)
        self._lock = DatasetLock(settings.env.state_dir)
        self._exchanges = _Exchanges(settings.read(TOPOLOGY))
        self._period = period
        self._dry = dry
        self._splits: defaultdict[Day, dict[Partition, Split]] = defaultdict(dict)
        for partition, split in partitions.items():
            self._splits[partition.domain, partition.date][partition] = split
        self._sound: defaultdict[Day, list[str]] = defaultdict(list)
        self._damaged: defaultdict[Day, list[str]] = defaultdict(list)
        for name in names:
            if parsed := parse_name(name):
                of_day = self._damaged if name in damaged else self._sound
                of_day[parsed.domain, parsed.day].append(name)

    def days(self, domains: Collection[str]) -> list[Day]:
        """Return the days with damaged objects, or with missing ones that the dataset
        has.

        Args:
            domains: domains to include; empty for all.
        """
        days = {*self._damaged, *(day for day in self._splits if self._lacks(day))}
        return sorted(
            (domain, day)
            for domain, day in days
            if self._period.meets_day(day) and (not domains or domain in domains)
        )

    def _lacks(self, day: Day) -> bool:
        """Whether the dataset has sources that are not in the archive. (If the sources
        of a file are lost, its own digest takes their place.)"""
        sources = {one for split in self._splits[day].values() for one in split.sources}
        return not sources <= set(map(_digest, self._sound[day]))

    def run(self, day: Day) -> Repaired:
        """Restore what is missing on a day.

        Intact objects are not changed, and a second run finds nothing to do.

        Raises:
            SinkUnavailable: the store cannot be read or written.
            ObjectGone: another host is compacting the dataset.
        """
        done = Repaired([], [], [], 0, [], [], [])
        held = self._ids_and_exchanges(self._sound[day])
        with self._lock.reading():
            rows = list(self._rows(day, held, done.faults))
        free = {each.id: each for each in self._entries(rows)}
        found = self._whole_objects(day, rows, free)
        for item in found.values():
            for name in item.ids:
                free.pop(name, None)
        others = objects_of(self._policy.class_of(day[0]), free.values())
        for item in found.values():
            records = self._put(item, done.restored, done.same_bytes)
            done = done._replace(records=done.records + records)
        for item in others:
            records = self._put(item, done.others, [])
            done = done._replace(records=done.records + records)
        for name in self._damaged[day]:
            if name not in found:
                self._set_aside(name, others, done)
        return done

    # --- finding records --------------------------------------------------------

    def _rows(
        self, day: Day, held: Collection[str], faults: list[str]
    ) -> Iterator[_Row]:
        """Yield the rows of a day's files whose records are in no intact object."""
        for partition, split in self._splits[day].items():
            for file in split.live:
                (path,) = self._files.paths([file.name])
                if fault := fault_of_file(Path(path)):
                    self._files.forget(file.name)
                    faults.append(f"{file.name}: {fault}")
                    continue
                for row in _rows_in(path):
                    if row["record_id"] not in held:
                        yield _Row(file, partition.table, row)

    def _entries(self, rows: Iterable[_Row]) -> Iterator[Entry]:
        """Yield the records of the rows; a metric has a row for each of its fields."""
        of_record: defaultdict[str, list[_Row]] = defaultdict(list)
        for row in rows:
            of_record[row.values["record_id"]].append(row)
        for name, parts in of_record.items():
            first = parts[0].values
            routing_key, time = first["routing_key"], _epoch(first["time"])
            if not self._period.meets_hour(_hour(time)):
                continue
            record = _MAKERS[parts[0].table]([part.values for part in parts])
            exchange = self._exchanges.of(routing_key)
            source = Envelope(b"", exchange, routing_key, "", None, None, time, {})
            line = archive_line(name, source, record, time)
            yield Entry(name, domain_of(routing_key), time, line)

    def _ids_and_exchanges(self, names: Iterable[str]) -> set[str]:
        """Return the ids of records in intact objects; learn the exchanges as well."""
        ids: set[str] = set()
        for name in names:
            parsed = parse_name(name)
            if parsed is None or not self._period.meets_hour(parsed.hour):
                continue  # not checked, so it may be damaged
            for record in records_in(content_of(self._store, name)):
                ids.add(record.id)
                self._exchanges.learn(record.routing_key, record.exchange)
        return ids

    def _whole_objects(
        self,
        day: Day,
        rows: Iterable[_Row],
        free: Mapping[str, Entry],
    ) -> dict[str, ArchiveObject]:
        """Return the lost objects of which all records are found, by name."""
        lost = {one for split in self._splits[day].values() for one in split.sources}
        lost |= set(map(_digest, self._damaged[day]))
        lost -= set(map(_digest, self._sound[day]))
        of_file: defaultdict[str, set[str]] = defaultdict(set)
        for file, _, row in rows:
            if not file.generation:  # the file of one object, with the object's digest
                of_file[file.digest].add(row["record_id"])
        groups = [[free[one] for one in ids if one in free] for ids in of_file.values()]
        groups.append(list(free.values()))  # objects_of makes an object of each hour
        groups += [list(_between(free.values(), name)) for name in self._damaged[day]]
        found: dict[str, ArchiveObject] = {}
        for group in groups:
            for item in objects_of(self._policy.class_of(day[0]), group):
                if _digest(item.name) in lost:
                    own = self._own_name(item.name, day)
                    found[own] = item._replace(name=own)
        return found

    def _own_name(self, name: str, day: Day) -> str:
        """Return the name of a damaged object. Its class may have been another."""
        stem = name.rpartition("/")[2]
        own = (one for one in self._damaged[day] if one.rpartition("/")[2] == stem)
        return next(own, name)

    # --- writing objects --------------------------------------------------------

    def _put(
        self, item: ArchiveObject, written: list[str], same_bytes: list[str]
    ) -> int:
        """Store an object unless it exists intact; return the number of its records."""
        if self._store.stat(item.name) and not check(self._store, item.name).fault:
            return 0
        data = compress(item.content, self._policy.compression_level)
        sha256 = hashlib.sha256(data).hexdigest()
        if self._noted(item.name) == sha256:
            same_bytes.append(item.name)
        if not self._dry:
            self._store.put(item.name, data, {**item.metadata, "sha256": sha256})
        written.append(item.name)
        return len(item.ids)

    def _noted(self, name: str) -> str | None:
        """Return the sha256 in the metadata of the present object, or None."""
        try:
            return self._store.read(name).metadata.get("sha256")
        except SinkRejected:
            return None

    def _set_aside(
        self, name: str, others: Iterable[ArchiveObject], done: Repaired
    ) -> None:
        """Move a damaged object below ``damaged/`` if records of its time are in other
        objects; otherwise leave it."""
        data, metadata = self._store.read(name)
        had = metadata.get("count")
        count = sum(1 for _ in _between(_times(others), name))
        if not count:
            of = f"its {had} records" if had else "its records"
            done.lost.append(f"{name}: none of {of} is in the dataset")
            return
        of = f" of the {had} that it had" if had else ""
        text = f"{name}: {count} records of its time{of} are in other objects"
        done.aside.append(f"{text}; it goes to {DAMAGED_PREFIX}{name}")
        if not self._dry:
            self._store.put(f"{DAMAGED_PREFIX}{name}", data, metadata)
            self._store.delete(name)


def _rows_in(path: str) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()


class _Exchanges:
    """The exchanges to which records were published. They are not in the dataset; they
    are taken from intact objects of the same day, or else from the topology."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._seen: dict[str, str] = {}

    def learn(self, routing_key: str, exchange: str) -> None:
        """Note that a record of this routing key was published to this exchange."""
        self._seen[routing_key] = self._seen[domain_of(routing_key)] = exchange

    def of(self, routing_key: str) -> str:
        """Return the most likely exchange."""
        domain = domain_of(routing_key)
        if known := self._seen.get(routing_key) or self._seen.get(domain):
            return known
        for exchange in self._topology.exchanges:
            if exchange.type == "topic" and exchange.name != ARCHIVE_EXCHANGE:
                reached = self._topology.handled_queues(exchange.name, routing_key)
                if reached:
                    return exchange.name
        names = {exchange.name for exchange in self._topology.exchanges}
        return domain if domain in names else ARCHIVE_EXCHANGE


def _reading(parts: list[dict[str, Any]]) -> bytes:
    row = parts[0]
    return _encode(
        {
            name: value
            for name, value in (
                ("sensor_id", row["sensor_id"]),
                ("value", row["value"]),
                ("unit", row["unit"]),
                ("location", row["location"]),
                ("timestamp", rfc3339(_epoch(row["time"]))),
            )
            if value is not None
        }
    )


def _metric(parts: list[dict[str, Any]]) -> bytes:
    row = parts[0]
    fields = {
        part["field"]: part["text"] if part["value"] is None else part["value"]
        for part in parts
    }
    only = fields.keys() == {"value"}
    record = {
        "name": row["name"],
        **(fields if only else {"fields": fields}),
        "tags": dict(row["tags"] or ()),
        "timestamp": rfc3339(_epoch(row["time"])),
    }
    return _encode(record)


def _event(parts: list[dict[str, Any]]) -> bytes:
    text: str = parts[0]["record"]
    return text.encode()


_MAKERS: Mapping[Table, Callable[[list[dict[str, Any]]], bytes]] = {
    "readings": _reading,
    "metrics": _metric,
    "events": _event,
}


def _epoch(moment: datetime) -> float:
    return round(moment.timestamp(), 3)


def _hour(time: float) -> datetime:
    return datetime.fromtimestamp(time // SECONDS_PER_HOUR * SECONDS_PER_HOUR, UTC)


def _digest(name: str) -> str:
    parsed = parse_name(name)
    return (parsed and parsed.digest) or ""


def _between(entries: Iterable[Entry], name: str) -> Iterator[Entry]:
    """Yield the entries within the times in an object's name (whole seconds)."""
    parsed = parse_name(name)
    if parsed is None or parsed.digest is None:
        return
    first, last, _ = parsed.stem.rsplit("-", 2)
    start, end = _moment(first), _moment(last) + 1.0
    for entry in entries:
        if start <= entry.time < end:
            yield entry


def _times(objects: Iterable[ArchiveObject]) -> Iterator[Entry]:
    for item in objects:
        for record in records_in(item.content):
            yield Entry(record.id, "", record.time, b"")


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
