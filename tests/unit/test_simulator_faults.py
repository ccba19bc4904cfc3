"""Sensors that fail."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from meshtasks.producers.simulator.sensors import Fault, FaultySensor


def readings(seed: int) -> tuple[list[float | None], Counter[str]]:
    """A day of readings of a slowly rising value, one each second."""
    happened: Counter[str] = Counter()
    sensor = FaultySensor(random.Random(seed), 300.0, happened)
    return [sensor.read(float(second), second / 1000) for second in range(86_400)], (
        happened
    )


@pytest.fixture(scope="module")
def day() -> tuple[list[float | None], Counter[str]]:
    return readings(seed=1)


def test_every_kind_of_fault_happens_and_is_counted(
    day: tuple[list[float | None], Counter[str]],
) -> None:
    _, happened = day

    assert set(happened) == set(Fault)
    assert 150 < happened.total() < 350


def test_a_spike_is_one_reading(day: tuple[list[float | None], Counter[str]]) -> None:
    values, happened = day
    far_off = [
        value
        for second, value in enumerate(values)
        if value is not None and abs(value - second / 1000) > 5.0
    ]

    assert len(far_off) == happened[Fault.SPIKE]


def test_a_stuck_sensor_repeats_itself_for_at_least_20_seconds(
    day: tuple[list[float | None], Counter[str]],
) -> None:
    values, happened = day
    repeats = Counter(value for value in values if value is not None)
    lengths = [times for times in repeats.values() if times > 1]

    assert len(lengths) == happened[Fault.STUCK]
    assert min(lengths) >= 20


def test_a_sensor_that_dropped_out_has_no_value(
    day: tuple[list[float | None], Counter[str]],
) -> None:
    values, happened = day

    assert 5 * happened[Fault.DROPOUT] <= values.count(None) < 60 * len(values) / 300


def test_most_readings_are_true(
    day: tuple[list[float | None], Counter[str]],
) -> None:
    values, _ = day
    true = sum(value == second / 1000 for second, value in enumerate(values))

    assert true > 0.75 * len(values)


def test_the_same_seed_gives_the_same_faults() -> None:
    assert readings(seed=3) == readings(seed=3)
    assert readings(seed=3) != readings(seed=4)
