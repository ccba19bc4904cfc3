"""When collectors collect, with a clock and a sleep of the test's own."""

from __future__ import annotations

import threading
import time
from itertools import islice

import pytest
from typing_extensions import override

from meshtasks.producers.collecting import elapsed_seconds, ticks


class Clock(threading.Event):
    """Time that passes only where the test or a waiting tick lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    @override
    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.seconds += timeout
        return self.is_set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_tick_is_at_once_and_the_others_keep_their_distance(
    clock: Clock,
) -> None:
    at = []
    for _ in islice(ticks(10.0, clock, clock), 3):
        at.append(clock.seconds)
        clock.seconds += 0.75  # the work

    assert at == [1_000.0, 1_010.0, 1_020.0]


def test_ticks_that_were_slept_through_are_not_caught_up_on(clock: Clock) -> None:
    at = []
    for _ in islice(ticks(10.0, clock, clock), 4):
        at.append(clock.seconds)
        if len(at) == 2:
            clock.seconds += 3_603.0

    assert at == [1_000.0, 1_010.0, 4_620.0, 4_630.0]


def test_work_longer_than_the_interval_leaves_ticks_out(clock: Clock) -> None:
    at = []
    for _ in islice(ticks(10.0, clock, clock), 3):
        at.append(clock.seconds)
        clock.seconds += 12.0

    assert at == [1_000.0, 1_020.0, 1_040.0]


def test_they_end_when_stopped(clock: Clock) -> None:
    rounds = ticks(10.0, clock, clock)
    next(rounds)
    clock.set()

    assert list(rounds) == []


def test_rates_are_measured_by_the_clock_that_goes_on_during_sleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert before <= elapsed_seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)
