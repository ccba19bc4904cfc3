"""Delays between attempts to reach a service."""

from __future__ import annotations

import pytest

from meshtasks.timing import Backoff

BACKOFF = Backoff(first_seconds=0.5, longest_seconds=8.0)


@pytest.mark.parametrize(
    ("attempt", "bound_seconds"), [(0, 0.5), (1, 1.0), (3, 4.0), (4, 8.0), (5, 8.0)]
)
def test_the_delay_doubles_up_to_the_longest(
    attempt: int, bound_seconds: float
) -> None:
    delays = [BACKOFF.delay_seconds(attempt) for _ in range(200)]

    assert all(bound_seconds / 2 <= delay <= bound_seconds for delay in delays)


def test_delays_are_scattered() -> None:
    assert len({BACKOFF.delay_seconds(4) for _ in range(20)}) > 1


def test_any_number_of_attempts_has_a_delay() -> None:
    assert BACKOFF.delay_seconds(100_000) <= 8.0
