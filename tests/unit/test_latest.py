"""The latest values of sensors, and what devices say of their batteries."""

from __future__ import annotations

import json

import pytest

from meshtasks.amqp.content import Properties
from meshtasks.amqp.receiving import Message
from meshtasks.observation.latest import LatestValues, SensorKey
from meshtasks.records.kinds import KindsConfig
from meshtasks.state.sensor_activity import Sensor

NOW = 1_795_440_000.0
KEY = "sensors.temperature.attic"
ATTIC = SensorKey("attic", "temperature", "attic")


def message(record: object, key: str = KEY) -> Message:
    return Message(json.dumps(record).encode(), Properties(b""), routing_key=key)


def seen(record: object, key: str = KEY) -> dict[tuple[str, ...], float]:
    latest = LatestValues(KindsConfig())
    latest.see(message(record, key), NOW)
    return {(*name,): value.value for name, value in latest.values().items()}


def noted(kind: str = "temperature", usual: float = 600.0) -> Sensor:
    times = NOW - 60, NOW - 9000, NOW - 60
    return Sensor(KEY, "attic", kind, "", "°C", 21.5, *times, 9, usual, 0.0, 0.0)


@pytest.mark.parametrize(
    ("record", "kind", "value"),
    [
        ({"value": 21.5, "battery": 87}, "battery", 87.0),
        ({"value": 21.5, "battery_level": 9.5}, "battery", 9.5),
        ({"motion": False, "battery_percent": 64}, "battery", 64.0),
        ({"value": 21.5, "battery_low": True}, "battery_low", 1.0),
        ({"value": 21.5, "battery": False}, "battery_low", 0.0),
        ([{"value": 1}, {"value": 2, "battery": 80}], "battery", 80.0),
    ],
)
def test_what_a_record_says_of_its_battery_is_known(
    record: object, kind: str, value: float
) -> None:
    assert seen(record)["attic", kind, "attic"] == value


@pytest.mark.parametrize("level", [255, -1, "full", None, {"V": 3}, [87]])
def test_what_cannot_be_a_battery_is_passed_over(level: object) -> None:
    assert seen({"value": 21.5, "battery": level}) == {ATTIC: 21.5}


def test_a_battery_is_in_the_room_of_its_device() -> None:
    record = {"sensor_id": "t1", "location": "loft", "value": 21.5, "battery": 87}

    assert seen(record)["loft", "battery", "t1"] == 87.0


def test_a_sensor_is_silent_when_it_pauses_for_longer_than_is_usual_for_it() -> None:
    latest = LatestValues(KindsConfig())
    latest.know([noted()])
    latest.see(message({"value": 22}), NOW)

    value = latest.values()[ATTIC]

    assert (value.value, value.gap_seconds) == (22.0, 1800.0)
    assert not value.is_silent(NOW + 1800)
    assert value.is_silent(NOW + 1810)


def test_a_battery_is_never_silent() -> None:
    latest = LatestValues(KindsConfig())
    latest.know([noted("battery", 10.0)])

    (value,) = latest.values().values()

    assert not value.is_silent(NOW + 86_400)


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        (NOW - 7200, NOW - 7200),
        ("2026-11-23T12:20:00Z", NOW - 3600),
        (NOW + 86_400, NOW),
        ("yesterday", NOW),
        (1e308, NOW),
        (float("nan"), NOW),
        ([], NOW),
    ],
)
def test_a_reading_is_as_old_as_its_own_time_says(stamp: object, at: float) -> None:
    latest = LatestValues(KindsConfig())
    latest.see(message({"value": 22, "timestamp": stamp}), NOW)

    assert [value.at for value in latest.values().values()] == [at]
