"""Which files hold the rows, whatever compaction was doing when it was killed."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.flows.analytics.layout import (
    DataFile,
    Partition,
    Split,
    abandoned_sources,
    archive_name,
    by_partition,
    compacted_name,
    data_file,
    data_file_name,
    read_sources,
    sources_name,
    sources_text,
    split,
)

DAY = date(2026, 11, 23)
PARTITION = Partition("readings", "sensors", DAY)
ARCHIVED = (
    "metrics/sensors/date=2026-11-23/hour=12/"
    "20261123T120000Z-20261123T120029Z-00000000000000{:02x}.jsonl.zst"
)


def file_of(number: int) -> DataFile:
    """The data file of the archive object of that number."""
    archived = archive_name(ARCHIVED.format(number))
    assert archived is not None
    found = data_file(data_file_name(archived, "readings"), 1)
    assert found is not None
    return found


def digest(number: int) -> str:
    """The digest of that archive object."""
    return file_of(number).digest


class Store:
    """A partition's objects: the sources of compacted files, and Parquet files with
    the numbers of the archive objects whose rows they have."""

    def __init__(self) -> None:
        self.sources: dict[str, frozenset[str]] = {}
        self.files: dict[str, list[str]] = {}

    def write_file(self, number: int) -> None:
        self.files[file_of(number).name] = [digest(number)]

    def data_files(self) -> list[DataFile]:
        return [file for name in self.files if (file := data_file(name, 1))]

    def sources_of(self, file: DataFile) -> frozenset[str]:
        return self.sources[sources_name(file.name)]

    def rows(self) -> Counter[str]:
        """What a reader sees."""
        if not self.files:
            return Counter()
        found = split(self.data_files(), self.sources_of)
        return Counter(row for file in found.live for row in self.files[file.name])

    def compact(self, steps: int) -> None:
        """Compact, but be killed after so many steps."""
        files = self.data_files()
        if not files:
            return
        found = split(files, self.sources_of)
        name = compacted_name(PARTITION, files, found.sources)
        rows = [row for file in found.live for row in self.files[file.name]]
        if steps > 0:
            self.sources[sources_name(name)] = found.sources
        if steps > 1:
            self.files[name] = rows
        for old in files[: max(steps - 2, 0)]:
            del self.files[old.name]


def test_the_data_file_of_an_archive_object_is_named_after_it() -> None:
    assert file_of(10).name == (
        "analytics/readings/domain=sensors/date=2026-11-23/"
        "20261123T120000Z-20261123T120029Z-000000000000000a.parquet"
    )


def test_a_name_holds_partition_generation_and_digest() -> None:
    found = data_file(file_of(10).name, 7)
    assert found == DataFile(PARTITION, 0, file_of(10).name, 7, "000000000000000a")


@pytest.mark.parametrize(
    "name",
    [
        "events/home/date=2026-11-23/hour=12/note.txt",
        "analytics/readings/domain=sensors/date=2026-11-23/other.parquet",
        "analytics/other/domain=sensors/date=2026-11-23/compacted-000001-00.parquet",
        sources_name(compacted_name(PARTITION, [file_of(1)], frozenset({"a"}))),
    ],
)
def test_objects_of_others_are_neither_archive_nor_dataset(name: str) -> None:
    assert archive_name(name) is None
    assert data_file(name, 1) is None


def test_a_compacted_file_comes_after_all_it_stands_for() -> None:
    first = compacted_name(PARTITION, [file_of(1), file_of(2)], frozenset({"a"}))
    compacted = data_file(first, 1)
    assert compacted is not None
    second = compacted_name(PARTITION, [compacted, file_of(3)], frozenset({"a", "b"}))

    names = [second, sources_name(second), first, file_of(1).name, file_of(2).name]

    assert sorted(names)[-2:] == [first, second]


def test_files_are_told_apart_by_partition() -> None:
    other = archive_name(ARCHIVED.format(1).replace("sensors", "garden"))
    assert other is not None
    elsewhere = data_file(data_file_name(other, "readings"), 1)
    assert elsewhere is not None
    assert by_partition([file_of(2), elsewhere, file_of(1)]) == {
        PARTITION: [file_of(1), file_of(2)],
        Partition("readings", "garden", DAY): [elsewhere],
    }


def test_sources_come_back_as_they_were_stored() -> None:
    sources = frozenset({digest(1), digest(2)})
    assert read_sources(sources_text(sources)) == sources


def test_files_of_archive_objects_alone_are_all_live() -> None:
    found = split([file_of(1), file_of(2)], lambda _: frozenset())
    sources = frozenset({digest(1), digest(2)})
    assert found == Split((file_of(1), file_of(2)), (), sources)


def test_a_compacted_file_stands_for_its_sources() -> None:
    sources = frozenset({digest(1), digest(2)})
    compacted = data_file(compacted_name(PARTITION, [file_of(1)], sources), 1)
    assert compacted is not None

    found = split([file_of(1), file_of(2), file_of(3), compacted], lambda _: sources)

    assert found.live == (file_of(3), compacted)
    assert found.replaced == (file_of(1), file_of(2))
    assert found.sources == sources | {digest(3)}


@pytest.mark.parametrize("number", range(3, 9))  # so that their names sort either way
def test_of_two_hosts_that_compact_at_once_the_one_that_saw_more_counts(
    number: int,
) -> None:
    fewer = frozenset({digest(1), digest(number)})
    more = fewer | {digest(2)}
    names = [compacted_name(PARTITION, [file_of(1)], each) for each in (fewer, more)]
    one, two = (file for name in names if (file := data_file(name, 1)))
    sources = {one: fewer, two: more}

    found = split([one, two, file_of(2)], sources.__getitem__)

    assert found.live == (two,)


_acts = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 5)),
    st.tuples(st.just("compact"), st.integers(0, 10)),
)


@given(st.lists(_acts, max_size=12))
def test_every_row_is_seen_once_whatever_is_written_and_killed_when(
    acts: list[tuple[str, int]],
) -> None:
    store = Store()
    written = set()
    for act, number in acts:
        if act == "write":  # also one that was written, and compacted, before
            store.write_file(number)
            written.add(digest(number))
        else:
            store.compact(steps=number)
        assert store.rows() == Counter(written)


def test_sources_of_an_older_generation_without_a_file_are_abandoned() -> None:
    old = sources_name(compacted_name(PARTITION, [file_of(1)], frozenset({"a"})))
    first = data_file(compacted_name(PARTITION, [file_of(1)], frozenset({"b"})), 1)
    assert first is not None
    new = compacted_name(PARTITION, [first], frozenset({"b", "c"}))

    assert abandoned_sources([old, new, sources_name(new)]) == [old]


def test_sources_of_a_file_that_may_still_come_are_not() -> None:
    coming = sources_name(compacted_name(PARTITION, [file_of(1)], frozenset({"a"})))
    assert abandoned_sources([coming, file_of(1).name]) == []
