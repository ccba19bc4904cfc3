"""``meshtasks state``: the state is upgraded, looked at, and moved."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from typer.testing import CliRunner

from meshtasks.cli.state import app
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.alerts.state import AlertEvent
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.state.archive_journal import ArchiveJournal
from meshtasks.state.database import Database, StateLocation
from tests.support.postgres import Postgres

DATA = Path(__file__).parents[1] / "data" / "state"
OLD = ["alerts", "archive", "gateway", "rules", "webhooks"]


def run(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, arguments, **options)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a state that of the commands."""
    monkeypatch.chdir(tmp_path)

    def use(location: StateLocation) -> StateLocation:
        url = location.url.render_as_string(hide_password=False)
        monkeypatch.setenv("MESH_STATE_URL", url)
        monkeypatch.setenv("MESH_STATE_DIR", str(location.directory))
        return location

    return use


@pytest.fixture
def old(use: Any, state_location: StateLocation) -> StateLocation:
    """A state beside the files of the version before it."""
    shutil.copytree(DATA, state_location.directory)
    return use(state_location)  # type: ignore[no-any-return]


@pytest.fixture
def server(postgres: Postgres, postgres_template: str, tmp_path: Path) -> StateLocation:
    url = make_url(postgres.url(postgres.new_database(postgres_template)))
    return StateLocation(url, tmp_path / "state")


def test_upgrade_imports_all_files_and_check_shows_what_is_there(
    old: StateLocation,
) -> None:
    before = run("check")
    upgraded = run("upgrade")
    after = run("check")

    assert before.exit_code == 1
    assert "run meshtasks state upgrade" in before.stderr
    assert all(f"{name}.sqlite: of an earlier" in before.stdout for name in OLD)
    assert upgraded.exit_code == after.exit_code == 0
    assert all(f"{name}.sqlite" in upgraded.stdout for name in OLD)
    assert "revision 0002" in after.stdout
    assert "silences                     1" in after.stdout


def test_check_makes_no_database(use: Any, tmp_path: Path) -> None:
    location = use(StateLocation.in_directory(tmp_path / "state"))

    done = run("check")

    assert (done.exit_code, location.path.exists()) == (0, False)
    assert "no tables yet" in done.stdout


def test_a_database_of_a_newer_version_is_named(old: StateLocation) -> None:
    run("upgrade")
    with (
        closing(Database("test", old, "none")) as database,
        database.transaction() as connection,
    ):
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))

    for command in ("check", "upgrade"):
        done = run(command)
        assert isinstance(done.exception, SinkUnavailable)
        assert "newer version of meshtasks" in str(done.exception)


def test_a_state_moves_to_a_server_and_back(
    use: Any, server: StateLocation, tmp_path: Path
) -> None:
    first = use(StateLocation.in_directory(tmp_path / "first"))
    shutil.copytree(DATA, first.directory)
    run("upgrade")

    assert run("export", "one.jsonl").exit_code == 0
    use(server)
    there = run("import", "one.jsonl")
    moved = run("export", "-")
    use(StateLocation.in_directory(tmp_path / "second"))
    back = run("import", "-", input=moved.stdout)
    again = run("export", "-")

    assert there.exit_code == back.exit_code == 0, there.output
    lines = Path("one.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 25
    assert sorted(lines) == sorted(moved.stdout.splitlines())
    assert sorted(lines) == sorted(again.stdout.splitlines())
    # what was pending is claimed there, and the history goes on
    with closing(ArchiveJournal(server)) as journal:
        with journal.claim(["c1", "new"]) as claim:
            assert (set(claim.new), set(claim.busy)) == ({"new"}, {"c1"})
        assert journal.abandoned() == ["three"]
    with closing(AlertStore(server)) as store, store.tables() as tables:
        tables.add_event(AlertEvent(1.0, "sent", "title", "who", ""))
        assert len(tables.history(50)) == 5


def test_an_export_whose_reader_is_gone_ends_quietly(use: Any, tmp_path: Path) -> None:
    location = use(StateLocation.in_directory(tmp_path / "state"))
    with closing(AlertStore(location)) as store, store.tables() as tables:
        for number in range(200):
            tables.add_event(AlertEvent(float(number), "sent", "t" * 100, "who", ""))
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "meshtasks", "state", "export", "-"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )
    os.close(writer)

    assert (ended.returncode, b"roken pipe" in ended.stderr) == (141, False)


def test_nothing_is_imported_over_what_is_there_unless_told(
    old: StateLocation,
) -> None:
    run("upgrade")
    run("export", "state.jsonl")

    refused = run("import", "state.jsonl")
    replaced = run("import", "state.jsonl", "--replace")

    assert refused.exit_code == 65
    assert "is not empty: it has" in refused.stderr
    assert replaced.exit_code == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no export", "line 1: this is no export"),
        ('{"meshtasks_state": "0009"}', "line 1: the export has tables of revision"),
        ('{"meshtasks_state": "0002"}\n{"table": "x", "row": {}}', "line 2: expected"),
        (
            '{"meshtasks_state": "0002"}\n{"table": "silences", "row": {"id": "a"}}',
            "line 2: expected the columns of silences",
        ),
    ],
)
def test_what_is_no_export_is_refused_with_its_line_and_changes_nothing(
    old: StateLocation, line: str, reason: str
) -> None:
    run("upgrade")
    before = run("export", "-").stdout

    done = run("import", "-", "--replace", input=line)

    assert done.exit_code == 65
    assert reason in done.stderr
    assert run("export", "-").stdout == before


def test_an_export_is_json_a_line(old: StateLocation) -> None:
    run("upgrade")

    lines = [json.loads(line) for line in run("export", "-").stdout.splitlines()]

    assert lines[0] == {"meshtasks_state": "0002"}
    tables = {line["table"] for line in lines[1:]}
    assert {"alerts", "rule_states", "gateway_tasks", "archive_ids_0"} <= tables
