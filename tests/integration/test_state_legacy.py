"""Files of the version before the state was one database are taken over, once."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from meshtasks.errors import SinkUnavailable
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.flows.webhooks.log import WebhookLog
from meshtasks.gateway.store import Store
from meshtasks.rules.store import RuleStateStore
from meshtasks.state.archive_journal import ArchiveJournal
from meshtasks.state.database import Database, StateLocation
from tests.support.postgres import Postgres

DATA = Path(__file__).parents[1] / "data" / "state"
NOW = 1_795_440_000.0
YEAR = 365 * 86_400.0


@pytest.fixture
def location(state_location: StateLocation) -> StateLocation:
    """A state beside the old files."""
    shutil.copytree(DATA, state_location.directory)
    return state_location


def rules(location: StateLocation) -> Any:
    keys = "temperature,sensor_id=attic", "humidity,sensor_id=bäd"
    with (
        closing(RuleStateStore(location)) as store,
        store.transaction(keys, NOW) as states,
    ):
        return dict(states)


RULES = {
    "temperature,sensor_id=attic": {
        "seen": NOW,
        "rules": {"hot": {"since": NOW - 60, "firing": True}},
    },
    "humidity,sensor_id=bäd": {
        "seen": NOW - 1,
        "rules": {"odd": {"parts": [[3, 2, 20.5, 0.5]]}},
    },
}


def alerts(location: StateLocation) -> Any:
    with closing(AlertStore(location)) as store, store.tables() as tables:
        firing = sorted(alert.title for alert in tables.firing())
        group = tables.groups()[0]
        told = {
            member.alert.title: member.notified.phase
            for member in tables.members(group.id)
        }
        known = len(tables.alerts()), sorted(tables.seen_since(0.0))
        silences = [(each.id, each.matchers) for each in tables.silences()]
        history = [event.kind for event in tables.history(50)]
        repeated = tables.is_repeated("r1", NOW)
        return firing, told, known, silences, history, repeated, tables.note("clock")


ALERTS = (
    ["Attic is hot", "Bath is damp"],
    {"Attic is hot": "firing", "Bath is damp": "firing"},
    (3, ["r1", "r2", "r3"]),
    [("abcd1234", ("location=attic",))],
    ["silenced", "sent", "firing", "firing"],
    True,
    f"{NOW + 60}",
)


def archive(location: StateLocation) -> Any:
    with (
        closing(ArchiveJournal(location, clock=lambda: NOW)) as journal,
        journal.hold(),
    ):
        stored = journal.stored(["a1", "a2", "a3", "b1", "b2", "c1", "d1"])
        known = stored, journal.pending(), journal.damaged()
        assert journal.abandoned() == journal.pending()
        journal.finish(["three"])
        with journal.claim(["c1", "d1"]) as claim:
            return *known, set(claim.new)


ARCHIVE = {"a1", "a2", "a3", "b1", "b2"}, ["three"], {"four": "it is empty"}, {"d1"}


def webhooks(location: StateLocation) -> Any:
    with closing(WebhookLog(location)) as log:
        return log.taken(["m1", "m2", "m3"])


WEBHOOKS = {("m1", "lights"), ("m1", "siren"), ("m2", "lights")}


def gateway(location: StateLocation) -> Any:
    store = Store(location, YEAR, YEAR)
    tasks = [store.task(name) for name in ("t1", "t2")]
    known = store.reserve("n8n", "k1", "digest", "new", NOW + 100)
    cut_off = store.reserve("n8n", "k2", "digest2", "new", NOW + 100)
    store.close()
    return [task and (task.state, task.result) for task in tasks], known, cut_off


GATEWAY = (
    [("SUCCESS", [1, {"a": "ä"}]), ("PENDING", None)],
    ("t1", {"content": {"task_id": "t1"}}),
    ("t2", None),
)

Read = Callable[[StateLocation], Any]
FILES = [
    pytest.param("rules.sqlite", rules, RULES, id="rules"),
    pytest.param("alerts.sqlite", alerts, ALERTS, id="alerts"),
    pytest.param("archive.sqlite", archive, ARCHIVE, id="archive"),
    pytest.param("webhooks.sqlite", webhooks, WEBHOOKS, id="webhooks"),
    pytest.param("gateway.sqlite", gateway, GATEWAY, id="gateway"),
]


@pytest.mark.parametrize(("name", "read", "known"), FILES)
def test_what_a_file_had_is_known(
    location: StateLocation, name: str, read: Read, known: Any
) -> None:
    assert read(location) == known

    left = sorted(path.name for path in location.directory.glob(f"{name}*"))
    assert left == [f"{name}.imported"]


def count_rows(location: StateLocation) -> dict[str, int]:
    with (
        closing(Database("test", location, "none")) as database,
        database.transaction() as connection,
    ):
        tables = "alerts", "alert_events", "alert_members", "rule_states"
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in tables
        }


DIE = """
import os, signal, sqlite3, sys
from pathlib import Path
from sqlalchemy import Connection, make_url
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.state import legacy
from meshtasks.state.database import StateLocation

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

step = sys.argv[3]
if step == "before the token":
    legacy._token_of = die
elif step == "before the rows":
    legacy._copy = die
elif step == "among the rows":
    legacy.COPIES["alerts.sqlite"] = lambda *a, all=legacy._alerts: (all(*a), die())
elif step == "before the new name":
    legacy._free_name = die
store = AlertStore(StateLocation(make_url(sys.argv[1]), Path(sys.argv[2])))
with store.tables():
    pass
"""


@pytest.mark.parametrize(
    "step",
    ["before the token", "before the rows", "among the rows", "before the new name"],
)
def test_a_process_killed_while_it_imports_leaves_nothing_double(
    location: StateLocation, step: str
) -> None:
    url = location.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", DIE, url, str(location.directory), step]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    assert alerts(location) == ALERTS
    assert count_rows(location)["alert_events"] == 4
    assert (location.directory / "alerts.sqlite.imported").exists()


def test_a_file_that_a_worker_of_the_earlier_version_uses_is_left_to_it(
    location: StateLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtasks.state.legacy._BUSY_SECONDS", 0.05)
    path = location.directory / "webhooks.sqlite"
    with closing(sqlite3.connect(path)) as worker:
        worker.execute("PRAGMA journal_mode = WAL")
        worker.execute("SELECT * FROM taken").fetchall()
        with pytest.raises(
            SinkUnavailable, match=r"webhooks\.sqlite.*stop the workers"
        ):
            webhooks(location)

    assert webhooks(location) == WEBHOOKS


def test_a_file_that_cannot_be_read_says_what_to_do_and_keeps_no_other_store(
    location: StateLocation,
) -> None:
    path = location.directory / "webhooks.sqlite"
    path.write_bytes(b"no database" * 1_000)

    with pytest.raises(SinkUnavailable, match=r"webhooks\.sqlite.*move it away"):
        webhooks(location)
    assert rules(location) == RULES

    path.unlink()
    assert webhooks(location) == set()


def test_rules_of_a_still_earlier_version_begin_afresh(location: StateLocation) -> None:
    with closing(sqlite3.connect(location.directory / "rules.sqlite")) as old:
        old.execute("PRAGMA user_version = 999")

    assert rules(location) == {}


def test_a_journal_without_a_number_is_taken_over(location: StateLocation) -> None:
    with closing(sqlite3.connect(location.directory / "archive.sqlite")) as old:
        old.execute("PRAGMA user_version = 0")

    assert archive(location) == ARCHIVE


def test_a_second_file_of_that_name_is_taken_over_too(location: StateLocation) -> None:
    webhooks(location)
    path = location.directory / "webhooks.sqlite"
    shutil.copy(DATA / "webhooks.sqlite", path)
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("INSERT INTO taken VALUES ('m9', 'siren', ?)", (NOW,))

    with closing(WebhookLog(location)) as log:
        assert log.taken(["m1", "m9"]) == {
            ("m1", "lights"),
            ("m1", "siren"),
            ("m9", "siren"),
        }
    assert not path.exists()
    assert len(list(location.directory.glob("webhooks.sqlite.imported*"))) == 2


def test_of_the_files_of_two_hosts_the_later_states_count(
    postgres: Postgres, postgres_template: str, tmp_path: Path
) -> None:
    url = make_url(postgres.url(postgres.new_database(postgres_template)))
    hosts = [StateLocation(url, tmp_path / name) for name in ("one", "two", "three")]
    for host, ago in zip(hosts, (100.0, 0.0, 200.0), strict=True):
        shutil.copytree(DATA, host.directory)
        with closing(sqlite3.connect(host.directory / "rules.sqlite")) as old, old:
            change = "UPDATE series SET state = ?, updated_at = updated_at - ?"
            old.execute(change, (f'{{"seen": {ago}, "rules": {{}}}}', ago))

    for host in hosts:
        states = rules(host)
        assert alerts(host)[:4] == ALERTS[:4]

    assert {state["seen"] for state in states.values()} == {0.0}
    assert archive(hosts[0]) == ARCHIVE


@pytest.fixture(autouse=True)
def _no_old_file_is_changed() -> Iterator[None]:
    before = {path: path.read_bytes() for path in DATA.iterdir()}
    yield
    assert {path: path.read_bytes() for path in DATA.iterdir()} == before
