"""What integrations of Home Assistant put into their states loses no event."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage
from meshtasks.producers.homeassistant import follower
from meshtasks.producers.homeassistant.config import HomeAssistantConfig, Loops
from meshtasks.producers.homeassistant.frames import (
    EventFrame,
    StateChanged,
    decoded,
    frame_of,
)
from meshtasks.producers.homeassistant.publishing import EventPublisher, KnownStates
from meshtasks.timing import Backoff

AT = "2026-11-23T12:00:00+00:00"


class Published:
    """Stands for the producer: keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []

    def submit_message(self, message: Outgoing) -> None:
        self.messages.append(message)

    def bodies(self, exchange: str) -> list[Any]:
        return [json.loads(m.body) for m in self.messages if m.exchange == exchange]


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def intake(published: Published, tmp_path: Path) -> EventPublisher:
    config = HomeAssistantConfig.model_validate(
        {"readings": {"include": ["sensor.*", "binary_sensor.*", "sensor.pool"]}}
    )
    producer: Any = published
    return EventPublisher(config, producer, KnownStates(tmp_path / "states.json"))


def event(
    entity_id: str, state: str | None, old: str | None = None, **attributes: Any
) -> dict[str, Any]:
    """A change of state, as Home Assistant sends it."""
    states = [
        None if text is None else {"state": text, "attributes": {}, "last_updated": AT}
        for text in (old, state)
    ]
    if states[1] is not None:
        states[1]["attributes"] = attributes
    return {
        "type": "event",
        "event": {
            "event_type": "state_changed",
            "data": {
                "entity_id": entity_id,
                "old_state": states[0],
                "new_state": states[1],
            },
            "time_fired": AT,
            "context": {"id": "1", "parent_id": None, "user_id": None},
        },
    }


def take(intake: EventPublisher, frame: object) -> None:
    """Take a frame as it comes over the websocket."""
    (content,) = decoded(frame if isinstance(frame, str) else json.dumps(frame))
    found = frame_of(content)
    assert isinstance(found, EventFrame)
    intake.publish(found.event)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD = [
    pytest.param(float("nan"), None, id="nan"),
    pytest.param(float("-inf"), None, id="infinite"),
    pytest.param(10**5_000, None, id="long number"),
    pytest.param("\ud83d", "?", id="half a character"),
    pytest.param({"\udcff": [float("nan"), 1]}, {"?": [None, 1]}, id="inside"),
]


@pytest.mark.parametrize(("value", "expected"), ODD)
def test_an_attribute_that_json_cannot_say_costs_that_attribute_alone(
    intake: EventPublisher, published: Published, value: Any, expected: object
) -> None:
    take(intake, event("light.a", "on", odd="MARK", good=[1, "x"]) | {"id": 5})
    frame = event("light.a", "on", odd=value, good=[1, "x"])
    if isinstance(value, int):  # longer than Python writes
        text = json.dumps(event("light.a", "on", odd=7, good=[1, "x"]))
        take(intake, text.replace('"odd": 7', '"odd": ' + "1" * 5_000))
    else:
        take(intake, frame)

    attributes = published.bodies("home.events")[1]["new_state"]["attributes"]
    assert attributes == {"odd": expected, "good": [1, "x"]}
    assert intake.counts.state_changes == 2


@pytest.mark.parametrize("levels", [20, 60, 400])
def test_what_is_nested_too_deep_is_cut_off(
    intake: EventPublisher, published: Published, levels: int
) -> None:
    take(intake, event("light.a", "on", odd=nested(levels), good=1))

    (body,) = published.bodies("home.events")
    assert body["new_state"]["attributes"]["good"] == 1
    assert json.dumps(body).count("[") <= 30
    assert (levels > 30) == ("null" in json.dumps(body["new_state"]["attributes"]))


def test_attributes_of_two_megabytes_are_published(
    intake: EventPublisher, published: Published
) -> None:
    take(intake, event("camera.a", "idle", picture="x" * 2_000_000))

    assert len(published.messages[0].body) > 2_000_000


@pytest.mark.parametrize("value", [b"\xff\x00", {1, 2}, object(), range(3)])
def test_no_object_of_python_loses_the_event_either(
    intake: EventPublisher, published: Published, value: Any
) -> None:
    data: Any = event("light.a", "on", odd=value)["event"]
    intake.publish(StateChanged.model_validate(data))

    assert intake.counts.state_changes == len(published.messages) == 1


@pytest.mark.parametrize(
    "name", ["device_class", "unit_of_measurement", "friendly_name"]
)
@pytest.mark.parametrize("value", [7, [], {"a": 1}, True, ""])
def test_an_odd_attribute_of_a_reading_loses_no_event(
    intake: EventPublisher, published: Published, name: str, value: Any
) -> None:
    usual = {"device_class": "temperature", "unit_of_measurement": "°C"}

    take(intake, event("sensor.a", "21.5", **usual | {name: value}))

    assert intake.counts.state_changes == 1
    for reading in published.bodies("sensors"):
        assert reading["value"] == 21.5
        assert isinstance(reading["unit"], str | None)
        assert isinstance(reading["name"], str | None)


def test_an_unforeseen_error_ends_the_connection_and_another_is_made(
    intake: EventPublisher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, attempts = threading.Event(), []

    @contextmanager
    def opening(*_: object) -> Iterator[None]:
        attempts.append(1)
        if len(attempts) == 3:
            stop.set()
        raise KeyError("context")
        yield

    monkeypatch.setattr(follower, "opened", opening)
    access = follower.Access("ws://x", "token", backoff=Backoff(0.01, 0.01))

    follower.Follower(access, Loops(), intake, stop, lambda: None)()

    assert len(attempts) == 3
    assert len([each for each in caplog.messages if "KeyError" in each]) == 1


# --- which states are readings


@pytest.mark.parametrize("name", ["motion", "occupancy", "presence", "moving"])
def test_presence_is_motion_as_the_same_device_gives_by_mqtt(
    intake: EventPublisher, published: Published, name: str
) -> None:
    """Zigbee2MQTT's motion sensors are of class occupancy (its issue #23770)."""
    take(intake, event("binary_sensor.hall", "on", "off", device_class=name))
    take(intake, event("binary_sensor.hall", "off", "on", device_class=name))

    assert [each["motion"] for each in published.bodies("sensors")] == [True, False]
    assert {each.routing_key for each in published.messages[1::2]} == {
        "sensors.motion.hall"
    }


def test_a_sensor_of_degrees_without_a_class_is_one_of_temperature(
    intake: EventPublisher, published: Published
) -> None:
    """Pools and nodes have such (gazoodle/gecko-home-assistant#218)."""
    take(intake, event("sensor.pool_temp", "26.4", unit_of_measurement="°C"))

    (reading,) = published.bodies("sensors")
    assert (reading["value"], reading["unit"]) == (26.4, "°C")
    assert published.messages[1].routing_key == "sensors.temperature.pool_temp"


@pytest.mark.parametrize(
    "attributes",
    [
        {"unit_of_measurement": "%"},
        {"unit_of_measurement": "K"},
        {"device_class": "temperature_delta", "unit_of_measurement": "°C"},
        {},
    ],
)
def test_an_entity_that_is_named_and_gives_no_reading_is_logged_once(
    intake: EventPublisher,
    published: Published,
    caplog: pytest.LogCaptureFixture,
    attributes: dict[str, Any],
) -> None:
    for _ in range(2):
        take(intake, event("sensor.pool", "26.4", **attributes))

    assert published.bodies("sensors") == []
    assert len(published.messages) == 2
    assert caplog.text.count("sensor.pool gives no readings") == 1


def test_units_removals_and_restored_states_are_as_in_home_assistant(
    intake: EventPublisher, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    temperature = {"device_class": "temperature"}
    take(intake, event("sensor.attic", "71.6", unit_of_measurement="°F", **temperature))
    take(intake, event("sensor.attic", None, "71.6"))
    take(intake, event("sensor.b", "unavailable", restored=True, **temperature))
    take(intake, event("sensor.c", "20", unit_of_measurement=None, **temperature))

    assert len(published.bodies("home.events")) == 4
    assert [(r["value"], r["unit"]) for r in published.bodies("sensors")] == [
        (71.6, "°F"),
        (20.0, None),
    ]
    assert not caplog.messages


# --- whatever comes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=60,
)
@given(
    attributes=st.dictionaries(
        st.sampled_from(["device_class", "unit_of_measurement", "x"]) | st.text(),
        json_values,
        max_size=4,
    ),
    state=st.text(),
)
def test_every_event_is_published(
    intake: EventPublisher, published: Published, attributes: dict[str, Any], state: str
) -> None:
    before = len(published.bodies("home.events"))
    frame = event("sensor.a", state)
    frame["event"]["data"]["new_state"]["attributes"] = attributes

    take(intake, frame)

    assert len(published.bodies("home.events")) == before + 1
    assert intake.counts.invalid_events == 0


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=60,
)
@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_no_frame_raises_more_than_that_it_is_none(
    intake: EventPublisher, message: str | bytes
) -> None:
    try:
        for content in decoded(message):
            found = frame_of(content)
            if isinstance(found, EventFrame):
                intake.publish(found.event)
    except InvalidMessage:
        pass
