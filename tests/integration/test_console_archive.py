"""The console's page of the archive, and SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from nicegui import ui
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.archive.objects import OBJECTS, archived_objects
from meshtasks.flows.sinks import Sinks
from meshtasks.gateway.console.archive import add_archive
from tests.support.amqp import drain, queue_depth
from tests.support.analytics import archive
from tests.support.archive import NOON, directory_environment
from tests.support.command import variables
from tests.support.gateway import TOKENS
from tests.support.pages import Visit, Walk, walking

DAY = 86_400.0
TEMPERATURES = "sensors.temperature"


@pytest.fixture
def broker_url() -> str:
    """Of a broker that is away: the page of the archive does not need one to look."""
    return "amqp://u:p@127.0.0.1:1/mesh"


@pytest.fixture
def environment(
    tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Environment:
    found = directory_environment(
        tmp_path, broker_url=broker_url, api_tokens=SecretStr(TOKENS)
    )
    for name, value in variables(found).items():  # of the process of a query
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def sinks(environment: Environment) -> Iterator[Sinks]:
    """Three temperatures on the 23rd of November 2026, none on the 24th, two on the
    25th."""
    with closing(Sinks(Settings(environment))) as sinks:
        for number, start in ((3, NOON), (2, NOON + 2 * DAY)):
            readings = [{"value": 20 + each} for each in range(number)]
            key = f"{TEMPERATURES}.attic"
            archive(sinks, key, *readings, start=start, name=f"d{start}")
        yield sinks


@pytest.fixture
def walk(environment: Environment, sinks: Sinks) -> Walk:
    """Looks at the page."""

    async def begin(visit: Visit) -> None:
        await visit.open("/archive")
        await visit.see("2026-11-23 to 2026-11-25 (UTC): 2 days with 2 objects")

    return walking(environment, add_archive, begin=begin)


def choose(visit: Visit, day: str) -> None:
    (grid,) = [
        each for each in visit.elements(ui.html) if "mesh-months" in each.content
    ]
    visit.emit(grid, "click", day)


def test_a_day_without_anything_is_seen_as_a_gap(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        assert "1 days between have none" in visit.html()
        assert "2026-11-24: nothing is archived" in visit.html()

    walk(steps)


def test_the_records_of_a_chosen_day_are_counted(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        choose(visit, "2026-11-23")

        await visit.see("Monday, 2026-11-23 (UTC)")
        await visit.see("2026-11-23: 1 objects, 3 records")

    walk(steps)


def test_a_damaged_object_is_named_also_to_those_who_come_later(
    walk: Walk, sinks: Sinks
) -> None:
    (name, *_) = [each.name for each in archived_objects(sinks[OBJECTS])]
    path = sinks[OBJECTS].path(name)  # type: ignore[attr-defined]  # a directory
    path.write_bytes(path.read_bytes()[:-8])

    async def steps(visit: Visit) -> None:
        visit.press("Verify")
        await visit.see("2 objects, 2 records")
        await visit.see("1 DAMAGED")

        await visit.open("/archive")

        await visit.see(f"{name}: ")

    walk(steps)


def test_what_is_changed_after_a_dry_run_needs_another(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        choose(visit, "2026-11-23")
        await visit.see("Monday, 2026-11-23 (UTC)")
        visit.press("Dry run")
        await visit.see("3 would go to sensors")

        visit.fill("From", "30d")
        visit.press("Replay")

        await asyncio.sleep(0)
        assert "Dry run is done" in visit.html()

    walk(steps)


def test_whoever_may_only_look_can_neither_verify_nor_replay(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.be("view")  # the page was made for somebody who may
        visit.fill("From", "30d")
        visit.press("Verify")
        visit.press("Dry run")
        await visit.open("/archive")
        await visit.see("2 days with 2 objects")

        assert "Verifying" not in visit.html()
        assert "Dry run" not in visit.html()
        enabled = [b.text for b in visit.elements(ui.button) if b.enabled]
        assert "Run" in enabled
        assert not {"Verify", "Dry run", "Replay"} & {*enabled}

    walk(steps)


def test_a_query_gives_a_table_and_a_chart(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.fill("SQL", "SELECT i, i * i AS square FROM range(12) t(i)")

        visit.press("Run")

        await visit.see("12 rows in")
        assert "<td class='n'>121</td>" in visit.html()
        assert '<svg class="chart"' in visit.html()

    walk(steps)


def test_a_query_sees_the_archive_and_cannot_write_it(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.fill("SQL", "SELECT count(*) AS n FROM archive")
        visit.press("Run")
        await visit.see("1 rows in")
        assert "<td class='n'>5</td>" in visit.html()

        visit.fill("SQL", "EXPLAIN ANALYZE COPY (SELECT 1) TO '/tmp/x'")
        visit.press("Run")

        await visit.see("COPY: expected a query that reads")

    walk(steps)


class TestReplay:
    @pytest.fixture
    def broker_url(self, mesh_url: str) -> str:
        return mesh_url

    def test_a_period_is_replayed_once_its_dry_run_was_seen(
        self, walk: Walk, mesh_url: str
    ) -> None:
        async def steps(visit: Visit) -> None:
            choose(visit, "2026-11-23")
            await visit.see("Monday, 2026-11-23 (UTC)")
            visit.press("Replay")
            visit.press("Dry run")
            await visit.see("3 would go to sensors")
            assert queue_depth(mesh_url, TEMPERATURES) == 0

            visit.press("Replay")

            await visit.see("Replaying is done. 3 records sent.")

        walk(steps)
        assert len(drain(mesh_url, TEMPERATURES)) == 3
