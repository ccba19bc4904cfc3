"""The dataset's files in the store: lists them, writes those of an archive object, and
provides them as local files."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from meshtasks.config.private_files import (
    file_lock,
    make_private_directory,
    private_opener,
)
from meshtasks.errors import SinkRejected, SinkUnavailable, Transient
from meshtasks.flows.analytics.layout import (
    ANALYTICS_PREFIX,
    DataFile,
    Partition,
    Split,
    archive_name,
    by_partition,
    data_file,
    data_file_name,
    read_sources,
    sources_fit,
    sources_name,
    split,
)
from meshtasks.flows.analytics.rows import TABLES, Table, rows_of
from meshtasks.flows.archive.objects import FileStore, ObjectStore, archived_objects
from meshtasks.flows.archive.reading import ObjectName
from meshtasks.records.kinds import KindsConfig

logger = logging.getLogger(__name__)

#: Directory of fetched objects in the state directory.
CACHE = "analytics-cache"
#: Each fetch of a small object costs a round trip, so several run at once.
_FETCHES_AT_ONCE = 8


class ObjectGone(Transient):
    """Another host compacted the dataset at the same time; try again."""


class Dataset:
    """The Parquet files of a store."""

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
        """Return the current files of each partition.

        Args:
            tables: tables to include.
            since: UTC date; earlier partitions are left out.
            with_sources: include the sources of every partition. Otherwise they are
                read, and included, only for partitions with more than one file.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: another host is deleting files.
        """
        found = (
            file
            for table in tables
            for info in self._store.list(f"{ANALYTICS_PREFIX}{table}/")
            if (file := data_file(*info))
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

    def missing(
        self, partitions: Mapping[Partition, Split], only: date | None = None
    ) -> list[str]:
        """Return the names of archive objects without rows in the dataset.

        Args:
            partitions: partitions of the dataset, with sources.
            only: UTC date of the objects; all dates by default.

        Raises:
            SinkUnavailable: the store cannot be read.
        """
        known: dict[tuple[str, date], frozenset[str]] = {}
        for partition, files in partitions.items():
            day = (partition.domain, partition.date)
            known[day] = known.get(day, frozenset()) | files.sources
        return [
            info.name
            for info in archived_objects(self._store)
            if (found := archive_name(info.name))
            and only in (None, found.day)
            and found.digest not in known.get((found.domain, found.day), ())
        ]

    def _sources_of(self, file: DataFile) -> frozenset[str]:
        name = sources_name(file.name)
        if name not in self._sources:
            self._sources[name] = self._read_sources(file)
        return self._sources[name]

    def _read_sources(self, file: DataFile) -> frozenset[str]:
        """Return the sources of a compacted file; if they are lost, its own digest,
        which no other file has.

        The file is then read beside the files that it replaced, if they still exist,
        until compaction has made one file of all of them.
        """
        try:
            text = _fetched(self._store, sources_name(file.name))
        except ObjectGone:
            if self._store.stat(file.name) is None:
                raise
            text = b""
        if sources_fit(file, text):
            return read_sources(text)
        logger.warning(
            "%s is missing or damaged: rows of %s may be counted twice until "
            "`meshtasks analytics compact` has run",
            sources_name(file.name),
            file.name,
        )
        return frozenset({file.digest})


class DatasetWriter:
    """Adds archived objects to the dataset.

    A process without pyarrow adds nothing; ``meshtasks analytics compact`` later adds
    what is missing, from the archive.

    Args:
        store: store of the archive and the dataset.
        kinds: default units, for readings that name none.
        writes: False to add nothing, as without pyarrow. This saves pyarrow's memory.
    """

    def __init__(
        self, store: ObjectStore, kinds: KindsConfig, *, writes: bool = True
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._writes = writes and find_spec("pyarrow") is not None

    def add(self, name: str, content: bytes) -> str | None:
        """Write the rows of an archive object. It is harmless to repeat this.

        Rows that cannot be made are logged. They do not stop the archive, because they
        can be made from it at any time.

        Returns:
            Why some or all rows are not written; None if all are.

        Raises:
            SinkUnavailable: the store is unavailable; some rows may be written.
        """
        archived = archive_name(name)
        if not self._writes or archived is None:
            return None
        try:
            faults = self._write(archived, content)
        except SinkUnavailable:
            raise
        except SinkRejected as error:
            faults = [str(error)]
        except Exception as error:
            logger.exception("no rows could be made of the archive object %s", name)
            return f"{type(error).__name__}: {error}"
        if not faults:
            return None
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        fault = f"{faults[0]}{more}"
        logger.warning("not all of %s is in the analytics dataset: %s", name, fault)
        return fault

    def _write(self, archived: ObjectName, content: bytes) -> list[str]:
        """Write the rows; return what is wrong with lines that have none."""
        from meshtasks.flows.analytics.parquet import parquet_of  # noqa: PLC0415

        rows = rows_of(content, self._kinds)
        for table in TABLES:
            if of_table := getattr(rows, table):
                data = parquet_of(table, of_table)
                self._store.put(data_file_name(archived, table), data, {})
        return rows.faults

    def probe(self) -> None:
        """Check that the store is available.

        Raises:
            SinkUnavailable: it is not.
        """
        self._store.probe()

    def close(self) -> None:
        """Do nothing: only the store is kept open, and others use it."""


class LocalFiles:
    """Local files with the content of objects, for DuckDB.

    DuckDB's own S3 client is an extension that it downloads, so it does not work on a
    machine without internet access, and it would need its own keys, timeouts and error
    messages. Instead, objects of a bucket are fetched through :class:`ObjectStore` and
    kept: they never change, so each is fetched once. Objects of a directory are read
    directly.

    Args:
        cache: directory for objects of a bucket; created if missing. Its content may be
            deleted while no process uses it.
    """

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self._store = store
        self._cache = cache

    def paths(self, names: Collection[str]) -> list[str]:
        """Return a file for each object; missing files are fetched.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: an object was deleted.
        """
        store = self._store
        if isinstance(store, FileStore):
            return [str(store.path(name)) for name in names]
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as fetches:
            return list(fetches.map(self._path, names))

    def forget(self, name: str) -> None:
        """Delete the local copy of an object."""
        (self._cache / name).unlink(missing_ok=True)

    def forget_deleted(self) -> None:
        """Delete local copies of objects of the dataset that no longer exist.

        Raises:
            SinkUnavailable: the store cannot be read.
        """
        below = (self._cache / ANALYTICS_PREFIX).rglob("*")
        if kept := [path for path in below if path.is_file()]:
            there = {info.name for info in self._store.list(ANALYTICS_PREFIX)}
            for path in kept:
                if str(path.relative_to(self._cache)) not in there:
                    path.unlink()

    def _path(self, name: str) -> str:
        path = self._cache / name
        if not path.exists():
            data = _fetched(self._store, name)
            make_private_directory(path.parent)
            aside = path.with_name(f".{secrets.token_hex(16)}")
            with open(aside, "xb", opener=private_opener) as file:
                file.write(data)
            aside.rename(path)
        return str(path)


class DatasetLock:
    """Locks of this host for reading, deleting and compacting files of the dataset.

    Args:
        directory: directory of the lock files; created if missing.
    """

    def __init__(self, directory: Path) -> None:
        self._files = directory / "analytics.lock"
        self._compaction = directory / "analytics-compact.lock"

    def reading(self) -> AbstractContextManager[bool]:
        """Meanwhile, no process of this host deletes files of the dataset."""
        return file_lock(self._files, shared=True)

    def deleting(self) -> AbstractContextManager[bool]:
        """Yield whether no process of this host reads; if so, none begins meanwhile."""
        return file_lock(self._files, timeout_seconds=0)

    @contextmanager
    def compacting(self) -> Iterator[None]:
        """Compact, as the only process of this host.

        Raises:
            Transient: another process is compacting.
        """
        with file_lock(self._compaction, timeout_seconds=0) as held:
            if not held:
                raise Transient("another process of this host compacts the dataset")
            yield


def _fetched(store: ObjectStore, name: str) -> bytes:
    """Return the content of an object that was just listed.

    Raises:
        SinkUnavailable: the store cannot be read.
        ObjectGone: the object was deleted.
    """
    try:
        return store.get(name)
    except SinkRejected as error:
        raise ObjectGone from error
