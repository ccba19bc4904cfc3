"""The archive holds every record once, whatever happens on the way."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr
from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo import loopback
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.archive.handler import JOURNAL, archive_events, archive_metrics
from meshtasks.flows.archive.objects import (
    OBJECTS,
    FileStore,
    archived_objects,
    compress,
)
from meshtasks.flows.excerpts import archive_messages, excerpt
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from meshtasks.records.envelope import Envelope
from tests.support.archive import (
    NOON,
    batch_of,
    bucket_environment,
    directory_environment,
    lines_in,
    message,
)
from tests.support.archive_crash import Point, archive_in_process, reached
from tests.support.postgres import Postgres
from tests.support.receiver import Answer, Receiver
from tests.support.s3 import S3Target
from tests.support.waiting import wait_until

OpenSinks = Callable[[Environment], Sinks]


@pytest.fixture
def open_sinks() -> Iterator[OpenSinks]:
    """Opens sinks, as each process does for itself."""
    with ExitStack() as opened:

        def open_them(environment: Environment) -> Sinks:
            sinks = Sinks(Settings(environment))
            opened.callback(sinks[OBJECTS].close)
            opened.callback(sinks[JOURNAL].close)
            return sinks

        yield open_them


@pytest.fixture
def sinks(open_sinks: OpenSinks, environment: Environment) -> Sinks:
    """The sinks of this process."""
    return open_sinks(environment)


def numbered(*numbers: int) -> list[Envelope]:
    """Messages that say their number, one a second."""
    return [
        message(b'{"n":%d}' % n, name=f"m-{n}", received_at=NOON + n) for n in numbers
    ]


def archive(sinks: Sinks, *messages: Envelope) -> list[Outcome]:
    """What ``archive.events`` makes of a batch."""
    return archive_events(batch_of(*messages), sinks)


def archived_numbers(sinks: Sinks) -> list[int]:
    """The numbers in the archive, ascending."""
    return sorted(line["record"]["n"] for line in lines_in(sinks[OBJECTS]))


def sensor_excerpts(*values: float) -> Envelope:
    """What a handler publishes of some readings."""
    readings = [
        message(
            b'{"value":%.1f}' % value,
            exchange="sensors",
            routing_key="sensors.temperature.cellar",
            name=f"s-{value}",
        )
        for value in values
    ]
    excerpts = [excerpt(each, [NOON], [None]) for each in readings]
    (parts,) = archive_messages(excerpts, "sensors.temperature")
    return message(parts.body, parts.routing_key, headers=parts.headers)


# What goes where


def test_a_batch_becomes_one_object_of_lines(sinks: Sinks) -> None:
    assert archive(sinks, *numbered(1, 2, 3)) == [DONE] * 3

    (found,) = archived_objects(sinks[OBJECTS])
    assert re.fullmatch(
        "events/home/date=2026-11-23/hour=12/"
        "20261123T120001Z-20261123T120003Z-[0-9a-f]{16}.jsonl.zst",
        found.name,
    )
    assert [line["record"] for line in lines_in(sinks[OBJECTS])] == [
        {"n": 1},
        {"n": 2},
        {"n": 3},
    ]


def test_each_handler_stores_its_class_and_acknowledges_the_other(
    sinks: Sinks,
) -> None:
    batch = batch_of(message(b'{"open":true}', "home.door"), sensor_excerpts(21.5, 22))

    assert archive_events(batch, sinks) == [DONE] * 3
    assert archive_metrics(batch, sinks) == [DONE] * 3

    events = lines_in(sinks[OBJECTS], "events/")
    metrics = lines_in(sinks[OBJECTS], "metrics/")
    assert [line["record"] for line in events] == [{"open": True}]
    assert [line["record"] for line in metrics] == [{"value": 21.5}, {"value": 22.0}]
    assert {line["exchange"] for line in metrics} == {"sensors"}


def test_a_batch_without_records_of_the_class_touches_nothing(
    sinks: Sinks, environment: Environment
) -> None:
    archive(sinks, sensor_excerpts(21.5))
    assert not environment.state_dir.exists()


def test_a_bad_record_is_dead_in_its_own_queue_only_and_alone(sinks: Sinks) -> None:
    good, bad = numbered(1)[0], message(b'{"n":NaN}', name="bad")
    batch = batch_of(good, bad)

    in_events = archive_events(batch, sinks)
    in_metrics = archive_metrics(batch, sinks)

    assert in_events[0] == DONE
    assert isinstance(in_events[1], Dead)
    assert in_metrics == [DONE, DONE]
    assert archived_numbers(sinks) == [1]


# Once and only once


def test_a_batch_delivered_again_is_not_stored_again(sinks: Sinks) -> None:
    archive(sinks, *numbered(1, 2, 3))
    assert archive(sinks, *numbered(1, 2, 3)) == [DONE] * 3
    assert archived_numbers(sinks) == [1, 2, 3]


def test_messages_delivered_again_in_other_batches_are_not_stored_again(
    sinks: Sinks,
) -> None:
    archive(sinks, *numbered(1, 2, 3, 4))
    archive(sinks, *numbered(4, 5))
    archive(sinks, *numbered(3, 2, 6, 1))
    assert archived_numbers(sinks) == [1, 2, 3, 4, 5, 6]


def test_a_message_twice_in_one_batch_is_stored_once(sinks: Sinks) -> None:
    assert archive(sinks, *numbered(1, 2, 1)) == [DONE] * 3
    assert archived_numbers(sinks) == [1, 2]


def test_lines_that_a_handler_published_twice_are_stored_once(sinks: Sinks) -> None:
    archive_metrics(batch_of(sensor_excerpts(20, 21)), sinks)
    archive_metrics(batch_of(sensor_excerpts(21), sensor_excerpts(22)), sinks)

    values = [line["record"]["value"] for line in lines_in(sinks[OBJECTS])]
    assert sorted(values) == [20, 21, 22]


def test_a_device_that_repeats_itself_is_taken_at_its_word(sinks: Sinks) -> None:
    repeated = [message(b'{"n":7}', received_at=NOON + 60 * n) for n in range(5)]
    archive(sinks, *repeated[:3])
    archive(sinks, *repeated[3:])
    assert archived_numbers(sinks) == [7] * 5


def test_hosts_that_store_the_same_batch_store_the_same_object(
    open_sinks: OpenSinks, tmp_path: Path
) -> None:
    for host in ("one", "two"):
        here = open_sinks(directory_environment(tmp_path, state_dir=tmp_path / host))
        archive(here, *numbered(1, 2, 3))
    assert archived_numbers(here) == [1, 2, 3]


@pytest.mark.parametrize("point", ["before the put", "after the put"])
def test_a_process_killed_around_the_put_has_stored_all_once_in_the_end(
    environment: Environment, sinks: Sinks, point: Point
) -> None:
    process = archive_in_process(environment, *numbered(1, 2, 3), killed=point)
    process.join()
    assert process.exitcode == -9

    # redelivered with other neighbours, and not all at once
    assert archive(sinks, *numbered(0, 1)) == [DONE] * 2
    assert archive(sinks, *numbered(2, 3, 4)) == [DONE] * 3

    assert archived_numbers(sinks) == [0, 1, 2, 3, 4]


def test_a_process_killed_between_two_objects_has_stored_all_once_in_the_end(
    environment: Environment, sinks: Sinks
) -> None:
    two_hours = [*numbered(1, 2), *numbered(3601, 3602)]
    process = archive_in_process(environment, *two_hours, killed="after the put")
    process.join()
    assert len(list(archived_objects(sinks[OBJECTS]))) == 1

    archive(sinks, *two_hours)

    assert archived_numbers(sinks) == [1, 2, 3601, 3602]


def test_two_processes_given_the_same_messages_store_them_once(
    environment: Environment, sinks: Sinks, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    processes = [
        archive_in_process(environment, *numbered(*numbers), wait_for=go)
        for numbers in ((1, 2, 3), (2, 3, 4), (3, 4, 5))
    ]
    wait_until(reached(go).exists, 30, "a process in the midst of its batch")
    go.touch()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert archived_numbers(sinks) == [1, 2, 3, 4, 5]


class Killed(BaseException):
    """Ends a batch as SIGKILL would, without ending the test."""


class Mortal(FileStore):
    """Is killed around a put, at a point that can be set."""

    point: Point | None = None

    @override
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        if self.point == "before the put":
            raise Killed
        super().put(name, data, metadata)
        if self.point == "after the put":
            raise Killed


_deliveries = st.tuples(
    st.lists(st.sampled_from([1, 2, 3, 3601, 3602, 7201]), min_size=1, max_size=5),
    st.sampled_from([None, "before the put", "after the put"]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(_deliveries, min_size=1, max_size=6))
def test_whatever_is_delivered_how_often_and_killed_when_is_stored_once(
    deliveries: list[tuple[list[int], Point | None]],
) -> None:
    with TemporaryDirectory() as directory:
        sinks = Sinks(Settings(directory_environment(Path(directory))))
        sinks[OBJECTS] = store = Mortal(Path(directory) / "archive")

        for numbers, store.point in deliveries:
            with suppress(Killed):
                archive(sinks, *numbered(*numbers))
        store.point = None
        everything = sorted({number for numbers, _ in deliveries for number in numbers})
        archive(sinks, *numbered(*everything))

        assert archived_numbers(sinks) == everything
        sinks[JOURNAL].close()


class LosesAnswers(FileStore):
    """Stores objects, but its answers get lost."""

    @override
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        super().put(name, data, metadata)
        sink = "objects"
        raise SinkUnavailable(sink, "the answer was lost")


def test_an_object_stored_without_an_answer_is_not_stored_again(
    sinks: Sinks, tmp_path: Path
) -> None:
    sinks[OBJECTS] = LosesAnswers(tmp_path / "archive")
    (lost, _) = archive(sinks, *numbered(1, 2))
    assert isinstance(lost, Retry)

    sinks[OBJECTS] = FileStore(tmp_path / "archive")
    assert archive(sinks, *numbered(2, 3)) == [DONE] * 2

    assert archived_numbers(sinks) == [1, 2, 3]


class LosesJournal(FileStore):
    """Stores objects; meanwhile something happens to the journal."""

    happens: Callable[[], None]

    @override
    def put(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        super().put(name, data, metadata)
        self.happens()


def test_stored_records_are_done_though_the_database_is_replaced_by_an_empty_one(
    open_sinks: OpenSinks, tmp_path: Path, postgres: Postgres, postgres_template: str
) -> None:
    database = postgres.new_database(postgres_template)
    url = SecretStr(postgres.url(database))
    sinks = open_sinks(directory_environment(tmp_path, state_url=url))
    sinks[OBJECTS] = store = LosesJournal(tmp_path / "archive")
    store.happens = partial(
        postgres.execute, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"
    )

    # two hours make two objects
    assert archive(sinks, *numbered(1, 3601)) == [DONE] * 2

    sinks[OBJECTS] = FileStore(tmp_path / "archive")
    postgres.execute(f"CREATE DATABASE {database} TEMPLATE {postgres_template}")
    assert archive(sinks, *numbered(2)) == [DONE]
    assert archived_numbers(sinks) == [1, 2, 3601]


def test_stored_records_are_known_though_the_journal_failed_meanwhile(
    sinks: Sinks, environment: Environment
) -> None:
    def fail() -> None:
        with closing(sqlite3.connect(environment.state_dir / "mesh.db")) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE DELETE ON archive_pending "
                "BEGIN SELECT RAISE(FAIL, 'disk full'); END"
            )

    directory = environment.state_dir.with_name("archive")
    sinks[OBJECTS] = store = LosesJournal(directory)
    store.happens = fail
    assert archive(sinks, *numbered(1, 2)) == [DONE] * 2

    store.happens = lambda: None  # the dataset keeps this store
    with closing(sqlite3.connect(environment.state_dir / "mesh.db")) as db:
        db.execute("DROP TRIGGER full")
    assert archive(sinks, *numbered(2, 3)) == [DONE] * 2
    assert archived_numbers(sinks) == [1, 2, 3]


# Faults


def test_when_one_object_fails_only_its_records_are_retried(
    sinks: Sinks, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "archive" / "events" / "garden"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the domain's directory must be")
    garden = message(b'{"n":2}', "garden.gate", name="g")
    one, three = numbered(1, 3)

    first, second, third = archive(sinks, one, garden, three)

    assert (first, third) == (DONE, DONE)
    assert isinstance(second, Retry)
    assert second.sink == "objects"
    assert "garden" in second.reason

    in_the_way.unlink()
    assert archive(sinks, garden) == [DONE]
    assert archived_numbers(sinks) == [1, 2, 3]


def test_while_the_store_is_down_its_records_wait_and_others_are_acknowledged(
    sinks: Sinks, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "archive"
    in_the_way.write_text("no directory")
    batch = batch_of(*numbered(1, 3601), sensor_excerpts(21.5))

    *own, other = archive_events(batch, sinks)

    assert [outcome.sink for outcome in own if isinstance(outcome, Retry)] == [
        "objects",
        "objects",
    ]
    assert other == DONE

    in_the_way.unlink()
    assert archive_events(batch, sinks) == [DONE] * 3
    assert archived_numbers(sinks) == [1, 3601]


def test_without_its_journal_nothing_is_stored(
    sinks: Sinks, environment: Environment
) -> None:
    environment.state_dir.write_text("no directory")

    (outcome,) = archive(sinks, *numbered(1))

    assert isinstance(outcome, Retry)
    assert outcome.sink == "journal"
    assert archived_numbers(sinks) == []


def test_records_of_an_object_that_the_store_refuses_are_dead(
    open_sinks: OpenSinks, receiver: Receiver, tmp_path: Path
) -> None:
    xml = {"Content-Type": "application/xml"}
    receiver.always = Answer(400, b"<Error><Code>EntityTooLarge</Code></Error>", xml)
    sinks = open_sinks(
        directory_environment(
            tmp_path,
            archive_url="s3://archive",
            minio_endpoint=f"{loopback.HOST}:{receiver.port}",
            minio_access_key="mesh",
            minio_secret_key="secret",
        )
    )

    outcomes = archive(sinks, *numbered(1, 2))

    assert [type(outcome) for outcome in outcomes] == [Dead, Dead]
    assert sinks[JOURNAL].pending() == []


# Nothing in the store stops the archive


def left_pending(sinks: Sinks, damaged: bytes | None) -> str:
    """The name of an object with the records 1 and 2 whose fate nobody noted."""
    archive(sinks, *numbered(1, 2))
    (found,) = archived_objects(sinks[OBJECTS])
    (path,) = Path(sinks.settings.env.state_dir).glob("mesh.db")
    with closing(sqlite3.connect(path)) as journal, journal:
        (ids,) = zip(*journal.execute("SELECT id FROM archive_ids_0"), strict=True)
        journal.execute("DELETE FROM archive_ids_0")
        row = (found.name, json.dumps(ids))
        journal.execute("INSERT INTO archive_pending (name, ids) VALUES (?, ?)", row)
    if damaged is not None:
        sinks[OBJECTS].put(found.name, damaged, {})
    return found.name


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not zstd",
        compress(b"not JSON\n", 3),
        compress(b'{"id":"x"}\n', 3),
        b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x0f\x01\x00\x00",
    ],
    ids=["empty", "no frame", "no lines", "other lines", "a frame of any size"],
)
def test_a_damaged_object_of_unknown_fate_stops_nothing_and_is_logged_once(
    sinks: Sinks, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    name = left_pending(sinks, damaged)

    outcomes = [*archive(sinks, *numbered(3)), *archive(sinks, *numbered(1, 2, 4))]

    assert outcomes == [DONE] * 4
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert name in warning.getMessage()
    assert list(sinks[JOURNAL].damaged()) == [name]
    assert sinks[OBJECTS].get(name) == damaged  # whoever knows more may look at it
    sinks[OBJECTS].delete(name)
    assert archived_numbers(sinks) == [1, 2, 3, 4]


def test_an_object_that_is_stored_again_is_damaged_no_more(sinks: Sinks) -> None:
    left_pending(sinks, b"cut off")
    archive(sinks, *numbered(1, 2))
    assert sinks[JOURNAL].damaged() == {}
    assert archived_numbers(sinks) == [1, 2]


@pytest.mark.parametrize("record", [b"[" * 199 + b"]" * 199, b'{"n":1e999}'])
def test_a_record_without_a_sensible_row_stops_nothing(
    sinks: Sinks, record: bytes
) -> None:
    batch = batch_of(message(b"{}", name="odd"))
    batch.envelopes[0] = replace(batch.envelopes[0], body=record)
    assert archive_events(batch, sinks) == [DONE]
    assert archive(sinks, *numbered(1)) == [DONE]
    assert sinks[JOURNAL].pending() == []


@pytest.mark.parametrize("received_at", [-1e17, 1e17, float("inf"), float("nan")])
def test_a_record_of_an_impossible_time_is_archived(
    sinks: Sinks, received_at: float
) -> None:
    assert archive(sinks, message(b'{"n":1}', received_at=received_at)) == [DONE]
    assert archived_numbers(sinks) == [1]


def test_rows_that_cannot_be_made_are_logged_and_made_later(
    sinks: Sinks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        message = "nobody foresaw this"
        raise ZeroDivisionError(message)

    with monkeypatch.context() as patched:
        patched.setattr("meshtasks.flows.analytics.parquet.parquet_of", broken)
        assert archive(sinks, *numbered(1)) == [DONE]
    (error,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert error.exc_info is not None
    assert archived_numbers(sinks) == [1]


# In a bucket


@pytest.mark.parametrize("point", ["before the put", "after the put"])
def test_a_bucket_too_holds_every_record_once_after_a_crash(
    open_sinks: OpenSinks, s3: S3Target, tmp_path: Path, point: Point
) -> None:
    environment = bucket_environment(s3, tmp_path)
    process = archive_in_process(environment, *numbered(1, 2), killed=point)
    process.join()
    assert process.exitcode == -9
    sinks = open_sinks(environment)

    assert archive(sinks, *numbered(0, 1)) == [DONE] * 2
    assert archive(sinks, *numbered(2, 3)) == [DONE] * 2

    assert archived_numbers(sinks) == [0, 1, 2, 3]
