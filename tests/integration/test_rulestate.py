"""The store of rule states: shared, transactional, bounded, rebuildable."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.errors import SinkUnavailable, Transient
from meshtasks.rules import store as rulestate
from meshtasks.rules.evaluation import SeriesState
from meshtasks.rules.store import (
    KEEP_SECONDS,
    PRUNE_EVERY_SECONDS,
    RuleStateStore,
)
from meshtasks.state import sqlite

NOW = 1_795_440_000.0
STATE: SeriesState = {"seen": NOW, "rules": {"hot": {"since": NOW, "firing": True}}}

COUNT_UP = """
import sys
from pathlib import Path
from meshtasks.rules.store import RuleStateStore

store = RuleStateStore(Path(sys.argv[1]))
for _ in range(100):
    with store.transaction(["shared"], 1.0) as states:
        seen = states["shared"]["seen"] if "shared" in states else 0
        states["shared"] = {"seen": seen + 1, "rules": {}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "rules.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[RuleStateStore]:
    with closing(RuleStateStore(path)) as opened:
        yield opened


def put(
    store: RuleStateStore, *keys: str, now: float = NOW, state: SeriesState = STATE
) -> None:
    with store.transaction(keys, now) as states:
        states.update(dict.fromkeys(keys, state))


def get(store: RuleStateStore, *keys: str, now: float = NOW) -> dict[str, SeriesState]:
    with store.transaction(keys, now) as states:
        return dict(states)


def test_what_is_assigned_is_there_the_next_time(store: RuleStateStore) -> None:
    put(store, "a", "b")

    assert get(store, "a", "unknown") == {"a": STATE}


def test_it_survives_the_process(store: RuleStateStore, path: Path) -> None:
    put(store, "a")

    with closing(RuleStateStore(path)) as other:
        assert get(other, "a") == {"a": STATE}


def test_a_block_that_raises_leaves_everything_as_it_was(store: RuleStateStore) -> None:
    put(store, "a")
    changed: SeriesState = {"seen": NOW + 1, "rules": {}}

    def fail() -> None:
        with store.transaction(["a"], NOW) as states:
            states["a"] = changed
            raise Transient

    with pytest.raises(Transient):
        fail()

    assert get(store, "a") == {"a": STATE}


def test_processes_take_turns_and_no_update_is_lost(
    store: RuleStateStore, path: Path
) -> None:
    command = [sys.executable, "-c", COUNT_UP, str(path)]
    workers = [subprocess.Popen(command) for _ in range(3)]

    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert get(store, "shared")["shared"]["seen"] == 300


def test_a_file_that_another_process_holds_is_a_passing_fault(
    store: RuleStateStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    put(store, "a")

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailable, match="locked"):
            put(store, "a")

        store.probe()  # others write to it, so it can be written

    put(store, "a")


def test_a_file_that_is_no_database_is_an_unavailable_sink_until_it_is_removed(
    store: RuleStateStore, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1_000)

    with pytest.raises(SinkUnavailable, match="not a database") as caught:
        put(store, "a")
    with pytest.raises(SinkUnavailable):
        store.probe()
    assert caught.value.sink == "rule_state"

    path.unlink()
    store.probe()
    put(store, "a")


def test_a_directory_that_cannot_be_made_is_an_unavailable_sink(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = RuleStateStore(tmp_path / "file" / "rules.sqlite")

    with pytest.raises(SinkUnavailable):
        put(store, "a")


def test_series_that_fell_silent_are_forgotten(store: RuleStateStore) -> None:
    put(store, "silent")
    later = NOW + KEEP_SECONDS + 1
    put(store, "talking", now=later)

    assert get(store, "silent", "talking", now=later) == {"talking": STATE}


def test_of_too_many_series_the_latest_are_kept(
    store: RuleStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulestate, "KEEP_SERIES", 2)
    put(store, "oldest")
    put(store, "older", now=NOW + 1)
    put(store, "newest", now=NOW + PRUNE_EVERY_SECONDS)

    assert set(get(store, "oldest", "older", "newest")) == {"older", "newest"}


def test_states_of_another_shape_are_dropped(store: RuleStateStore, path: Path) -> None:
    put(store, "a")
    store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 999")

    assert get(store, "a") == {}
