"""The dataset's files in the store: which there are now, writing those of an archive
object, and having them as local files."""

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
#: Small objects cost a round trip each, and several can be under way.
_FETCHES_AT_ONCE = 8


class ObjectGone(Transient):
    """Another host has compacted the dataset meanwhile; look again."""


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
        """Names of the archive objects without rows in the dataset.

        Args:
            partitions: of the dataset, with sources.
            only: objects of this UTC date.

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
        """Its sources; if they are lost, one that no other file has.

        The file is read then beside those that it replaced, if these are still
        there, until compaction has made one file of them all.
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
    """Adds what is archived to the dataset.

    A process without pyarrow adds nothing; ``meshtasks analytics compact`` adds
    later, from the archive, what is missing.

    Args:
        store: holds the archive, and the dataset.
        kinds: units of readings that name none.
        writes: False is as without pyarrow, whose memory is saved.
    """

    def __init__(
        self, store: ObjectStore, kinds: KindsConfig, *, writes: bool = True
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._writes = writes and find_spec("pyarrow") is not None

    def add(self, name: str, content: bytes) -> str | None:
        """Write the rows of an archive object; once more does no harm.

        What is wrong with rows is logged. It is no reason to hold up the archive,
        from which they can be made at any time.

        Returns:
            Why some rows, or all, are not written; None if all are.

        Raises:
            SinkUnavailable: the store is away; some rows may be written.
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
        """Write its rows; what is wrong with lines that have none."""
        from meshtasks.flows.analytics.parquet import parquet_of  # noqa: PLC0415

        rows = rows_of(content, self._kinds)
        for table in TABLES:
            if of_table := getattr(rows, table):
                data = parquet_of(table, of_table)
                self._store.put(data_file_name(archived, table), data, {})
        return rows.faults

    def probe(self) -> None:
        """Ask the store for a sign of life.

        Raises:
            SinkUnavailable: it gave none.
        """
        self._store.probe()

    def close(self) -> None:
        """Nothing is kept open but the store, which others use."""


class LocalFiles:
    """Files with the content of objects, for DuckDB to read.

    DuckDB's own S3 client is an extension that it downloads, so not for a machine
    without a way out, and would be a second place for keys, timeouts and error texts.
    Objects of a bucket are fetched through our own store instead and kept: they never
    change, so each is fetched once. Those of a directory are read where they are.

    Args:
        cache: directory for those of a bucket; made if missing. Anything in it may
            be deleted while no process uses it.
    """

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self._store = store
        self._cache = cache

    def paths(self, names: Collection[str]) -> list[str]:
        """A file for each object; those that are missing are fetched.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: an object is no longer there.
        """
        store = self._store
        if isinstance(store, FileStore):
            return [str(store.path(name)) for name in names]
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as fetches:
            return list(fetches.map(self._path, names))

    def forget(self, name: str) -> None:
        """Delete what is kept of an object."""
        (self._cache / name).unlink(missing_ok=True)

    def forget_deleted(self) -> None:
        """Delete the kept files of the dataset whose objects are gone.

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
        """Whether no process of this host reads; then none begins to, meanwhile."""
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


def _fetched(store: ObjectStore, name: str) -> bytes:
    """The content of an object that was listed a moment ago.

    Raises:
        SinkUnavailable: the store cannot be read.
        ObjectGone: it is no longer there.
    """
    try:
        return store.get(name)
    except SinkRejected as error:
        raise ObjectGone from error
