"""The database of the state: a file that all processes of a host share, or a server."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from meshtasks.errors import SinkUnavailable
from meshtasks.state import connecting, database, migrations, session
from meshtasks.state.connecting import revision_of
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.migrations import config_of
from meshtasks.state.session import Session
from meshtasks.state.tables import METADATA, REVISION
from tests.support.postgres import Postgres
from tests.support.proxy import Proxy

COUNT_UP = """
import sys
from pathlib import Path
from sqlalchemy import make_url, text
from meshtasks.state.database import Database, StateLocation

location = StateLocation(make_url(sys.argv[1]), Path(sys.argv[2]))
state = Database("test", location, "old.sqlite")
for _ in range(100):
    with state.transaction(exclusive=True) as db:
        add = "INSERT INTO alert_notes VALUES ('n', 'x') ON CONFLICT (name) "
        db.execute(text(add + "DO UPDATE SET value = alert_notes.value || 'x'"))
"""


@pytest.fixture
def state(state_location: StateLocation) -> Iterator[Database]:
    with closing(Database("test", state_location, "old.sqlite")) as opened:
        yield opened


def add(connection: Connection) -> None:
    insert = "INSERT INTO alert_notes VALUES ('n', 'x') ON CONFLICT (name) "
    connection.execute(text(insert + "DO UPDATE SET value = alert_notes.value || 'x'"))


def count(state: Database) -> int:
    with state.transaction() as connection:
        value = connection.execute(text("SELECT value FROM alert_notes")).scalar()
    return len(value or "")


def test_processes_take_turns_from_making_the_tables_on(
    state: Database, state_location: StateLocation
) -> None:
    url = state_location.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", COUNT_UP, url, str(state_location.directory)]
    workers = [subprocess.Popen(command) for _ in range(2)]

    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert count(state) == 200


def test_a_transaction_that_raises_writes_nothing(state: Database) -> None:
    def add_and_raise() -> None:
        with state.transaction() as connection:
            add(connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_raise()

    assert count(state) == 0


@pytest.fixture(params=["new", "migrated"])
def tables(
    request: pytest.FixtureRequest, state: Database, monkeypatch: pytest.MonkeyPatch
) -> Database:
    """The tables of a new database, and those that the migrations make."""
    if request.param == "migrated":
        if state.is_shared:
            postgres: Postgres = request.getfixturevalue("postgres")
            url = make_url(postgres.url(postgres.new_database()))
            state.location = replace(state.location, url=url)
        monkeypatch.setattr(database, "make_tables", migrations.upgrade)
    return state


def test_the_tables_are_as_they_are_described(tables: Database) -> None:
    with tables.transaction() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_server_default": True}
        )
        assert compare_metadata(context, METADATA) == []
        assert revision_of(connection) == REVISION


def test_a_new_file_has_the_tables_that_the_migrations_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(name: str) -> dict[str, list[str]]:
        location = StateLocation.in_directory(tmp_path / name)
        with (
            closing(Database("test", location, "old.sqlite")) as state,
            state.transaction() as connection,
        ):
            rows = connection.execute(text("SELECT name, sql FROM sqlite_schema"))
            # two foreign keys of one table may stand in any order
            return {
                table: sorted((sql or "").replace(",", " ").split())
                for table, sql in rows
            }

    new = described("new")
    monkeypatch.setattr(database, "make_tables", migrations.upgrade)

    assert new == described("migrated")


def test_a_database_of_a_newer_version_is_left_alone(
    state: Database, state_location: StateLocation
) -> None:
    with state.transaction() as connection:
        add(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with (
        closing(Database("test", state_location, "old.sqlite")) as older,
        pytest.raises(SinkUnavailable, match=r"newer version of meshtasks.*9999"),
        older.transaction(),
    ):
        pass

    assert count(state) == 1


def test_a_probe_writes_and_leaves_nothing_else(state: Database) -> None:
    state.probe()

    assert count(state) == 0


# --- a file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    location = StateLocation.in_directory(tmp_path / "state")
    with closing(Database("test", location, "old.sqlite")) as opened:
        yield opened


def test_a_file_that_another_process_holds_is_a_passing_fault(
    file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "BUSY_TIMEOUT_SECONDS", 0.05)
    count(file)

    with closing(sqlite3.connect(file.location.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailable, match="locked"):
            count(file)

        file.probe()  # others write to it, so it can be written

    assert count(file) == 0


def test_a_file_that_is_no_database_is_an_unavailable_sink_until_it_is_removed(
    file: Database,
) -> None:
    path = file.location.path
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1_000)

    with pytest.raises(SinkUnavailable, match=r"mesh\.db.*not a database") as caught:
        count(file)
    with pytest.raises(SinkUnavailable, match="MESH_STATE_DIR"):
        file.probe()
    assert caught.value.sink == "test"

    path.unlink()
    file.probe()
    assert count(file) == 0


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")])
def test_stores_that_have_the_file_open_meet_in_the_new_one_after_it_was_deleted(
    file: Database, suffixes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    path = file.location.path
    with closing(Database("other", file.location, "old.sqlite")) as other:
        for each in (file, other):
            with each.transaction() as connection:
                add(connection)
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink()

        for each in (file, other):
            with each.transaction() as connection:
                add(connection)

        assert [count(file), count(other)] == [2, 2]
    with closing(sqlite3.connect(path)) as later:
        assert later.execute("SELECT value FROM alert_notes").fetchall() == [("xx",)]
    assert caplog.text.count("was deleted or replaced") == 2


def test_a_directory_that_cannot_be_made_is_an_unavailable_sink(
    file: Database,
) -> None:
    in_the_way = file.location.path.parent
    in_the_way.touch()

    with pytest.raises(SinkUnavailable):
        count(file)

    in_the_way.unlink()
    assert count(file) == 0


# --- a server


@pytest.fixture
def server(
    postgres: Postgres, postgres_template: str, tmp_path: Path
) -> Iterator[Database]:
    url = make_url(postgres.url(postgres.new_database(postgres_template)))
    location = StateLocation(url, tmp_path)
    with closing(Database("test", location, "old.sqlite")) as opened:
        yield opened


def test_a_server_that_ended_our_session_is_connected_to_again(
    server: Database, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_RESTED_SECONDS", 0.0)
    count(server)

    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{server.location.url.database}'"
    )

    assert count(server) == 0


def test_a_session_that_ends_within_a_transaction_is_one_error_and_no_log(
    server: Database, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    insert = text("INSERT INTO alert_notes VALUES (:name, 'x')")

    def add_many() -> None:
        with server.transaction() as connection:
            database = server.location.url.database
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database}'"
            )
            connection.execute(insert, [{"name": str(n)} for n in range(10)])

    with pytest.raises(SinkUnavailable):
        add_many()

    assert caplog.records == []


def test_a_server_that_is_not_there_is_an_unavailable_sink_without_a_password(
    server: Database,
) -> None:
    url = server.location.url.set(port=1, password="s3cret-word")
    away = Database("test", replace(server.location, url=url), "old.sqlite")

    with pytest.raises(SinkUnavailable, match="MESH_STATE_URL") as caught:
        count(away)
    with pytest.raises(SinkUnavailable):
        away.probe()

    assert "s3cret" not in str(caught.value)
    assert caught.value.sink == "test"


def test_a_server_that_freezes_within_a_transaction_is_an_unavailable_sink(
    server: Database, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "answer_seconds", 0.2)
    with Proxy(postgres.port) as proxy:
        url = server.location.url.set(port=proxy.port)
        behind = Database("test", replace(server.location, url=url), "old.sqlite")

        def add_while_it_freezes() -> None:
            with behind.transaction() as connection:
                add(connection)
                proxy.freeze()
                add(connection)

        with (
            closing(behind),
            pytest.raises(SinkUnavailable, match="no answer within"),
        ):
            add_while_it_freezes()

    assert count(server) == 0


def test_a_pooler_that_changes_the_session_is_refused(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = itertools.count(1)
    monkeypatch.setattr(session, "_process_of", lambda _: next(processes))

    with pytest.raises(SinkUnavailable, match="pool_mode=session"):
        count(server)


def test_a_wrong_password_is_an_unavailable_sink_that_does_not_show_it(
    server: Database,
) -> None:
    url = server.location.url.set(password="s3cret-word")
    refused = Database("test", replace(server.location, url=url), "old.sqlite")

    with pytest.raises(SinkUnavailable, match="password") as caught:
        count(refused)

    assert "s3cret" not in str(caught.value)


def test_text_is_kept_whatever_the_account_s_own_encoding_is(
    server: Database, postgres: Postgres
) -> None:
    name = server.location.url.database
    postgres.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    note = text("INSERT INTO alert_notes VALUES (:note, :note) RETURNING value")

    with server.transaction() as connection:
        assert connection.execute(note, {"note": "Küche → ☃"}).scalar() == "Küche → ☃"


def test_a_server_s_clock_is_that_of_all_hosts(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: right - 7_200)

    assert right - 1 < server.now() < right + 300


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_keep_all_text_is_refused(
    server: Database, postgres: Postgres, encoding: str
) -> None:
    name = f"mesh_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'")
    url = server.location.url.set(database=name)
    other = Database("test", replace(server.location, url=url), "old.sqlite")

    with pytest.raises(SinkUnavailable, match=f"encoding is {encoding}.*'UTF8'"):
        count(other)


def test_a_transaction_that_others_hold_up_for_too_long_is_a_passing_fault(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = connecting._SESSION.replace("'10s'", "'50ms'")  # noqa: SLF001
    monkeypatch.setattr(connecting, "_SESSION", short)
    other = Database("test", server.location, "old.sqlite")

    with (
        server.transaction(exclusive=True),
        closing(other),
        pytest.raises(SinkUnavailable, match="lock timeout"),
        other.transaction(exclusive=True),
    ):
        pass


def test_the_revision_is_that_of_the_last_migration(state: Database) -> None:
    with state.transaction() as connection:
        script = ScriptDirectory.from_config(config_of(connection))

    assert script.get_current_head() == REVISION
