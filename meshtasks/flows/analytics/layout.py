"""Names of the Parquet files of the dataset, and which files replace others.

The dataset is made from the archive. Each archive object has one *data file* per table,
with the rows of its records. Its name is derived from the object's name::

    analytics/<table>/domain=<domain>/date=YYYY-MM-DD/<first>-<last>-<digest>.parquet

These files are small. Compaction writes all rows of a partition (one table, domain and
UTC date) into one file. It writes the digests of the archive objects from which the
rows come, the *sources* of the file, into a second object::

    …/_compacted-<generation>-<digest>.sources
    …/compacted-<generation>-<digest>.parquet

The sources are written before the file, and the files that it replaces are deleted
after it. A reader ignores files whose sources are all sources of a newer file. So it
reads every row once, even if compaction is interrupted, or a data file is written again
later. Compaction always takes a whole partition. So if two files share sources, one has
all sources of the other, even if both were made at the same time.

In the order of names, a compacted file comes after all files that it replaces. So a
listing in order of names that misses a deleted file contains the file that replaces it.
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
#: Prefix added to the names of damaged files.
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
    """Files that are read and compacted together."""

    table: Table
    domain: str
    date: date

    @property
    def prefix(self) -> str:
        """Beginning of the names of its objects."""
        return (
            f"{ANALYTICS_PREFIX}{self.table}/domain={self.domain}/"
            f"date={self.date.isoformat()}/"
        )


class DataFile(NamedTuple):
    """A Parquet file of the dataset.

    Attributes:
        partition: partition of the file.
        generation: number of compactions that the rows have been through; 0 for the
            file of one archive object.
        name: name of its object.
        size_bytes: size of its object.
        digest: digest of the archive object, or of the sources of a compacted file.
    """

    partition: Partition
    generation: int
    name: str
    size_bytes: int
    digest: str


class Split(NamedTuple):
    """The files of a partition.

    Attributes:
        live: files to read; together they have each row once.
        replaced: files whose rows are all in live files.
        sources: digests of the archive objects from which the rows come.
    """

    live: tuple[DataFile, ...]
    replaced: tuple[DataFile, ...]
    sources: frozenset[str]


def archive_name(name: str) -> ObjectName | None:
    """Parse an archive object's name; None for any other object."""
    found = parse_name(name)
    return found if found and found.digest else None


def damaged_files(store: ObjectStore) -> Iterator[tuple[str, DataFile]]:
    """Yield the damaged files that compaction moved aside, with their present names.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    for info in store.list(f"{DAMAGED_PREFIX}{ANALYTICS_PREFIX}"):
        name = info.name.removeprefix(DAMAGED_PREFIX)
        if file := data_file(name, info.size_bytes):
            yield info.name, file


def data_file_name(archived: ObjectName, table: Table) -> str:
    """Return the name of the data file with an archive object's rows of a table."""
    partition = Partition(table, archived.domain, archived.day)
    return f"{partition.prefix}{archived.stem}.parquet"


def data_file(name: str, size_bytes: int) -> DataFile | None:
    """Return the Parquet file of that name; None for any other object."""
    found = _FILE_NAME.fullmatch(name)
    if not found:
        return None
    day = date.fromisoformat(found["date"])
    partition = Partition(found["table"], found["domain"], day)  # type: ignore[arg-type]  # the pattern knows the tables
    generation = int(found["generation"] or 0)
    return DataFile(partition, generation, name, size_bytes, found["digest"])


def by_partition(files: Iterable[DataFile]) -> dict[Partition, list[DataFile]]:
    """Group files by partition, older files first."""
    return {
        partition: list(group)
        for partition, group in groupby(sorted(files), key=lambda file: file.partition)
    }


def split(
    files: Collection[DataFile], sources_of: Callable[[DataFile], frozenset[str]]
) -> Split:
    """Divide the files of a partition into live and replaced ones.

    Args:
        files: all files of the partition.
        sources_of: returns the sources of a compacted file.
    """
    own = {
        file: sources_of(file) if file.generation else frozenset({file.digest})
        for file in files
    }
    live: list[DataFile] = []
    replaced: list[DataFile] = []
    sources: frozenset[str] = frozenset()
    # By number of sources, because two hosts may make the same generation at once.
    for file in sorted(files, key=lambda file: (len(own[file]), file), reverse=True):
        (replaced if own[file] <= sources else live).append(file)
        sources |= own[file]
    return Split(tuple(sorted(live)), tuple(sorted(replaced)), sources)


def compacted_name(
    partition: Partition, files: Iterable[DataFile], sources: frozenset[str]
) -> str:
    """Return the name of the file that replaces these files and has these sources."""
    generation = 1 + max(file.generation for file in files)
    digest = _digest_of(sources_text(sources))
    return f"{partition.prefix}compacted-{generation:06d}-{digest}.parquet"


def _digest_of(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def abandoned_sources(names: Iterable[str]) -> list[str]:
    """Return the names of sources, among all objects of the dataset, whose file does
    not exist and will not be written, because a file of a later generation exists.
    (Another host may be about to write the file of the latest generation.)"""
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
    """Return the name of the object with the sources of a compacted file."""
    directory, _, word = name.rpartition("/")
    return f"{directory}/_{word.removesuffix('.parquet')}.sources"


def sources_text(sources: Collection[str]) -> bytes:
    """Return the stored form of sources: one digest per line, sorted."""
    return "".join(f"{digest}\n" for digest in sorted(sources)).encode()


def sources_fit(file: DataFile, text: bytes) -> bool:
    """Whether the text is the sources of the file, by the digest in its name."""
    return _digest_of(text) == file.digest


def read_sources(text: bytes) -> frozenset[str]:
    """Parse the result of :func:`sources_text`."""
    return frozenset(text.decode().split())
