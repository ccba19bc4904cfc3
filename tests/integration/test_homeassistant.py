"""The producer of Home Assistant's events: recorded frames of a real one, played over
a real websocket with faults, into a real broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshtasks.domain.backoff import Backoff
from meshtasks.domain.errors import ConfigError
from meshtasks.messaging.publisher import Publisher
from producers.base import Producer
from producers.homeassistant.config import HomeAssistantConfig
from producers.homeassistant.connection import Liveness
from producers.homeassistant.feed import Access, Feed
from producers.homeassistant.intake import Intake
from producers.homeassistant.memory import Keeper, Memory
from producers.homeassistant.tally import Tally
from tests.support.amqp import Delivery, drain
from tests.support.homeassistant import TOKEN, ReplayedHomeAssistant
from tests.support.waiting import wait_until

CHANGES = "home.events.state_changes"
TRIGGERS = "home.events.automations"
PRESENCE = "mesh.home_assistant"
#: Tries again at once, so that no test waits for a delay.
IMPATIENT = Backoff(first_seconds=0.02, longest_seconds=0.1)
PATIENCE_SECONDS = 60.0


@pytest.fixture
def house() -> Iterator[ReplayedHomeAssistant]:
    """A Home Assistant that says what a real one said."""
    with ReplayedHomeAssistant() as house:
        yield house


class Running:
    """A producer that follows a house, until it is stopped.

    Attributes:
        error: why it ended by itself.
    """

    def __init__(
        self,
        access: Access,
        config: HomeAssistantConfig,
        broker_url: str,
        state_path: Path,
    ) -> None:
        self._producer = Producer(Publisher(broker_url))
        memory = Memory(state_path)
        memory.load()
        self._memory = memory
        self._intake = Intake(config, self._producer, memory)
        self._stop = threading.Event()
        self._feed = Feed(
            access,
            config.loops,
            self._intake,
            memory,
            self._stop,
            Keeper(memory, self._producer),
        )
        self._thread = threading.Thread(target=self._run)
        self.error: ConfigError | None = None

    @property
    def tally(self) -> Tally:
        return self._intake.tally

    def start(self) -> None:
        self._producer.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop in order: all is confirmed, and the states are saved."""
        self._stop.set()
        self._thread.join()
        assert self._producer.stop(PATIENCE_SECONDS) == ()
        self._memory.save()

    def die(self) -> None:
        """End without another word to the broker or the disk."""
        self._stop.set()
        self._thread.join()
        self._producer.stop(0.0)

    def wait_ended(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._feed()
        except ConfigError as error:
            self.error = error


Follow = Callable[..., Any]


@pytest.fixture
def follow(house: ReplayedHomeAssistant, mesh_url: str, tmp_path: Path) -> Follow:
    """Follows the house with a config and, if need be, another token or liveness."""

    @contextmanager
    def follow(
        config: dict[str, Any] | None = None, **access: Any
    ) -> Iterator[Running]:
        running = Running(
            Access(house.url, **{"token": TOKEN, "backoff": IMPATIENT, **access}),
            HomeAssistantConfig.model_validate(config or {}),
            mesh_url,
            tmp_path / "states.json",
        )
        running.start()
        try:
            yield running
        finally:
            running.die()

    return follow


def wait_heard(house: ReplayedHomeAssistant) -> None:
    wait_until(lambda: house.heard, PATIENCE_SECONDS, "a subscription")


def wait_taken(running: Running, events: list[Any]) -> None:
    """Until it has taken so many more events."""
    wait_until(
        lambda: running.tally.events >= len(events), PATIENCE_SECONDS, "its events"
    )


def records(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    """Their records, Home Assistant's own presence left out."""
    found = [json.loads(each.body) for each in deliveries]
    return [each for each in found if each.get("entity_id") != PRESENCE]


def presence(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    found = [json.loads(each.body) for each in deliveries]
    return [each["new_state"] for each in found if each.get("entity_id") == PRESENCE]


def changes_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["data"] for each in events if each["event_type"] == "state_changed"]


def triggers_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each["event_type"] == "automation_triggered"]


def test_every_event_is_one_message_as_it_was_fired(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.stop()

    changes = drain(mesh_url, CHANGES)
    assert records(changes) == changes_of(events)
    keys = {each.routing_key for each in changes}
    assert "home.input_boolean.lamp.state_changed" in keys
    triggers = drain(mesh_url, TRIGGERS)
    assert [
        (each["automation"], each["trigger"], each["timestamp"])
        for each in records(triggers)
    ] == [
        (each["data"]["entity_id"], each["data"]["source"], each["time_fired"])
        for each in triggers_of(events)
    ]
    assert triggers[0].routing_key == "home.automation.fan_follows_lamp.trigger"
    ids = [each.properties["message_id"] for each in (*changes, *triggers)]
    assert len(set(ids)) == len(events) + 2  # and Home Assistant came and went


def test_what_a_gap_led_to_is_published_afterwards_and_marked(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        before = house.tell(12)
        wait_taken(running, before)
        known = json.loads(json.dumps(house.states))

        house.close_door()
        unheard = house.tell(12)
        house.open_door()
        wait_heard(house)
        after = house.tell()
        wait_taken(running, before + after)
        running.stop()

    deliveries = drain(mesh_url, CHANGES)
    changes = records(deliveries)
    caught_up = [each for each in changes if "gap" in each]
    assert {each["entity_id"] for each in caught_up} == {
        each["entity_id"] for each in changes_of(unheard)
    }
    for each in caught_up:
        assert each["old_state"] == known[each["entity_id"]]
    live = [each for each in changes if "gap" not in each]
    assert live == changes_of(before + after)
    last = {each["entity_id"]: each["new_state"] for each in changes}
    assert all(house.states.get(name) == state for name, state in last.items())

    states = presence(deliveries)
    assert [each["state"] for each in states] == [
        "connected",
        "disconnected",
        "connected",
        "disconnected",
    ]
    told = states[2]["attributes"]
    missed = [each for each in records(drain(mesh_url, TRIGGERS)) if "gap" in each]
    assert {each["automation"] for each in missed} == {
        each["data"]["entity_id"] for each in triggers_of(unheard)
    }
    assert told["caught_up"] == len(caught_up) + len(missed) == running.tally.caught_up
    assert told["gap"] == caught_up[0]["gap"]
    assert running.tally.gaps == 1


def test_after_a_restart_of_home_assistant_every_state_is_known_again(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        before = house.tell()
        wait_taken(running, before)

        house.boot(2)
        wait_heard(house)
        after = house.tell()
        wait_taken(running, before + after)
        running.stop()

    changes = records(drain(mesh_url, CHANGES))
    last = {each["entity_id"]: each["new_state"] for each in changes}
    assert {name: state for name, state in last.items() if state} == house.states


def test_what_changed_while_the_producer_was_away_is_published_when_it_is_back(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        heard = house.tell(6)
        wait_taken(running, heard)
        running.stop()
    before = records(drain(mesh_url, CHANGES))

    unheard = house.tell(6)
    with follow() as running:
        wait_heard(house)
        wait_until(lambda: running.tally.gaps, PATIENCE_SECONDS, "the comparison")
        running.stop()

    assert before == changes_of(heard)
    caught_up = records(drain(mesh_url, CHANGES))
    assert all("gap" in each for each in caught_up)
    assert {each["entity_id"] for each in caught_up} == {
        each["entity_id"] for each in changes_of(unheard)
    }


def test_a_producer_that_was_killed_misses_nothing_that_still_shows(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        running.stop()
    with follow() as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.die()
    with follow() as running:
        wait_until(lambda: running.tally.gaps, PATIENCE_SECONDS, "the comparison")
        running.stop()

    again = [each for each in records(drain(mesh_url, CHANGES)) if "gap" in each]
    assert {each["entity_id"] for each in again} == {
        each["entity_id"]
        for each in changes_of(events)
        if each["entity_id"] in house.states
    }


def test_an_entity_that_is_missing_is_gone_unless_home_assistant_still_starts(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        running.stop()
    drain(mesh_url, CHANGES)
    del house.states["light.bed_light"]

    house.config["state"] = "STARTING"
    with follow() as running:
        wait_until(lambda: running.tally.gaps, PATIENCE_SECONDS, "the comparison")
        running.stop()
    assert records(drain(mesh_url, CHANGES)) == []

    house.config["state"] = "RUNNING"
    with follow() as running:
        wait_until(lambda: running.tally.gaps, PATIENCE_SECONDS, "the comparison")
        running.stop()
    (removal,) = records(drain(mesh_url, CHANGES))
    assert (removal["entity_id"], removal["new_state"]) == ("light.bed_light", None)


def test_a_silent_connection_is_kept_while_pings_are_answered(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    liveness = Liveness(ping_after_seconds=0.1, answer_within_seconds=PATIENCE_SECONDS)
    with follow(liveness=liveness):
        wait_until(lambda: house.pings >= 3, PATIENCE_SECONDS, "pings")

    assert house.connections == 1


def test_a_connection_that_answers_no_ping_is_given_up(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    liveness = Liveness(ping_after_seconds=0.1, answer_within_seconds=0.2)
    with follow(liveness=liveness):
        wait_heard(house)
        house.mute = True
        wait_until(lambda: house.connections >= 2, PATIENCE_SECONDS, "another try")


def test_what_is_no_frame_is_counted_and_its_neighbours_are_published(
    house: ReplayedHomeAssistant,
    follow: Follow,
    mesh_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad_entity = {
        "type": "event",
        "event": {
            "event_type": "state_changed",
            "data": {
                "entity_id": "no entity",
                "old_state": None,
                "new_state": {"state": "on"},
            },
            "time_fired": "2026-11-23T16:38:34.220851+00:00",
            "context": {"id": "1"},
        },
    }
    with follow() as running:
        wait_heard(house)
        for nonsense in ("{", b"\x00", '"frame"', '{"type": "event"}', '[{"type": 1}]'):
            house.say(nonsense)
        house.say(json.dumps([bad_entity, 1]))
        events = house.tell(3)
        wait_taken(running, [bad_entity, *events])
        running.stop()

    assert records(drain(mesh_url, CHANGES)) == changes_of(events)
    assert running.tally.invalid_frames == 6
    assert running.tally.invalid_events == 1
    assert running.tally.connections == 1
    assert "not JSON" in caplog.text


def test_a_token_that_is_refused_is_not_tried_again(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    with follow(token="of another house") as running:
        running.wait_ended()

    assert house.attempts == 1
    assert running.error is not None
    assert running.error.key == "MESH_HASS_TOKEN"
    assert "Invalid access token or password" in str(running.error)


def test_a_token_that_opens_too_little_is_refused_with_what_it_lacks(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    house.refusals["subscribe_events"] = "unauthorized"
    with follow() as running:
        running.wait_ended()

    assert running.error is not None
    assert "administrator" in str(running.error)


def test_an_older_home_assistant_that_knows_no_features_is_followed_all_the_same(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    house.refusals["supported_features"] = "unknown_command"
    with follow() as running:
        wait_heard(house)
        wait_taken(running, house.tell(3))


def test_sensors_that_are_named_give_readings(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    config = {"readings": {"include": ["sensor.attic_*"]}}
    with follow(config) as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.stop()

    states = [
        each["new_state"]
        for each in changes_of(events)
        if each["entity_id"] == "sensor.attic_temperature"
    ]
    readings = drain(mesh_url, "sensors.temperature")
    assert [json.loads(each.body) for each in readings] == [
        {
            "sensor_id": "sensor.attic_temperature",
            "value": float(state["state"]),
            "unit": "°C",
            "timestamp": state["last_updated"],
            "name": "Attic temperature",
        }
        for state in states
    ]
    assert readings[0].routing_key == "sensors.temperature.attic_temperature"


@pytest.mark.parametrize(
    ("loops", "own"),
    [
        (
            {"automations": ["automation.mesh_*"]},
            {"automation.mesh_porch", "input_boolean.porch"},
        ),
        (
            {"users": ["Owner"]},
            # What the owner switches, and what followed from that.
            {"input_boolean.lamp", "input_boolean.fan", "input_number.attic"},
        ),
    ],
    ids=["automation", "user"],
)
def test_what_the_mesh_caused_does_not_come_back_to_it(
    house: ReplayedHomeAssistant,
    follow: Follow,
    mesh_url: str,
    loops: dict[str, Any],
    own: set[str],
) -> None:
    with follow({"loops": loops}) as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.stop()

    found = records([*drain(mesh_url, CHANGES), *drain(mesh_url, TRIGGERS)])
    published = {each.get("entity_id") or each["automation"] for each in found}
    assert published
    assert not published & own
    assert running.tally.own == len(events) - len(found)


def test_a_user_that_home_assistant_does_not_know_is_named_with_those_it_knows(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    with follow({"loops": {"users": ["Nobody"]}}) as running:
        running.wait_ended()

    assert running.error is not None
    assert "'Nobody' is none of" in str(running.error)
    assert "'Owner'" in str(running.error)


def test_excluded_entities_stay_out(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    config = {"entities": {"include": ["input_*"], "exclude": ["*.lamp"]}}
    with follow(config) as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.stop()

    published = records(drain(mesh_url, CHANGES))
    assert {each["entity_id"] for each in published} == {
        "input_boolean.fan",
        "input_boolean.porch",
        "input_number.attic",
    }
    assert running.tally.excluded == len(events) - len(published)
