"""Readings become points: defaults, conversion, and the reasons of dead ones."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from meshtasks.flows.pipeline import Transformed
from meshtasks.flows.readings.handler import transform
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import HUMIDITY, TEMPERATURE
from meshtasks.records.models import Reading
from meshtasks.records.units import Quantity
from meshtasks.rules.config import RuleBook

NOW = 1_795_440_000.0
NO_RULES = RuleBook()
WATCHED = RuleBook.model_validate(
    {
        "rules": [
            {
                "name": "hot",
                "type": "threshold",
                "routing_key": "sensors.#",
                "above": 50,
                "severity": "info",
                "title": "{place} is hot",
                "message": "{value}",
            }
        ]
    }
)


def envelope(
    routing_key: str = "sensors.temperature.kitchen", timestamp: float | None = None
) -> Envelope:
    queue = ".".join(routing_key.split(".")[:2])
    return Envelope(b"", "sensors", routing_key, queue, None, timestamp, NOW, {})


def transformed(
    *readings: Any,
    origin: Envelope | None = None,
    quantity: Quantity = TEMPERATURE,
    default_unit: str = "°C",
    rules: RuleBook = NO_RULES,
) -> Transformed:
    envelopes = [origin or envelope()] * len(readings)
    structs = [Reading(**reading) for reading in readings]
    return transform(structs, envelopes, quantity, default_unit, rules)


def reason(reading: dict[str, Any], **options: Any) -> str:
    return transformed(reading, **options).dead[0].reason


def test_a_reading_becomes_a_point_in_the_canonical_unit() -> None:
    reading = {
        "sensor_id": "s1",
        "value": 98.6,
        "unit": "°F",
        "timestamp": "2026-11-23T13:12:00Z",
        "location": "bath",
    }

    assert transformed(reading).lines == [
        "temperature,location=bath,sensor_id=s1 celsius=37.0 1795439520000"
    ]


def test_a_humidity_becomes_percent() -> None:
    origin = envelope("sensors.humidity.bath")
    reading = {"value": 0.455, "unit": "1", "timestamp": NOW}

    assert transformed(reading, origin=origin, quantity=HUMIDITY).lines == [
        "humidity,sensor_id=bath percent=45.5 1795440000000"
    ]


def test_the_sensor_is_named_by_the_routing_key_if_not_by_the_reading() -> None:
    origin = envelope("sensors.temperature.cellar.north")

    (point,) = transformed({"value": 1.0, "timestamp": NOW}, origin=origin).lines

    assert point.startswith("temperature,sensor_id=cellar.north ")


def test_the_unit_is_the_default_if_there_is_none() -> None:
    (point,) = transformed({"value": 212.0, "timestamp": NOW}, default_unit="°F").lines

    assert "celsius=100.0 " in point


def test_the_time_is_the_messages_if_there_is_none() -> None:
    origin = envelope(timestamp=NOW - 60)

    assert transformed({"value": 1.0}, origin=origin).times == [NOW - 60]


def test_the_time_is_that_of_receipt_if_the_message_has_none_either() -> None:
    assert transformed({"value": 1.0}).times == [NOW]


def test_null_is_as_good_as_missing() -> None:
    reading = {
        "value": 1.0,
        "sensor_id": None,
        "unit": None,
        "timestamp": None,
        "location": None,
    }

    assert transformed(reading).lines == transformed({"value": 1.0}).lines


def test_a_bad_reading_does_not_touch_its_neighbours() -> None:
    good, bad = {"value": 1.0}, {"value": 1.0, "unit": "furlong"}

    result = transformed(good, bad, good)

    assert result.indices == [0, 2]
    assert len(result.lines) == 2
    assert list(result.dead) == [1]


@pytest.mark.parametrize(
    ("reading", "error_type", "text"),
    [
        (
            {"value": -300.0},
            "SchemaMismatch",
            "value: -300 °C cannot be: absolute zero is -273.15 °C",
        ),
        (
            {"value": -500.0, "unit": "F"},
            "SchemaMismatch",
            "value: -295.556 °C (given in F) cannot be: absolute zero is -273.15 °C",
        ),
        ({"value": 1.0, "unit": "%"}, "UnknownUnit", 'unit "%" is not a temperature'),
        ({"value": 1.0, "sensor_id": ""}, "SchemaMismatch", "sensor_id: is empty"),
        ({"value": 1.0, "location": "a\x00b"}, "SchemaMismatch", "location: must not"),
        (
            {"value": 1.0, "timestamp": "2019-01-01T00:00:00"},
            "InvalidTimestamp",
            "timestamp 2019-01-01T00:00:00 has no time zone",
        ),
    ],
)
def test_a_dead_reading_says_why(
    reading: dict[str, Any], error_type: str, text: str
) -> None:
    dead = transformed(reading).dead[0]

    assert dead.error_type == error_type
    assert dead.reason.startswith(text)


@pytest.mark.parametrize("value", [-0.1, 100.1])
def test_a_relative_humidity_outside_0_to_100_is_refused(value: float) -> None:
    text = reason({"value": value}, quantity=HUMIDITY, default_unit="%")

    assert text.endswith("cannot be: relative humidity is between 0 and 100 %")


def test_a_reading_without_a_sensor_is_refused() -> None:
    text = reason({"value": 1.0}, origin=envelope("sensors.temperature"))

    assert text == (
        "sensor_id: is missing, and there is none in the routing key "
        "sensors.temperature either"
    )


def test_samples_are_grouped_by_series() -> None:
    one, other = {"value": 1.0, "sensor_id": "a"}, {"value": 2.0, "sensor_id": "b"}

    watched = transformed(one, other, one, rules=WATCHED).watched

    assert [each.series.sensor_id for each in watched] == ["a", "b"]
    assert [len(each.samples) for each in watched] == [2, 1]


def test_a_sensor_at_two_locations_is_two_series() -> None:
    at_home = {"value": 1.0, "location": "home"}
    away = {"value": 1.0, "location": "away"}

    watched = transformed(at_home, away, rules=WATCHED).watched

    assert len({each.series.key for each in watched}) == 2


def test_what_no_rule_watches_has_samples_all_the_same() -> None:
    (seen,) = transformed({"value": 1.0}, rules=NO_RULES).watched

    assert (seen.rules, [value for _, value in seen.samples]) == ((), [1.0])


def test_a_series_of_which_all_readings_are_dead_is_not_watched() -> None:
    assert transformed({"value": -300.0}, rules=WATCHED).watched == []


def test_two_readings_of_one_second_without_timestamps_are_two_points() -> None:
    second = envelope(timestamp=NOW - 1)
    found = transform(
        [Reading(20.0), Reading(75.0)],
        [
            replace(second, received_at=NOW - 0.9),
            replace(second, received_at=NOW - 0.4),
        ],
        TEMPERATURE,
        "°C",
        WATCHED,
    )

    (watched,) = found.watched
    (before, cold), (after, hot) = watched.samples
    assert NOW - 1 <= before < after < NOW
    assert (cold, hot) == (20.0, 75.0)
    assert len({line.rpartition(" ")[2] for line in found.lines}) == 2


def test_the_readings_of_an_array_without_timestamps_are_points_of_their_own() -> None:
    found = transformed({"value": 20.0}, {"value": 75.0}, rules=WATCHED)

    assert found.times == [NOW, NOW + 0.001]


YEAR_AGO = NOW - 365 * 86_400


@pytest.mark.parametrize("header", ["x-mesh-replayed-at", "x-mesh-archived"])
def test_a_clock_a_year_behind_is_refused_but_what_is_replayed_may_be_old(
    header: str,
) -> None:
    def read(origin: Envelope) -> Transformed:
        reading = [Reading(20.0, timestamp=YEAR_AGO)]
        return transform(reading, [origin], TEMPERATURE, "°C", NO_RULES, 180 * 86_400.0)

    (dead,) = read(envelope()).dead.values()

    assert "is 365 days before it was received" in dead.reason
    assert "meshtasks dlq replay" in dead.reason
    assert read(replace(envelope(), headers={header: "x"})).dead == {}
