"""The journal knows which records are stored, whatever happens to its processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshtasks.errors import SinkUnavailable
from meshtasks.state.archive_journal import ArchiveJournal
from tests.support.waiting import wait_until

DAY_SECONDS = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal of the test is."""
    return tmp_path / "state" / "archive.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[ArchiveJournal]:
    """A journal that nothing was ever noted in."""
    it = ArchiveJournal(path)
    yield it
    it.close()


def store(journal: ArchiveJournal, name: str, *ids: str) -> None:
    """Note an object as stored."""
    journal.intend({name: ids})
    journal.finish([name])


def test_a_record_nobody_stored_is_unknown(journal: ArchiveJournal) -> None:
    assert journal.stored(["a"]) == set()


def test_the_records_of_a_finished_object_are_stored(journal: ArchiveJournal) -> None:
    store(journal, "one", "a", "b")
    assert journal.stored(["a", "b", "c"]) == {"a", "b"}


def test_the_records_of_a_pending_object_are_not_yet_stored(
    journal: ArchiveJournal,
) -> None:
    journal.intend({"one": ["a"], "two": ["b"]})

    assert journal.stored(["a", "b"]) == set()
    assert sorted(journal.pending()) == ["one", "two"]


def test_a_finished_object_is_no_longer_pending(journal: ArchiveJournal) -> None:
    journal.intend({"one": ["a"], "two": ["b"]})
    journal.finish(["one"])
    assert journal.pending() == ["two"]


def test_a_forgotten_object_leaves_no_trace(journal: ArchiveJournal) -> None:
    journal.intend({"one": ["a"]})

    journal.forget(["one"])

    assert journal.pending() == []
    assert journal.stored(["a"]) == set()


def test_what_was_noted_is_there_for_the_next_process(
    journal: ArchiveJournal, path: Path
) -> None:
    store(journal, "one", "a")
    journal.intend({"two": ["b"]})

    later = ArchiveJournal(path)

    assert later.stored(["a", "b"]) == {"a"}
    assert later.pending() == ["two"]
    later.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
@example(["a\0b", "a", "a\0"])
@example(['"', "\\u0000", "%", "\ud800"])
def test_any_text_can_be_an_id(journal: ArchiveJournal, ids: list[str]) -> None:
    store(journal, "one", *ids)
    assert journal.stored(ids) == set(ids)


def test_a_million_ids_do_not_stay_forever(path: Path) -> None:
    small = ArchiveJournal(path, generation_ids=3)
    for number in range(20):
        store(small, f"object {number}", f"record {number}")

    known = small.stored([f"record {number}" for number in range(20)])

    assert {"record 17", "record 18", "record 19"} <= known
    assert len(known) <= 6
    small.close()


def test_an_id_is_known_for_as_long_as_a_message_may_be_retried(path: Path) -> None:
    now = 0.0
    journal = ArchiveJournal(path, clock=lambda: now)
    for day in range(30):
        now = day * DAY_SECONDS
        store(journal, f"object {day}", f"record {day}")

    known = journal.stored([f"record {day}" for day in range(30)])

    assert {f"record {day}" for day in range(22, 30)} <= known
    assert "record 10" not in known
    journal.close()


def test_one_process_at_a_time_holds_it(path: Path, journal: ArchiveJournal) -> None:
    waiting = threading.Event()
    held = threading.Event()

    def hold_too() -> None:
        other = ArchiveJournal(path)
        waiting.set()
        with other.hold():
            held.set()
        other.close()

    with journal.hold():
        thread = threading.Thread(target=hold_too)
        thread.start()
        waiting.wait()
        assert not held.wait(0.1)
    thread.join()
    assert held.is_set()


def test_a_process_that_is_killed_lets_go(path: Path, journal: ArchiveJournal) -> None:
    holding = (
        "import sys, pathlib, meshtasks.state.archive_journal as j\n"
        f"with j.ArchiveJournal(pathlib.Path({str(path)!r})).hold():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

        process.kill()

        with journal.hold():
            assert journal.pending() == []


def test_a_file_that_is_no_journal_is_named(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database, whatever its name says" * 100)
    journal = ArchiveJournal(path)

    with pytest.raises(SinkUnavailable, match=r"archive\.sqlite.*MESH_STATE_DIR") as it:
        journal.stored(["a"])

    assert it.value.sink == "journal"
    journal.close()


def test_it_works_again_once_its_directory_can_be_made(path: Path) -> None:
    path.parent.write_text("in the way")
    journal = ArchiveJournal(path)
    with pytest.raises(SinkUnavailable), journal.hold():
        pass
    with pytest.raises(SinkUnavailable):
        journal.probe()

    path.parent.unlink()

    journal.probe()
    with journal.hold():
        assert journal.pending() == []
    journal.close()


def test_killing_a_process_in_the_midst_of_noting_leaves_all_or_nothing(
    path: Path, journal: ArchiveJournal
) -> None:
    noting = (
        "import pathlib, itertools, meshtasks.state.archive_journal as j\n"
        f"journal = j.ArchiveJournal(pathlib.Path({str(path)!r}))\n"
        "for n in itertools.count():\n"
        "    journal.intend({str(n): [f'{n}/{i}' for i in range(100)]})\n"
        "    print(n, flush=True)\n"
        "    journal.finish([str(n)])\n"
    )
    journal.probe()
    with subprocess.Popen(
        [sys.executable, "-c", noting], stdout=subprocess.PIPE
    ) as process:
        wait_until(lambda: journal.stored(["9/0"]), 20, "ten objects noted")
        process.kill()
        assert process.stdout is not None
        begun = len(process.stdout.read().splitlines())

    pending = set(journal.pending())
    for number in range(begun):
        ids = [f"{number}/{i}" for i in range(100)]
        assert len(journal.stored(ids)) == (0 if str(number) in pending else 100)
    assert len(pending) <= 1


def test_a_file_of_an_earlier_version_keeps_what_it_knows(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as earlier, earlier:
        earlier.executescript(
            """
            CREATE TABLE pending (name TEXT PRIMARY KEY, ids TEXT NOT NULL);
            CREATE TABLE damaged (name TEXT PRIMARY KEY, fault TEXT NOT NULL);
            CREATE TABLE previous (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE current (id TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE generation (
                row INTEGER PRIMARY KEY CHECK (row = 1), started_at REAL NOT NULL,
                ids INTEGER NOT NULL, probed_at REAL
            );
            INSERT INTO generation VALUES (1, 5.0, 1, NULL);
            INSERT INTO current VALUES ('a');
            INSERT INTO pending VALUES ('one', '["b"]');
            """
        )

    journal = ArchiveJournal(path, clock=lambda: 6.0)

    assert journal.stored(["a", "b"]) == {"a"}
    assert journal.pending() == ["one"]
    journal.finish(["one"])
    assert journal.stored(["a", "b"]) == {"a", "b"}
    journal.close()
