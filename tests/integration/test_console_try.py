"""The console's pages of the flow, of live messages and of trying, without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtasks.gateway.console.flow import add_flow
from meshtasks.gateway.console.live import add_live
from meshtasks.gateway.console.trying import add_trying
from tests.support.pages import Visit, Walk, walking, without_broker

KEY = "Routing key, or topic of MQTT"


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """Looks at the pages."""
    return walking(without_broker(tmp_path), add_flow, add_live, add_trying)


def test_the_picture_has_every_exchange_and_queue(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        await visit.open("/flow")
        await visit.see("<svg class='mesh-flow'")
        for name in ("amq.topic", "sensors.temperature", "pending.timeseries"):
            assert f"<title>{name}</title>" in visit.html()

    walk(steps)


def test_what_to_add_is_said_of_a_topic_that_nobody_takes(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        await visit.open("/try")
        await visit.see("This would be stored as 22 °C of attic")

        visit.fill(KEY, "garden/moisture/bed1")

        await visit.see("No exchange takes garden.moisture.bed1")
        for line in ("- name: garden.moisture", "kind: moisture", "unit: "):
            assert line in visit.html()

    walk(steps)


def test_a_topic_is_taken_as_its_routing_key(walk: Walk) -> None:
    async def steps(visit: Visit) -> None:
        await visit.open("/try")
        await visit.see("This would be stored as 22 °C of attic")

        visit.fill(KEY, "sensors/temperature/cellar")

        await visit.see("This would be stored as 22 °C of cellar")

    walk(steps)
