"""The store of rule states: shared, transactional, bounded, rebuildable."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.settings import Settings
from meshtasks.errors import Transient
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES, Sinks
from meshtasks.outcome import DONE
from meshtasks.rules import store as rulestate
from meshtasks.rules.evaluation import SeriesState
from meshtasks.rules.store import (
    KEEP_SECONDS,
    PRUNE_EVERY_SECONDS,
    RuleStateStore,
)
from meshtasks.state.database import StateLocation
from tests.support.archive import directory_environment
from tests.support.handling import Kept, handle, message
from tests.support.postgres import Postgres

NOW = 1_795_440_000.0
QUEUE = "sensors.temperature"
STATE: SeriesState = {"seen": NOW, "rules": {"hot": {"since": NOW, "firing": True}}}

COUNT_UP = """
import sys
from pathlib import Path
from sqlalchemy import make_url
from meshtasks.rules.store import RuleStateStore
from meshtasks.state.database import StateLocation
from tests.support.archive import directory_environment
from tests.support.handling import Kept, handle, message
from tests.support.postgres import Postgres

store = RuleStateStore(StateLocation(make_url(sys.argv[1]), Path(sys.argv[2])))
for _ in range(100):
    with store.transaction(["shared"], 1.0) as states:
        seen = states["shared"]["seen"] if "shared" in states else 0
        states["shared"] = {"seen": seen + 1, "rules": {}}
"""


@pytest.fixture
def store(state_location: StateLocation) -> Iterator[RuleStateStore]:
    with closing(RuleStateStore(state_location)) as opened:
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


def test_it_survives_the_process(
    store: RuleStateStore, state_location: StateLocation
) -> None:
    put(store, "a")

    with closing(RuleStateStore(state_location)) as other:
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
    store: RuleStateStore, state_location: StateLocation
) -> None:
    url = state_location.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", COUNT_UP, url, str(state_location.directory)]
    workers = [subprocess.Popen(command) for _ in range(2)]

    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert get(store, "shared")["shared"]["seen"] == 200


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


def test_any_text_can_be_a_key(store: RuleStateStore) -> None:
    keys = ["a\0b", "\ud800", "long" * 1_000, "long" * 1_000 + "er", "'\"\\%", ""]
    for number, key in enumerate(keys):
        put(store, key, state={"seen": number, "rules": {}})

    assert {key: state["seen"] for key, state in get(store, *keys).items()} == {
        key: number for number, key in enumerate(keys)
    }


def test_batches_with_series_in_common_do_not_wait_for_each_other_for_ever(
    state_location: StateLocation,
) -> None:
    keys = [f"series {number}" for number in range(40)]

    def count_up(first: int) -> None:
        with closing(RuleStateStore(state_location)) as mine:
            for round_ in range(20):
                some = random.Random(first + round_).sample(keys, 20)
                with mine.transaction(some, NOW) as states:
                    for key in some:
                        seen = states[key]["seen"] if key in states else 0
                        states[key] = {"seen": seen + 1, "rules": {}}

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count_up, 1_000 * number) for number in range(4)]:
            done.result()

    with closing(RuleStateStore(state_location)) as store:
        states = get(store, *keys)
    assert sum(state["seen"] for state in states.values()) == 4 * 20 * 20


def test_a_host_whose_clock_is_wrong_gives_the_alerts_of_one_whose_is_right(
    postgres: Postgres,
    postgres_template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They share the states, and take turns."""
    kept: Any = Kept()
    right = time.time
    start = right() - 600

    def alerts_of(url: str, skews: list[float]) -> dict[str | None, bytes]:
        kept.alerts = {}
        settings = Settings(directory_environment(tmp_path / "x", state_url=url))
        with ExitStack() as stack:
            hosts = [stack.enter_context(closing(Sinks(settings))) for _ in skews]
            for number in range(60):
                which = number % len(skews)
                sinks, skew = hosts[which], skews[which]
                sinks[TIMESERIES] = sinks[PUBLISHER] = kept
                monkeypatch.setattr(time, "time", lambda skew=skew: right() + skew)
                at = start + 10 * number
                hot = 70.0 if number % 20 > 14 else 20.0 + number % 3
                body = b'{"sensor_id":"s","value":%.1f,"timestamp":%.3f}' % (hot, at)
                given = message(QUEUE, f"{QUEUE}.s", body, received_at=at + skew)
                assert handle(sinks, given) == [DONE]
        alerts: dict[str | None, bytes] = kept.alerts
        return alerts

    def new_state() -> str:
        return postgres.url(postgres.new_database(postgres_template))

    expected = alerts_of(new_state(), [0.0])

    assert alerts_of(new_state(), [0.0, -7_200.0, 7_200.0]) == expected
    assert len(expected) >= 4
