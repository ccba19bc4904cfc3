"""Motion events as records: whose, when, and the reasons of dead ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from meshtasks.flows.webhooks.handler import HomeEvents, read_events, read_motion
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import Motion, explain

NOW = 1_795_440_000.0
MOTION = TypeAdapter(Motion)
NO_SENSOR = (
    "sensor_id: is missing, and there is none in the routing key sensors.motion either"
)


def read(record: Any, key: str = "sensors.motion.hall") -> HomeEvents:
    envelope = Envelope(b"", "sensors", key, "sensors.motion", None, None, NOW, {})
    return read_events([MOTION.validate_python(record)], [envelope], read_motion)


def test_a_motion_is_that_of_the_sensor_it_names() -> None:
    (event,) = read({"sensor_id": "pir-1", "motion": True}).good

    assert event.record == {"sensor_id": "pir-1", "motion": True}


def test_a_motion_that_names_no_sensor_is_that_of_the_routing_key() -> None:
    (event,) = read({"motion": False, "battery": 80}).good

    assert event.record == {"sensor_id": "hall", "motion": False, "battery": 80}


def test_a_motion_happened_at_its_timestamp_or_when_it_was_received() -> None:
    (timed,) = read({"motion": True, "timestamp": NOW - 1}).good
    (untimed,) = read({"motion": True}).good

    assert (timed.time, untimed.time) == (NOW - 1, NOW)


@pytest.mark.parametrize(
    ("record", "key", "reason"),
    [
        (
            {"motion": True},
            "sensors.motion",
            NO_SENSOR,
        ),
        ({"motion": True, "sensor_id": " "}, "a.b.c", "sensor_id: is empty"),
        (
            {"motion": True, "timestamp": 12},
            "a.b.c",
            "timestamp 12 is before the year 2000; was the device's clock set?",
        ),
    ],
)
def test_a_motion_of_nobody_or_no_time_is_dead(
    record: Any, key: str, reason: str
) -> None:
    assert read(record, key).dead[0].reason == reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "motion: this field is missing"),
        ({"motion": "on"}, 'motion: expected true or false, got the text "on"'),
        ({"motion": 1}, "motion: expected true or false, got the number 1"),
        ({"motion": None}, "motion: expected true or false, got null"),
    ],
)
def test_what_is_no_motion_is_explained(record: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MOTION.validate_python(record)

    assert explain(caught.value) == reason
