"""The console's page of workers and commands."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from nicegui import ui
from pydantic import SecretStr

from meshtasks.gateway.console.frame import Console
from meshtasks.gateway.console.workers import add_workers
from tests.support.amqp import open_channel, publish_raw
from tests.support.pages import Visit, Walk, walking, without_broker
from tests.support.waiting import PATIENCE_SECONDS


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


def test_batches_are_counted_while_the_page_is_looked_at(
    new_mesh_url: str, tmp_path: Path
) -> None:
    environment = without_broker(tmp_path).model_copy(
        update={"broker_url": SecretStr(new_mesh_url)}
    )
    with open_channel(new_mesh_url) as channel:  # as Celery does
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
    worker = {"hostname": "ingest@house", "uuid": "1"}
    events = [
        {"type": "task-received", "name": "sensors.humidity", **worker},
        {"type": "task-failed", "exception": "no sense", **worker},
    ]

    def publish() -> None:
        body = json.dumps(events).encode()
        publish_raw(new_mesh_url, "celeryev", "task", body, mandatory=False)

    with ExitStack() as stack:

        def add_watch(console: Console) -> None:
            console.watch.start()
            stack.callback(console.watch.stop)

        async def steps(visit: Visit) -> None:
            await visit.open("/workers")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "Batches since the pages are looked at" not in visit.html():
                    await asyncio.to_thread(publish)  # from then on it listens

            assert "<th scope='row'>sensors.humidity</th>" in visit.html()
            assert "failed: no sense" in visit.html()

        walking(environment, add_workers, add_watch)(steps)
