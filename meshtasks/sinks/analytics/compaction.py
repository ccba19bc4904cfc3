"""Compaction: the many small files of a partition become one.

A worker writes a file for every archive batch, up to 2,880 a day and domain; a query
spends its time on opening them. With one file a day it runs 40 times as fast
(432,000 readings: 11 ms for 470), and the files take half the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from meshtasks.domain.dataset import (
    ANALYTICS_PREFIX,
    DataFile,
    Partition,
    Split,
    abandoned_sources,
    archive_name,
    compacted_name,
    sources_name,
    sources_text,
)
from meshtasks.settings import Settings
from meshtasks.sinks.analytics.dataset import Dataset, missing_objects
from meshtasks.sinks.analytics.local import CACHE, LocalFiles
from meshtasks.sinks.analytics.lock import DatasetLock
from meshtasks.sinks.analytics.parquet import COMPRESSION, SCHEMAS
from meshtasks.sinks.analytics.sql import quoted_files
from meshtasks.sinks.analytics.twins import Analytics
from meshtasks.sinks.objects import ObjectStore
from meshtasks.sinks.objects.zstd import decompress

#: What is larger is sorted in pieces, on disk.
_MEMORY_LIMIT = "1GB"
_ROWS_PER_GROUP = 122_880

#: A record that two hosts have stored, each once, is in the dataset twice.
_IDENTITY = {
    "readings": "record_id",
    "metrics": "record_id, field",
    "events": "record_id",
}


@dataclass(slots=True)
class Compacted:
    """What compaction has done.

    Attributes:
        added: archive objects that were not in the dataset.
        before: files that were rewritten.
        after: files they became.
        deleted: files of rows that are in others.
        kept: such files that somebody reads at the moment.
    """

    added: int = 0
    before: int = 0
    after: int = 0
    deleted: int = 0
    kept: int = 0


def open_compaction(
    settings: Settings, store: ObjectStore, report: Callable[[str], None]
) -> Compaction:
    """Compaction of this mesh's dataset; see :class:`Compaction`."""
    return Compaction(
        store,
        Analytics(store, settings.kinds),
        LocalFiles(store, settings.env.state_dir / CACHE),
        DatasetLock(settings.env.state_dir),
        report,
    )


class Compaction:
    """Compacts the dataset of a store.

    Args:
        store: holds archive and dataset.
        analytics: adds to the dataset.
        files: gives local files.
        lock: keeps other processes of this host from interfering.
        report: told what is being done, a sentence at a time.
    """

    def __init__(
        self,
        store: ObjectStore,
        analytics: Analytics,
        files: LocalFiles,
        lock: DatasetLock,
        report: Callable[[str], None],
    ) -> None:
        self._store = store
        self._dataset = Dataset(store)
        self._analytics = analytics
        self._files = files
        self._lock = lock
        self._report = report

    def run(self, only: date | None = None) -> Compacted:
        """Add what is missing, rewrite what is in pieces, delete what is left over.

        It may be killed at any moment: nothing is lost or counted twice, and the
        next run goes on where this one ended.

        Args:
            only: a UTC date; all of them by default.

        Raises:
            SinkUnavailable: the store cannot be read or written.
            Transient: another process of this host compacts.
            ObjectGone: another host does.
        """
        done = Compacted()
        with self._lock.compacting():
            done.added = self._add_missing(only)
            for partition, split in self._partitions(only).items():
                if len(split.live) > 1:
                    self._rewrite(partition, split)
                    done.before += len(split.live)
                    done.after += 1
            self._clean_up(only, done)
        return done

    def _partitions(self, only: date | None) -> dict[Partition, Split]:
        found = self._dataset.partitions(with_sources=True)
        return {
            partition: split
            for partition, split in found.items()
            if only in (None, partition.date)
        }

    def _add_missing(self, only: date | None) -> int:
        """Add archive objects that have no rows in the dataset; how many."""
        # what others are about to add too gets the same name and content
        missing = [
            name
            for name in missing_objects(self._store, self._partitions(only))
            if (found := archive_name(name)) and only in (None, found.date)
        ]
        if missing:
            self._report(f"adding {len(missing)} archive objects")
        for name in missing:
            self._analytics.add(name, decompress(self._store.get(name)))
        return len(missing)

    def _rewrite(self, partition: Partition, split: Split) -> None:
        """Write one file that stands for all files of the partition."""
        self._report(f"{partition.prefix}: {len(split.live)} files become one")
        name = compacted_name(
            partition, chain(split.live, split.replaced), split.sources
        )
        data = self._merged(partition, split.live)
        self._store.put(sources_name(name), sources_text(split.sources), {})
        self._store.put(name, data, {})

    def _merged(self, partition: Partition, files: Iterable[DataFile]) -> bytes:
        """Their rows in order of time, as Parquet; one for each that is twice."""
        schema = SCHEMAS[partition.table]
        paths = self._files.paths([file.name for file in files])
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
        """Delete files whose rows are in others, unless somebody may read them."""
        replaced = [
            file for split in self._partitions(only).values() for file in split.replaced
        ]
        with self._lock.alone() as nobody_reads:
            if not nobody_reads:
                done.kept = len(replaced)
                return
            for file in replaced:
                self._store.delete(file.name)
                done.deleted += 1
        # A file goes before its sources, without which it cannot be read.
        names = [each.name for each in self._store.list(ANALYTICS_PREFIX)]
        for name in abandoned_sources(names):
            self._store.delete(name)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with our types: DuckDB gives times in microseconds."""
    arrays = [batch.column(field.name).cast(field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
