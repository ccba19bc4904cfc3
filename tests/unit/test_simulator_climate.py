"""The weather and the air of the simulated house."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from meshtasks.producers.simulator.house import (
    ROOMS,
    Climate,
    Overheating,
    Room,
    Weather,
    relative_humidity_percent,
)

HOUR_SECONDS = 3600.0
MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
WEATHER = Weather(random.Random(7))
CLIMATE = Climate(WEATHER, None)
KITCHEN = next(room for room in ROOMS if room.name == "kitchen")


def test_afternoons_are_warmer_than_nights() -> None:
    day = [
        WEATHER.outdoor_celsius(MIDNIGHT + hour * HOUR_SECONDS) for hour in range(24)
    ]

    assert 13 <= day.index(max(day)) <= 17
    assert max(day) - min(day) > 5.0


def test_summers_are_warmer_than_winters() -> None:
    def month_mean(month: int) -> float:
        start = datetime(2026, month, 1, tzinfo=UTC).timestamp()
        hours = range(28 * 24)
        return sum(
            WEATHER.outdoor_celsius(start + hour * HOUR_SECONDS) for hour in hours
        ) / len(hours)

    assert month_mean(7) > month_mean(1) + 12.0


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_rooms_stay_livable_all_year(room: Room) -> None:
    moments = [MIDNIGHT + hour * 7 * HOUR_SECONDS for hour in range(1250)]
    celsius = [CLIMATE.celsius(room, moment) for moment in moments]
    percent = [CLIMATE.humidity_percent(room, moment) for moment in moments]

    assert -10.0 < min(celsius) < max(celsius) < 45.0
    assert 0.0 < min(percent) < max(percent) <= 100.0


def test_cooking_makes_the_kitchen_humid() -> None:
    dinner = MIDNIGHT + 18.5 * HOUR_SECONDS

    assert CLIMATE.humidity_percent(KITCHEN, dinner) > CLIMATE.humidity_percent(
        KITCHEN, dinner + 3 * HOUR_SECONDS
    )


@pytest.mark.parametrize(
    ("celsius", "dew_point_celsius", "percent"),
    # psychrometric tables, e.g. 20 °C and a dew point of 9.3 °C: 50 %
    [(20.0, 9.26, 50.0), (25.0, 25.0, 100.0), (30.0, 18.44, 50.0), (10.0, 20.0, 100.0)],
)
def test_humidity_follows_from_temperature_and_dew_point(
    celsius: float, dew_point_celsius: float, percent: float
) -> None:
    found = relative_humidity_percent(celsius, dew_point_celsius)

    assert found == pytest.approx(percent, abs=0.5)


def test_an_overheating_room_is_hot_within_four_seconds_and_cools_down_again() -> None:
    hot = Climate(WEATHER, Overheating("kitchen", from_seconds=MIDNIGHT))
    normal = CLIMATE.celsius(KITCHEN, MIDNIGHT)

    assert hot.celsius(KITCHEN, MIDNIGHT - 1.0) == pytest.approx(normal, abs=0.1)
    for after_seconds in (4.0, 20.0, 44.0, 304.0):
        assert hot.celsius(KITCHEN, MIDNIGHT + after_seconds) > 60.0
    assert hot.celsius(KITCHEN, MIDNIGHT + 75.0) == pytest.approx(normal, abs=0.5)


def test_only_the_chosen_room_overheats() -> None:
    hot = Climate(WEATHER, Overheating("kitchen", from_seconds=MIDNIGHT))
    office = next(room for room in ROOMS if room.name == "office")
    moment = MIDNIGHT + 20.0

    assert hot.celsius(office, moment) == CLIMATE.celsius(office, moment)
