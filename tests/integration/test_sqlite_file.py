"""A SQLite file that all processes of a host share."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.errors import SinkUnavailable
from meshtasks.state import sqlite
from meshtasks.state.sqlite import SqliteFile

SCHEMA = "CREATE TABLE counts (n INTEGER); INSERT INTO counts VALUES (0)"

COUNT_UP = """
import sys
from pathlib import Path
from meshtasks.state.sqlite import SqliteFile

file = SqliteFile("test", Path(sys.argv[1]), sys.argv[2], 1)
for _ in range(200):
    with file.transaction() as db:
        (n,) = db.execute("SELECT n FROM counts").fetchone()
        db.execute("UPDATE counts SET n = ?", (n + 1,))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "test.sqlite"


@pytest.fixture
def file(path: Path) -> Iterator[SqliteFile]:
    with closing(SqliteFile("test", path, SCHEMA, 1)) as opened:
        yield opened


def count(file: SqliteFile) -> int:
    with file.transaction() as db:
        (n,) = db.execute("SELECT n FROM counts").fetchone()
    return int(n)


def add_and_raise(file: SqliteFile, error: Exception) -> None:
    with file.transaction() as db:
        db.execute("UPDATE counts SET n = n + 1")
        raise error


def test_processes_take_turns_from_making_the_tables_on(
    file: SqliteFile, path: Path
) -> None:
    command = [sys.executable, "-c", COUNT_UP, str(path), SCHEMA]
    workers = [subprocess.Popen(command) for _ in range(3)]

    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert count(file) == 600


def test_a_transaction_that_raises_writes_nothing(file: SqliteFile) -> None:
    with pytest.raises(ZeroDivisionError):
        add_and_raise(file, ZeroDivisionError())

    assert count(file) == 0


def test_a_file_that_is_held_is_a_passing_fault(
    file: SqliteFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    count(file)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailable, match="locked"):
            count(file)

    assert count(file) == 0


def test_a_file_that_is_no_database_is_an_unavailable_sink_until_it_is_removed(
    file: SqliteFile, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1_000)

    with pytest.raises(SinkUnavailable, match="not a database") as caught:
        count(file)
    with pytest.raises(SinkUnavailable):
        file.probe()
    assert caught.value.sink == "test"

    path.unlink()
    file.probe()
    assert count(file) == 0


def test_a_file_of_another_version_is_left_alone(file: SqliteFile, path: Path) -> None:
    count(file)
    newer = SqliteFile("test", path, "CREATE TABLE more (n INTEGER)", 2)

    with pytest.raises(SinkUnavailable, match="another version of meshtasks"):
        count(newer)
    assert count(file) == 0
