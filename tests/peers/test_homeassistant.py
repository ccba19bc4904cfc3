"""A real Home Assistant, the producer as a process, and a real broker."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meshtasks.demo.process import Process
from meshtasks.errors import ConfigError
from tests.conftest import ROOT
from tests.peers.homeassistant import Fired, HomeAssistant
from tests.support.amqp import drain
from tests.support.waiting import wait_until

CHANGES = "home.events.state_changes"
TRIGGERS = "home.events.automations"
TEMPERATURES = "sensors.temperature"
PRESENCE = "mesh.home_assistant"

#: How long things happen in the house before its restart, and again after it.
LIFE_SECONDS = 60.0
ROUND_SECONDS = 0.25
PATIENCE_SECONDS = 120.0

StartProducer = Callable[..., Process]


@pytest.fixture
def start_producer(
    home_assistant: HomeAssistant, mesh_url: str, tmp_path: Path
) -> Iterator[StartProducer]:
    """Starts ``python -m meshtasks.producers homeassistant`` with a config file."""
    path = tmp_path / "config" / "producers" / "homeassistant.yaml"
    path.parent.mkdir(parents=True)
    with ExitStack() as processes:

        def start(token: str = "", **config: Any) -> Process:
            path.write_text(json.dumps(config))  # which is YAML, too
            environment = {
                "MESH_BROKER_URL": mesh_url,
                "MESH_CONFIG_DIR": str(tmp_path / "config"),
                "MESH_STATE_DIR": str(tmp_path / "state"),
                "MESH_HASS_URL": home_assistant.url,
                "MESH_HASS_TOKEN": token or home_assistant.token,
            }
            process = Process(
                "producer",
                [sys.executable, "-m", "meshtasks.producers", "homeassistant"],
                log_path=tmp_path / "producer.log",
                env={**os.environ, **environment},
                cwd=ROOT,
            )
            processes.callback(process.kill)
            process.start()
            return process

        yield start


def wait_listening(producer: Process, times: int = 1) -> None:
    wait_until(
        lambda: producer.output().count("listening to") >= times,
        PATIENCE_SECONDS,
        "a connection to Home Assistant",
    )


def live(house: HomeAssistant, for_seconds: float) -> None:
    """Let a lamp, a fan, a thermometer and a porch light act."""
    ends = time.monotonic() + for_seconds
    pace = threading.Event()
    for number in itertools.count():
        if time.monotonic() > ends:
            return
        house.call("input_boolean.toggle", "input_boolean.lamp")
        value = round(18 + number % 50 / 10, 1)
        house.call("input_number.set_value", "input_number.attic", value=value)
        house.request("POST", "/api/webhook/mesh-porch", {})
        pace.wait(ROUND_SECONDS)


def records(url: str, queue: str) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in drain(url, queue)]


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Happening(NamedTuple):
    """A change of state or a trigger, in Home Assistant's log or in a queue."""

    entity_id: str
    last_changed: float | None


def fired_changes(fired: list[Fired]) -> Counter[Happening]:
    return Counter(
        Happening(each.entity_id, each.last_changed)
        for each in fired
        if each.kind == "state_changed"
    )


def published_changes(changes: list[dict[str, Any]]) -> Counter[Happening]:
    return Counter(
        Happening(
            each["entity_id"],
            moment(each["new_state"]["last_changed"]) if each["new_state"] else None,
        )
        for each in changes
    )


def triggers(fired: list[Fired]) -> Counter[str]:
    return Counter(
        each.entity_id for each in fired if each.kind == "automation_triggered"
    )


def test_what_home_assistant_fires_is_in_the_queues_but_for_the_gap_of_its_restart(
    home_assistant: HomeAssistant,
    start_producer: StartProducer,
    mesh_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    producer = start_producer(readings={"include": ["sensor.attic_*"]})
    wait_listening(producer)
    booted = len(home_assistant.fired())

    live(home_assistant, LIFE_SECONDS)
    home_assistant.stop()
    home_assistant.start()
    wait_listening(producer, times=2)
    live(home_assistant, LIFE_SECONDS)
    assert producer.stop(PATIENCE_SECONDS) == 0
    home_assistant.stop()

    changes = records(mesh_url, CHANGES)
    states = [each for each in changes if each["entity_id"] == PRESENCE]
    changes = [each for each in changes if each["entity_id"] != PRESENCE]
    live_changes = [each for each in changes if "gap" not in each]
    live_triggers = [each for each in records(mesh_url, TRIGGERS) if "gap" not in each]
    gap = states[2]["new_state"]["attributes"]["gap"]
    since, until = moment(gap["since"]), moment(gap["until"])
    fired = home_assistant.fired()[booted:]
    heard = [each for each in fired if not since < each.logged_at < until]
    unheard = [each for each in fired if since < each.logged_at < until]

    fired_in_all = fired_changes(fired)
    published = published_changes(live_changes)
    assert published <= fired_in_all, "it publishes what was not fired"
    assert fired_changes(heard) <= published, "it misses what it could have heard"
    assert fired_in_all - published <= fired_changes(unheard)
    assert Counter(each["automation"] for each in live_triggers) == triggers(heard)
    assert [each["new_state"]["state"] for each in states] == [
        "connected",
        "disconnected",
        "connected",
        "disconnected",
    ]
    attic = [each for each in fired if each.entity_id == "sensor.attic_temperature"]
    readings = records(mesh_url, TEMPERATURES)
    assert len([each for each in readings if "gap" not in each]) <= len(attic)

    figures = {
        "fired": sum(fired_in_all.values()) + triggers(fired).total(),
        "published": len(live_changes) + len(live_triggers),
        "fired in the gap": fired_changes(unheard).total() + triggers(unheard).total(),
        "gap_seconds": round(until - since, 1),
        "caught up": len(changes) - len(live_changes),
        "readings": len(readings),
        "summary": producer.output().splitlines()[-1],
    }
    for name, value in figures.items():
        record_property(name, value)


def test_what_the_mesh_switches_does_not_come_back_to_it(
    home_assistant: HomeAssistant, start_producer: StartProducer, mesh_url: str
) -> None:
    producer = start_producer(loops={"automations": ["automation.mesh_*"]})
    wait_listening(producer)

    home_assistant.request("POST", "/api/webhook/mesh-porch", {})
    home_assistant.call("input_boolean.turn_on", "input_boolean.lamp")
    wait_until(
        lambda: (
            ("state_changed", "input_boolean.porch")
            in [each[:2] for each in home_assistant.fired()]
        ),
        PATIENCE_SECONDS,
        "the porch light",
    )
    home_assistant.stop()
    producer.stop(PATIENCE_SECONDS)

    changed = {each["entity_id"] for each in records(mesh_url, CHANGES)}
    triggered = [each["automation"] for each in records(mesh_url, TRIGGERS)]
    assert {"input_boolean.lamp", "input_boolean.fan"} <= changed
    assert not changed & {"input_boolean.porch", "automation.mesh_porch"}
    assert triggered == ["automation.fan_follows_lamp"]


def test_a_token_that_it_does_not_take_ends_the_producer_with_the_next_step(
    home_assistant: HomeAssistant, start_producer: StartProducer
) -> None:
    producer = start_producer(token="not one of this house")
    wait_until(lambda: not producer.running, PATIENCE_SECONDS, "its end")

    assert producer.stop() == ConfigError.exit_code
    last = producer.output().splitlines()[-1]
    assert last.startswith("configuration: environment: MESH_HASS_TOKEN: expected")
    assert "Make a long-lived access token" in last
