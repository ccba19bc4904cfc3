"""The console's page of workers and commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from nicegui import ui

from meshtasks.gateway.console.workers import add_workers
from tests.support.pages import Visit, Walk, walking, without_broker


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """Looks at the page, of a mesh whose broker is away."""

    async def begin(visit: Visit) -> None:
        await visit.open("/workers")
        await visit.see("No worker is heard of")

    return walking(without_broker(tmp_path), add_workers, begin=begin)


def test_what_is_wrong_with_an_argument_is_said_beside_the_form(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.fill("matchers *", "location=attic")
        visit.fill("lasts *", "a while")

        visit.press("Start silence_alerts")

        await visit.see("expected a time such as 30s")

    walk(steps)


def test_an_argument_that_is_missing_is_named(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.press("Start silence_alerts")

        await visit.see("matchers is missing")

    walk(steps)


def test_a_form_of_somebody_who_may_not_start_it_is_disabled(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        disabled = [b.text for b in visit.elements(ui.button) if not b.enabled]
        assert {*disabled} == {"Start publish", "Start infer"}

    walk(steps)


def test_a_command_is_started_with_the_scopes_of_this_moment(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        visit.fill("matchers *", "location=attic")
        visit.fill("lasts *", "2h")
        visit.be("view")  # since the page was opened

        visit.press("Start silence_alerts")

        await visit.see("The token of operator has no scope operate")

    walk(steps)
