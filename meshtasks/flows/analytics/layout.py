"""Which Parquet files make up the analytics dataset, and which stand for others.

The dataset follows from the archive: each archive object has a *data file* per
table, with the rows of its records, whose name follows from the object's::

    analytics/<table>/domain=<domain>/date=YYYY-MM-DD/<first>-<last>-<digest>.parquet

These are small, so compaction writes all rows of a partition (one table, domain and
UTC date) into one file, and notes the digests of the archive objects they come from,
its *sources*, in a second object::

    …/_compacted-<generation>-<digest>.sources
    …/compacted-<generation>-<digest>.parquet

The sources are there before the file, and what the file replaces is deleted after
it. So whenever compaction is interrupted, and even if a data file is written once
more later, a reader that passes over what is in a newer file's sources sees every
row once. Compaction always takes a whole partition, so of two files that share
sources one has all sources of the other; even of two that were made at the same time.

The names sort so that a compacted file comes after all it replaces: a listing in
order that misses a deleted file meets the one that stands for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import date
from itertools import groupby
from typing import NamedTuple

from meshtasks.flows.analytics.rows import Table
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import ObjectName, parse_name

#: Prefix of the names of all objects of the dataset.
ANALYTICS_PREFIX = "analytics/"
#: What stands before the names of files that turned out to be damaged.
DAMAGED_PREFIX = "damaged/"

_FILE_NAME = re.compile(
    r"analytics/(?P<table>readings|metrics|events)/domain=(?P<domain>[^/]+)/"
    r"date=(?P<date>\d{4}-\d\d-\d\d)/"
    r"(?:compacted-(?P<generation>\d{6})|\d{8}T\d{6}Z-\d{8}T\d{6}Z)-"
    r"(?P<digest>[0-9a-f]{16})\.parquet"
)
_SOURCES_NAME = re.compile(
    r"(?P<prefix>.*/)_(?P<stem>compacted-(?P<generation>\d{6})-[0-9a-f]{16})\.sources"
)


class Partition(NamedTuple):
    """The files that are read, and compacted, together."""

    table: Table
    domain: str
    date: date

    @property
    def prefix(self) -> str:
        """What the names of its objects begin with."""
        return (
            f"{ANALYTICS_PREFIX}{self.table}/domain={self.domain}/"
            f"date={self.date.isoformat()}/"
        )


class DataFile(NamedTuple):
    """A Parquet file of the dataset.

    Attributes:
        partition: where it belongs.
        generation: how many compactions it has been through; 0 is the file
            of one archive object.
        name: its object's name.
        size_bytes: of the object.
        digest: the archive object's; of a compacted file that of its sources.
    """

    partition: Partition
    generation: int
    name: str
    size_bytes: int
    digest: str


class Split(NamedTuple):
    """The files of a partition.

    Attributes:
        live: those that hold its rows, each row once.
        replaced: those whose rows are all in a live one.
        sources: digests of the archive objects the rows come from.
    """

    live: tuple[DataFile, ...]
    replaced: tuple[DataFile, ...]
    sources: frozenset[str]


def archive_name(name: str) -> ObjectName | None:
    """The parts of an archive object's name; None for any other object."""
    found = parse_name(name)
    return found if found and found.digest else None


def damaged_files(store: ObjectStore) -> Iterator[tuple[str, DataFile]]:
    """Damaged files that compaction has moved aside, by their names now.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    for info in store.list(f"{DAMAGED_PREFIX}{ANALYTICS_PREFIX}"):
        name = info.name.removeprefix(DAMAGED_PREFIX)
        if file := data_file(name, info.size_bytes):
            yield info.name, file


def data_file_name(archived: ObjectName, table: Table) -> str:
    """Name of the data file with an archive object's rows of that table."""
    partition = Partition(table, archived.domain, archived.day)
    return f"{partition.prefix}{archived.stem}.parquet"


def data_file(name: str, size_bytes: int) -> DataFile | None:
    """The Parquet file of that name; None for any other object."""
    found = _FILE_NAME.fullmatch(name)
    if not found:
        return None
    day = date.fromisoformat(found["date"])
    partition = Partition(found["table"], found["domain"], day)  # type: ignore[arg-type]  # the pattern knows the tables
    generation = int(found["generation"] or 0)
    return DataFile(partition, generation, name, size_bytes, found["digest"])


def by_partition(files: Iterable[DataFile]) -> dict[Partition, list[DataFile]]:
    """The files of each partition, older ones first."""
    return {
        partition: list(group)
        for partition, group in groupby(sorted(files), key=lambda file: file.partition)
    }


def split(
    files: Collection[DataFile], sources_of: Callable[[DataFile], frozenset[str]]
) -> Split:
    """Tell the live files of a partition from those replaced.

    Args:
        files: all of the partition.
        sources_of: the sources of a compacted file.
    """
    own = {
        file: sources_of(file) if file.generation else frozenset({file.digest})
        for file in files
    }
    live: list[DataFile] = []
    replaced: list[DataFile] = []
    sources: frozenset[str] = frozenset()
    # By number of sources, since two hosts may have made the same generation at once.
    for file in sorted(files, key=lambda file: (len(own[file]), file), reverse=True):
        (replaced if own[file] <= sources else live).append(file)
        sources |= own[file]
    return Split(tuple(sorted(live)), tuple(sorted(replaced)), sources)


def compacted_name(
    partition: Partition, files: Iterable[DataFile], sources: frozenset[str]
) -> str:
    """Name of the file that is to replace these, with these sources."""
    generation = 1 + max(file.generation for file in files)
    digest = _digest_of(sources_text(sources))
    return f"{partition.prefix}compacted-{generation:06d}-{digest}.parquet"


def _digest_of(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def abandoned_sources(names: Iterable[str]) -> list[str]:
    """Those sources, among all objects of the dataset, whose file is not there and
    will not come: there is one of a later generation. (Of the latest, it may be
    that another host is about to write it.)"""
    names = frozenset(names)
    files = [file for name in names if (file := data_file(name, 0))]
    latest = {
        partition.prefix: max(file.generation for file in group)
        for partition, group in by_partition(files).items()
    }
    return sorted(
        name
        for name in names
        if (found := _SOURCES_NAME.fullmatch(name))
        and f"{found['prefix']}{found['stem']}.parquet" not in names
        and int(found["generation"]) < latest.get(found["prefix"], 0)
    )


def sources_name(name: str) -> str:
    """Name of the object with the sources of the compacted file of that name."""
    directory, _, word = name.rpartition("/")
    return f"{directory}/_{word.removesuffix('.parquet')}.sources"


def sources_text(sources: Collection[str]) -> bytes:
    """Sources as they are stored: one digest a line, sorted."""
    return "".join(f"{digest}\n" for digest in sorted(sources)).encode()


def sources_fit(file: DataFile, text: bytes) -> bool:
    """Whether this is what was stored beside a compacted file, whose name tells."""
    return _digest_of(text) == file.digest


def read_sources(text: bytes) -> frozenset[str]:
    """Sources from what :func:`sources_text` has made of them."""
    return frozenset(text.decode().split())
