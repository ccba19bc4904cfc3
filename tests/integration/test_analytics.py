"""The dataset has every archived record once, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import SinkUnavailable, Transient
from meshtasks.flows.analytics import ANALYTICS
from meshtasks.flows.analytics.compaction import Compacted, Compaction
from meshtasks.flows.analytics.dataset import DatasetLock
from meshtasks.flows.archive.handler import archive_events, archive_metrics
from meshtasks.flows.archive.objects import OBJECTS, FileStore, archived_objects
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Retry
from tests.support.analytics import archive, excerpts, ids_in, parquet_names, rows_in
from tests.support.archive import NOON, bucket_environment, directory_environment
from tests.support.archive import lines_in as archived_lines
from tests.support.command import Command, command
from tests.support.s3 import S3Target

OpenSinks = Callable[[Environment], Sinks]

DAY_SECONDS = 86_400
KEY = "sensors.temperature.cellar"


@pytest.fixture
def open_sinks() -> Iterator[OpenSinks]:
    """Opens sinks, as each process does for itself."""
    with ExitStack() as opened:

        def open_them(environment: Environment) -> Sinks:
            sinks = Sinks(Settings(environment))
            opened.callback(sinks.close)
            return sinks

        yield open_them


def temperatures(*values: float) -> list[dict[str, Any]]:
    """Readings, in °F."""
    return [{"value": value, "unit": "°F", "location": "cellar"} for value in values]


def compact(sinks: Sinks, only: date | None = None) -> Compacted:
    """Compact the dataset."""
    settings, store = sinks.settings, sinks[OBJECTS]
    return Compaction(settings, store, lambda _: None).run(only)


def archived_ids(sinks: Sinks) -> Counter[str]:
    """How often each record is in the archive."""
    return Counter(line["id"] for line in archived_lines(sinks[OBJECTS]))


# What the archive's handlers add


def test_what_is_archived_is_in_the_dataset(sinks: Sinks) -> None:
    archive(sinks, KEY, *temperatures(50, 68))
    archive(sinks, "metrics.system.nas", {"name": "load", "value": 0.5})
    archive(sinks, "home.door.front.state_changed", {"entity_id": "door.front"})

    assert [row["value"] for row in rows_in(sinks[OBJECTS], "readings")] == [10, 20]
    assert [row["name"] for row in rows_in(sinks[OBJECTS], "metrics")] == ["load"]
    (event,) = rows_in(sinks[OBJECTS], "events")
    assert event["entity"] == "door.front"
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_an_object_of_the_archive_has_a_file_beside_it_for_each_table(
    sinks: Sinks,
) -> None:
    archive(sinks, KEY, *temperatures(50), {"note": "no reading"})

    (archived,) = archived_objects(sinks[OBJECTS])
    stem = archived.name.rpartition("/")[2].removesuffix(".jsonl.zst")
    assert parquet_names(sinks[OBJECTS]) == [
        f"analytics/{table}/domain=sensors/date=2026-11-23/{stem}.parquet"
        for table in ("events", "readings")
    ]


def test_a_batch_delivered_again_adds_nothing(sinks: Sinks) -> None:
    for _ in range(2):
        archive(sinks, KEY, *temperatures(50, 68))
    assert set(ids_in(sinks[OBJECTS]).values()) == {1}


class Killed(BaseException):
    """Ends what is being done as SIGKILL would, without ending the test."""


class Mortal(FileStore):
    """Is killed around one of its writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writes_left: float = float("inf")
        self.after = False

    @override
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        self._write(lambda: super(Mortal, self).put(name, data, metadata))

    @override
    def delete(self, name: str) -> None:
        self._write(lambda: super(Mortal, self).delete(name))

    def _write(self, write: Callable[[], None]) -> None:
        self.writes_left -= 1
        if self.writes_left >= 0 or self.after:
            write()
        if self.writes_left < 0:
            raise Killed


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_process_killed_around_any_write_has_added_all_once_in_the_end(
    sinks: Sinks, tmp_path: Path, writes: int, after: bool
) -> None:
    mixed = [*temperatures(50, 68), {"note": "an event"}]
    sinks[OBJECTS] = mortal = Mortal(tmp_path / "archive")
    mortal.writes_left, mortal.after = writes, after
    with suppress(Killed):
        archive_metrics(excerpts(KEY, *mixed), sinks)
    mortal.writes_left = float("inf")

    # redelivered, then with other neighbours
    archive(sinks, KEY, *mixed)
    archive(sinks, KEY, *mixed, *temperatures(70))

    assert len(ids_in(sinks[OBJECTS])) == 4
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


class LosesAnswers(FileStore):
    """Stores Parquet files, but its answers get lost."""

    @override
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        super().put(name, data, metadata)
        if name.endswith(".parquet"):
            sink = "objects"
            raise SinkUnavailable(sink, "the answer was lost")


def test_workers_may_leave_the_dataset_to_compaction(
    open_sinks: OpenSinks,
    environment: Environment,
    meshtasks: Command,
) -> None:
    sinks = open_sinks(environment.model_copy(update={"archive_dataset": False}))
    batch = excerpts("home.door", {"n": 1}, {"n": 2})

    assert archive_events(batch, sinks) == [DONE, DONE]
    assert not parquet_names(sinks[OBJECTS])

    assert meshtasks("analytics", "compact").exit_code == 0
    assert set(ids_in(sinks[OBJECTS]).values()) == {1}


def test_while_the_store_is_away_records_wait_and_are_added_later(
    sinks: Sinks, tmp_path: Path
) -> None:
    batch = excerpts("home.door", {"n": 1}, {"n": 2})
    sinks[OBJECTS] = LosesAnswers(tmp_path / "archive")
    outcomes = archive_events(batch, sinks)
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry]
    store = sinks[OBJECTS] = FileStore(tmp_path / "archive")
    for name in parquet_names(store):
        store.delete(name)
    sinks[ANALYTICS] = ANALYTICS.open(sinks)

    assert archive_events(batch, sinks) == [DONE, DONE]

    assert ids_in(store) == archived_ids(sinks)
    assert set(ids_in(store).values()) == {1}


# Compaction


def test_compaction_makes_one_file_of_a_day(sinks: Sinks) -> None:
    for hour in range(5):
        start = NOON + 3600 * hour
        archive(sinks, KEY, *temperatures(50 + hour, 60), start=start, name=f"h{hour}")
    before = rows_in(sinks[OBJECTS], "readings")

    done = compact(sinks)

    assert done == Compacted(added=0, before=5, after=1, deleted=5, kept=0)
    assert len(parquet_names(sinks[OBJECTS])) == 1
    assert rows_in(sinks[OBJECTS], "readings") == before


def test_its_rows_are_in_order_of_time(sinks: Sinks) -> None:
    for start in (NOON + 60, NOON, NOON + 30):
        archive(sinks, KEY, *temperatures(1, 2), start=start, seconds_apart=45)
    compact(sinks)
    times = [row["time"] for row in rows_in(sinks[OBJECTS], "readings")]
    assert times == sorted(times)


def test_days_domains_and_tables_stay_apart(sinks: Sinks) -> None:
    for start in (NOON, NOON + DAY_SECONDS):
        for key, record in (
            (KEY, temperatures(1)[0]),
            ("sensors.motion.hall", {"motion": True}),
            ("metrics.system.nas", {"name": "load", "value": 1}),
            ("home.door", {"n": 1}),
        ):
            for name in "ab":
                archive(sinks, key, record, start=start, name=f"{name}{start}")

    done = compact(sinks)

    assert (done.before, done.after) == (16, 8)
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_the_types_of_columns_stay_as_they_were(sinks: Sinks) -> None:
    fields = {"a": 1.5, "b": True, "c": "text"}
    metric = {"name": "m", "fields": fields, "tags": {"host": "nas"}}
    for name in "ab":
        archive(sinks, "metrics.system.nas", metric, name=name)
    before = rows_in(sinks[OBJECTS], "metrics")

    compact(sinks)

    by_id_and_field = sorted(before, key=lambda row: (row["record_id"], row["field"]))
    after = rows_in(sinks[OBJECTS], "metrics")
    after.sort(key=lambda row: (row["record_id"], row["field"]))
    assert after == by_id_and_field


def test_what_comes_after_a_compaction_is_in_the_next(sinks: Sinks) -> None:
    for number in range(4):
        archive(sinks, KEY, *temperatures(number), name=f"m{number}")
        if number != 2:
            compact(sinks)

    assert len(parquet_names(sinks[OBJECTS])) == 1
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_a_second_compaction_has_nothing_to_do(sinks: Sinks) -> None:
    archive(sinks, KEY, *temperatures(1), name="a")
    archive(sinks, KEY, *temperatures(2), name="b")
    compact(sinks)
    assert compact(sinks) == Compacted()


def test_only_one_date_is_compacted_if_it_is_named(sinks: Sinks) -> None:
    for start in (NOON, NOON + DAY_SECONDS):
        for name in "ab":
            archive(sinks, KEY, *temperatures(1), start=start, name=f"{name}{start}")

    assert compact(sinks, date(2026, 11, 24)).before == 2
    assert len(parquet_names(sinks[OBJECTS])) == 3


def test_what_two_hosts_have_archived_is_counted_once(
    open_sinks: OpenSinks, tmp_path: Path
) -> None:
    for host, more in (("one", [70]), ("two", [80])):
        there = open_sinks(directory_environment(tmp_path, state_dir=tmp_path / host))
        archive(there, KEY, *temperatures(50, 60, *more))
    assert set(archived_ids(there).values()) == {1, 2}

    compact(there)

    assert set(ids_in(there[OBJECTS]).values()) == {1}
    assert set(ids_in(there[OBJECTS])) == set(archived_ids(there))


def test_what_the_dataset_lacks_is_added_from_the_archive(sinks: Sinks) -> None:
    for name in "abc":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
    compact(sinks)
    archive(sinks, KEY, *temperatures(3), name="d")
    for name in parquet_names(sinks[OBJECTS])[:1]:  # the one that is not compacted
        sinks[OBJECTS].delete(name)

    assert compact(sinks).added == 1
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_without_pyarrow_the_archive_goes_on_and_compaction_catches_up(
    open_sinks: OpenSinks, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(
            "meshtasks.flows.analytics.dataset.find_spec",
            lambda name: None if name == "pyarrow" else find(name),
        )
        poor = open_sinks(environment)
        archive(poor, KEY, *temperatures(1, 2))
        assert parquet_names(poor[OBJECTS]) == []

    rich = open_sinks(environment)
    assert compact(rich).added == 1
    assert ids_in(rich[OBJECTS]) == archived_ids(rich)


def test_a_data_file_written_again_after_compaction_counts_for_nothing(
    sinks: Sinks,
) -> None:
    archive(sinks, KEY, *temperatures(1), name="a")
    (name,) = parquet_names(sinks[OBJECTS])
    rows = sinks[OBJECTS].get(name)
    archive(sinks, KEY, *temperatures(2), name="b")
    compact(sinks)

    sinks[OBJECTS].put(name, rows, {})  # by a worker that was killed before noting it

    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)
    assert compact(sinks).deleted == 1


def test_files_that_a_query_reads_are_left_for_the_next_compaction(
    sinks: Sinks, environment: Environment
) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1), name=name)
    with DatasetLock(environment.state_dir).reading():
        done = compact(sinks)
        assert (done.deleted, done.kept) == (0, 2)
        assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)

    assert compact(sinks).deleted == 2
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_one_process_of_a_host_compacts_at_a_time(
    sinks: Sinks, environment: Environment
) -> None:
    compacting = DatasetLock(environment.state_dir).compacting()
    with compacting, pytest.raises(Transient, match="another process"):
        compact(sinks)


_steps = st.one_of(
    st.tuples(st.just("archive"), st.integers(0, 3)),
    st.tuples(st.just("compact"), st.integers(0, 5)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(_steps, min_size=3, max_size=8), st.booleans())
def test_whatever_is_archived_and_killed_when_is_in_the_dataset_once(
    steps: list[tuple[str, int]], after: bool
) -> None:
    with TemporaryDirectory() as directory:
        sinks = Sinks(Settings(directory_environment(Path(directory))))
        sinks[OBJECTS] = mortal = Mortal(Path(directory) / "archive")
        for number, (step, writes) in enumerate(steps):
            mortal.writes_left, mortal.after = writes, after
            with suppress(Killed):
                if step == "archive":
                    batch = excerpts(KEY, *temperatures(1, 2), name=f"m{number // 2}")
                    archive_metrics(batch, sinks)
                else:
                    compact(sinks)
            mortal.writes_left = float("inf")
            seen = ids_in(sinks[OBJECTS])
            assert set(seen.values()) <= {1}
            assert set(seen) <= set(archived_ids(sinks))
        compact(sinks)
        assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)
        sinks.close()


def _compact_and_die(environment: Environment, writes: int) -> None:
    """Compact in this process, which kills itself before a write."""
    sinks = Sinks(Settings(environment))
    left = iter(range(writes))

    def mortal(write: Callable[..., None]) -> Callable[..., None]:
        def write_or_die(*arguments: Any) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*arguments)

        return write_or_die

    store: Any = sinks[OBJECTS]
    store.put, store.delete = mortal(store.put), mortal(store.delete)
    compact(sinks)


def test_a_process_that_is_killed_compacting_lets_the_next_one_finish(
    sinks: Sinks, environment: Environment
) -> None:
    for name in "abc":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
    spawn = multiprocessing.get_context("spawn")
    for writes in (1, 3):  # after the sources, and after the first file was deleted
        process = spawn.Process(target=_compact_and_die, args=(environment, writes))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)

    compact(sinks)

    assert len(parquet_names(sinks[OBJECTS])) == 1
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_a_bucket_is_compacted_like_a_directory(
    open_sinks: OpenSinks, s3: S3Target, tmp_path: Path
) -> None:
    sinks = open_sinks(bucket_environment(s3, tmp_path))
    for name in "abc":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
        archive(sinks, "home.door", {"n": 1}, name=name)

    done = compact(sinks)

    assert (done.before, done.after, done.deleted) == (6, 2, 6)
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


# The commands


def test_compact_prints_what_it_has_done(sinks: Sinks, meshtasks: Command) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1), name=name)

    result = meshtasks("analytics", "compact")

    assert result.exit_code == 0
    assert "2 files became 1, 2 deleted, 0 archive objects added" in result.stdout


def test_compact_takes_a_date(sinks: Sinks, meshtasks: Command) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1), name=name)
    result = meshtasks("analytics", "compact", "--date", "2026-11-22")
    assert "0 files became 0" in result.stdout
    assert meshtasks("analytics", "compact", "--date", "yesterday").exit_code == 2


def test_a_second_compaction_at_the_same_time_is_refused(
    environment: Environment, meshtasks: Command
) -> None:
    with DatasetLock(environment.state_dir).compacting():
        result = meshtasks("analytics", "compact")
    assert result.exit_code == 69
    assert "another process of this host compacts the dataset" in result.stderr


def test_info_shows_when_compaction_is_due(sinks: Sinks, meshtasks: Command) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1), name=name)
    sinks[OBJECTS].delete(parquet_names(sinks[OBJECTS])[0])
    archive(sinks, KEY, *temperatures(1), name="c")

    before = meshtasks("analytics", "info").stdout
    compact(sinks)
    after = meshtasks("analytics", "info").stdout

    assert "readings │ 1    │ 2026-11-23 │ 2026-11-23 │     2 │" in before
    assert "in pieces: 1; archive objects not in the dataset: 1." in before
    assert "readings │ 1    │ 2026-11-23 │ 2026-11-23 │     1 │" in after
    assert "Run meshtasks analytics compact" not in after


def test_info_of_an_empty_archive_is_empty(meshtasks: Command) -> None:
    result = meshtasks("analytics", "info")
    assert result.exit_code == 0
    assert "pieces" not in result.stdout


def test_an_archive_that_is_away_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = directory_environment(
        tmp_path,
        archive_url="s3://archive",
        minio_endpoint="127.0.0.1:1",
        minio_access_key="mesh",
        minio_secret_key="secret",
    )
    result = command(nowhere, monkeypatch, capsys)("analytics", "compact")
    assert result.exit_code == 69
    assert "S3 at 127.0.0.1:1" in result.stderr


# Damaged files

_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "partial": lambda data: data[: len(data) // 2],
    "its pages": lambda data: data[:4] + b"\xff" * 60 + data[64:],
    "its footer": lambda data: data[:-40] + b"\xff" * 30 + data[-10:],
}


def damage(store: FileStore, name: str, how: str) -> None:
    """Damage an object."""
    store.put(name, _DAMAGES[how](store.get(name)), {})


@pytest.mark.parametrize("how", _DAMAGES)
def test_a_damaged_file_is_put_aside_and_made_again_from_the_archive(
    sinks: Sinks, meshtasks: Command, how: str
) -> None:
    for name in "abc":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
    archive(sinks, "home.door", {"n": 1}, name="d")
    archive(sinks, "home.door", {"n": 2}, name="e")
    damaged = parquet_names(sinks[OBJECTS])[-1]
    damage(sinks[OBJECTS], damaged, how)  # type: ignore[arg-type]  # it is a directory

    first = meshtasks("analytics", "compact")
    second = meshtasks("analytics", "compact")

    assert (first.exit_code, second.exit_code) == (1, 0)
    assert damaged in first.stdout
    assert sinks[OBJECTS].stat(f"damaged/{damaged}") is not None
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)
    assert len(parquet_names(sinks[OBJECTS])) == 2


@pytest.mark.parametrize("how", _DAMAGES)
def test_a_query_leaves_out_a_damaged_file_with_a_warning(
    sinks: Sinks, meshtasks: Command, how: str
) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
    for damaged in parquet_names(sinks[OBJECTS]):
        sound = sinks[OBJECTS].get(damaged)
        damage(sinks[OBJECTS], damaged, how)  # type: ignore[arg-type]
        sql = "SELECT max(time) > '2000-01-01' AND sum(value) > -99 FROM readings"
        result = meshtasks("query", "--csv", sql)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[1:] == ["true"]
        assert damaged in result.stderr
        sinks[OBJECTS].put(damaged, sound, {})


def test_a_damaged_file_that_is_alone_is_put_aside_if_its_date_is_named(
    sinks: Sinks,
) -> None:
    archive(sinks, KEY, *temperatures(1, 2))
    damage(sinks[OBJECTS], parquet_names(sinks[OBJECTS])[0], "partial")  # type: ignore[arg-type]

    assert compact(sinks, date(2026, 11, 23)).damaged == 1
    assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_a_compacted_file_whose_sources_are_lost_is_compacted_anew(
    sinks: Sinks,
) -> None:
    for how in ("lost", "cut off"):
        for name in "ab":
            archive(sinks, KEY, *temperatures(1, 2), name=f"{name}-{how}")
        compact(sinks)
        (sources,) = [
            each.name
            for each in sinks[OBJECTS].list("analytics/")
            if each.name.endswith(".sources")
        ]
        if how == "lost":
            sinks[OBJECTS].delete(sources)
        else:
            sinks[OBJECTS].put(sources, sinks[OBJECTS].get(sources)[:9], {})

        compact(sinks)

        assert ids_in(sinks[OBJECTS]) == archived_ids(sinks)


def test_a_damaged_archive_object_is_reported_and_others_are_added(
    sinks: Sinks, meshtasks: Command
) -> None:
    for name in "ab":
        archive(sinks, KEY, *temperatures(1, 2), name=name)
    for name in parquet_names(sinks[OBJECTS]):
        sinks[OBJECTS].delete(name)
    damaged, _ = [each.name for each in archived_objects(sinks[OBJECTS])]
    sinks[OBJECTS].put(damaged, b"cut off", {})

    result = meshtasks("analytics", "compact")

    assert result.exit_code == 1
    assert damaged in result.stdout
    assert len(ids_in(sinks[OBJECTS])) == 2
