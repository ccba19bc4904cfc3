"""Compaction: makes one file of the many small files of a partition.

A worker writes a file for every archive batch, up to 2,880 per day and domain, and a
query spends its time opening them. With one file per day it is 40 times as fast
(432,000 readings: 11 ms instead of 470 ms), and the files take half the space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from meshtasks.config.settings import Settings
from meshtasks.errors import SinkRejected, Transient
from meshtasks.flows.analytics.database import quoted_files
from meshtasks.flows.analytics.dataset import (
    CACHE,
    Dataset,
    DatasetLock,
    DatasetWriter,
    LocalFiles,
)
from meshtasks.flows.analytics.layout import (
    ANALYTICS_PREFIX,
    DAMAGED_PREFIX,
    DataFile,
    Partition,
    Split,
    abandoned_sources,
    compacted_name,
    sources_name,
    sources_text,
)
from meshtasks.flows.analytics.parquet import COMPRESSION, SCHEMAS, fault_of_file
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import content_of
from meshtasks.records.kinds import KINDS

#: Memory limit of DuckDB; larger data is sorted in pieces, on disk.
_MEMORY_LIMIT = "1GB"
_ROWS_PER_GROUP = 122_880

#: Columns that identify a row. A record that two hosts have stored is in the dataset
#: twice, and compaction keeps one.
_IDENTITY = {
    "readings": "record_id",
    "metrics": "record_id, field",
    "events": "record_id",
}


@dataclass(slots=True)
class Compacted:
    """Result of a compaction, as numbers.

    Attributes:
        added: archive objects that were not in the dataset.
        before: files that were merged.
        after: files made of them.
        deleted: files deleted because other files have their rows.
        kept: such files that were not deleted because they are being read.
        damaged: files and archive objects that cannot be read.
    """

    added: int = 0
    before: int = 0
    after: int = 0
    deleted: int = 0
    kept: int = 0
    damaged: int = 0


class Compaction:
    """Compacts the dataset of a store.

    Args:
        report: called with one sentence for each step.
    """

    def __init__(
        self, settings: Settings, store: ObjectStore, report: Callable[[str], None]
    ) -> None:
        self._store = store
        self._dataset = Dataset(store)
        self._writer = DatasetWriter(store, settings.read(KINDS))
        self._files = LocalFiles(store, settings.env.state_dir / CACHE)
        self._lock = DatasetLock(settings.env.state_dir)
        self._report = report
        self._unread: set[str] = set()  # archive objects without rows

    def run(self, only: date | None = None) -> Compacted:
        """Add missing rows, merge files, and delete files that are no longer needed.

        This may be killed at any time: nothing is lost or counted twice, and the next
        run continues where it stopped.

        A file that cannot be read is moved aside, and its rows are made again from the
        archive. Files that need no merge are checked only if ``only`` is given.

        Args:
            only: UTC date to compact; all dates by default.

        Raises:
            SinkUnavailable: the store cannot be read or written.
            Transient: another process of this host is compacting.
            ObjectGone: another host is compacting.
        """
        done = Compacted()
        with self._lock.compacting():
            self._add_missing(only, done)
            aside: list[DataFile] = []
            for partition, split in self._partitions(only).items():
                if len(split.live) > 1:
                    aside += self._rewrite(partition, split, done)
                elif only:
                    aside += self._damaged(split.live)
            for file in aside:
                self._set_aside(file)
            done.damaged += len(aside)
            if aside:
                self._add_missing(only, done)
            self._clean_up(only, done)
        return done

    def _partitions(self, only: date | None) -> dict[Partition, Split]:
        found = self._dataset.partitions(with_sources=True)
        return {
            partition: split
            for partition, split in found.items()
            if only in (None, partition.date)
        }

    def _add_missing(self, only: date | None, done: Compacted) -> None:
        """Add archive objects that have no rows in the dataset."""
        # other processes that add the same objects write the same names and content
        found = self._dataset.missing(self._partitions(only), only)
        missing = [name for name in found if name not in self._unread]
        if missing:
            self._report(f"adding {len(missing)} archive objects")
        for name in missing:
            try:
                fault = self._writer.add(name, content_of(self._store, name))
            except SinkRejected as error:
                fault = str(error)
            if fault:
                self._report(f"{name}: {fault}")
                self._unread.add(name)
                done.damaged += 1
            else:
                done.added += 1

    def _rewrite(
        self, partition: Partition, split: Split, done: Compacted
    ) -> list[DataFile]:
        """Write one file that replaces all files of the partition.

        Returns:
            Files that cannot be read; if there are any, nothing is written.
        """
        self._report(f"{partition.prefix}: {len(split.live)} files become one")
        name = compacted_name(
            partition, chain(split.live, split.replaced), split.sources
        )
        paths = self._files.paths([file.name for file in split.live])
        try:
            data = self._merged(partition, paths)
        except (duckdb.Error, pa.ArrowException) as error:
            if damaged := self._damaged(split.live):
                return damaged
            message = f"{partition.prefix}: {error}"
            raise Transient(message) from error
        self._store.put(sources_name(name), sources_text(split.sources), {})
        self._store.put(name, data, {})
        done.before += len(split.live)
        done.after += 1
        return []

    def _damaged(self, files: Collection[DataFile]) -> list[DataFile]:
        """Return the files that cannot be read, and report each of them."""
        damaged = []
        paths = self._files.paths([file.name for file in files])
        for file, path in zip(files, paths, strict=True):
            if fault := fault_of_file(Path(path)):
                self._report(f"{file.name} is damaged: {fault}")
                damaged.append(file)
        return damaged

    def _set_aside(self, file: DataFile) -> None:
        """Move a damaged file to a prefix that no reader of the dataset lists."""
        aside = f"{DAMAGED_PREFIX}{file.name}"
        self._store.put(aside, self._store.get(file.name), {})
        self._store.delete(file.name)
        self._files.forget(file.name)
        self._report(f"it was moved to {aside}")

    def _merged(self, partition: Partition, paths: Iterable[str]) -> bytes:
        """Return the files' rows as Parquet, in order of time, without duplicates."""
        schema = SCHEMAS[partition.table]
        names = ", ".join(schema.names)
        identity = _IDENTITY[partition.table]
        query = (
            f"SELECT {names} FROM (SELECT DISTINCT ON ({identity}) * "  # noqa: S608 - quoted
            f"FROM read_parquet({quoted_files(paths)})) ORDER BY time, record_id"
        )
        with TemporaryDirectory(prefix="meshtasks-") as scratch:
            target = Path(scratch, "merged.parquet")
            with (
                duckdb.connect(
                    config={"memory_limit": _MEMORY_LIMIT, "temp_directory": scratch}
                ) as database,
                pq.ParquetWriter(target, schema, compression=COMPRESSION) as writer,
            ):
                rows = database.sql(query).to_arrow_reader(_ROWS_PER_GROUP)
                for batch in rows:
                    writer.write_batch(_cast(batch, schema))
            return target.read_bytes()

    def _clean_up(self, only: date | None, done: Compacted) -> None:
        """Delete files whose rows are in others, unless a process may read them."""
        replaced = [
            file for split in self._partitions(only).values() for file in split.replaced
        ]
        with self._lock.deleting() as nobody_reads:
            if not nobody_reads:
                done.kept = len(replaced)
                return
            for file in replaced:
                self._store.delete(file.name)
                done.deleted += 1
        # A file is deleted before its sources, without which it cannot be read.
        names = [info.name for info in self._store.list(ANALYTICS_PREFIX)]
        for name in abandoned_sources(names):
            self._store.delete(name)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with our types: DuckDB's times are in microseconds."""
    arrays = [batch.column(field.name).cast(field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
