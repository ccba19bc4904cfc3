"""Which objects of the store make up the dataset right now."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path

from meshtasks.errors import Transient
from meshtasks.flows.analytics.layout import (
    ANALYTICS_PREFIX,
    DataFile,
    Partition,
    Split,
    archive_name,
    by_partition,
    data_file,
    read_sources,
    sources_fit,
    split,
)
from meshtasks.flows.analytics.local import ObjectGone, fetched
from meshtasks.flows.analytics.rows import TABLES, Table
from meshtasks.flows.archive.objects import ObjectStore, archived_objects
from meshtasks.state.lock import file_lock

logger = logging.getLogger(__name__)


class Dataset:
    """The Parquet files of a store.

    Args:
        store: holds the dataset.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._sources: dict[str, frozenset[str]] = {}  # they never change

    def partitions(
        self,
        tables: Iterable[Table] = TABLES,
        since: date | None = None,
        *,
        with_sources: bool = False,
    ) -> dict[Partition, Split]:
        """The files of each partition, as they are now.

        Args:
            tables: only of these.
            since: only of this UTC date and later ones.
            with_sources: give the sources of every partition; without it, they
                are read, and given, only where there is more than one file.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: another host deletes files at this moment.
        """
        found = (
            file
            for table in tables
            for each in self._store.list(f"{ANALYTICS_PREFIX}{table}/")
            if (file := data_file(*each))
            and (since is None or file.partition.date >= since)
        )
        return {
            partition: (
                split(files, self._sources_of)
                if with_sources or len(files) > 1
                else Split(tuple(files), (), frozenset())
            )
            for partition, files in by_partition(found).items()
        }

    def _sources_of(self, file: DataFile) -> frozenset[str]:
        name = file.sources_name
        if name not in self._sources:
            self._sources[name] = self._read_sources(file)
        return self._sources[name]

    def _read_sources(self, file: DataFile) -> frozenset[str]:
        """Its sources; if nobody can tell them any more, one that no other file has.

        The file is read then beside those that it replaced, if these are still
        there, until compaction has made one file of them all.
        """
        try:
            text = fetched(self._store, file.sources_name)
        except ObjectGone:
            if self._store.stat(file.name) is None:
                raise
            text = b""
        if sources_fit(file, text):
            return read_sources(text)
        logger.warning(
            "%s is missing or damaged: rows of %s may be counted twice until "
            "`meshtasks analytics compact` has run",
            file.sources_name,
            file.name,
        )
        return frozenset({file.digest})


def missing_objects(
    store: ObjectStore, partitions: Mapping[Partition, Split]
) -> Iterator[str]:
    """Names of the archive objects without rows in the dataset.

    Args:
        store: holds the archive.
        partitions: of the dataset, with sources.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    known: dict[tuple[str, date], frozenset[str]] = {}
    for partition, files in partitions.items():
        day = (partition.domain, partition.date)
        known[day] = known.get(day, frozenset()) | files.sources
    for each in archived_objects(store):
        if found := archive_name(each.name):
            there = known.get((found.domain, found.day), frozenset())
            if found.digest not in there:
                yield each.name


class DatasetLock:
    """Who may delete files of the dataset, and who compacts it, on this host.

    Args:
        directory: for the lock files; made if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._files = directory / "analytics.lock"
        self._compaction = directory / "analytics-compact.lock"

    def reading(self) -> AbstractContextManager[bool]:
        """No file that is listed now is deleted by this host meanwhile."""
        return file_lock(self._files, shared=True)

    def deleting(self) -> AbstractContextManager[bool]:
        """Whether nobody on this host reads; then nobody begins to, meanwhile."""
        return file_lock(self._files, timeout_seconds=0)

    @contextmanager
    def compacting(self) -> Iterator[None]:
        """Be the one process of this host that compacts.

        Raises:
            Transient: there is one already.
        """
        with file_lock(self._compaction, timeout_seconds=0) as held:
            if not held:
                raise Transient("another process of this host compacts the dataset")
            yield
