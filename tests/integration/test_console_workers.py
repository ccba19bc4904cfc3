"""The console's page of workers and commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nicegui import ui
from pydantic import SecretStr

from meshtasks.gateway.console.workers import add_workers
from tests.support.archive import directory_environment
from tests.support.gateway import TOKENS
from tests.support.pages import Visit, visiting

Walk = Callable[[Callable[[Visit], Awaitable[None]]], None]


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """Looks at the page, of a mesh whose broker is away."""
    environment = directory_environment(
        tmp_path,
        broker_url=SecretStr("amqp://u:p@127.0.0.1:1/mesh"),
        api_tokens=SecretStr(TOKENS),
    )

    def walk(steps: Callable[[Visit], Awaitable[None]]) -> None:
        async def visit() -> None:
            async with visiting(environment, add_workers) as visit:
                await visit.open("/workers")
                await visit.see("No worker is heard of")
                await steps(visit)

        asyncio.run(visit())

    return walk


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
