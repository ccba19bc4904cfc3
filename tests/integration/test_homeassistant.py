"""The producer of Home Assistant's events: recorded frames of a real one, played over
a real websocket, into a real broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.amqp import drain
from tests.support.following import (
    CHANGES,
    TRIGGERS,
    Follow,
    changes_of,
    records,
    triggers_of,
    wait_heard,
    wait_taken,
)
from tests.support.homeassistant import ReplayedHomeAssistant


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
    assert running.counts.invalid_frames == 6
    assert running.counts.invalid_events == 1
    assert running.counts.connections == 1
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
    assert running.counts.own == len(events) - len(found)


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
    assert running.counts.excluded == len(events) - len(published)
