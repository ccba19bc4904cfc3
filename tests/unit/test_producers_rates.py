"""Rates from counters that wrap, restart, sleep and come back."""

from __future__ import annotations

import pytest

from meshtasks.producers.collecting import WRAP_32_BIT, Counters, Increase

LONGEST_GAP_SECONDS = 30.0


@pytest.fixture
def counters() -> Counters:
    return Counters(LONGEST_GAP_SECONDS, wraps_at=WRAP_32_BIT)


def test_the_first_reading_has_no_rate(counters: Counters) -> None:
    assert counters.read("eth0", {"bytes": 5_000}, 100.0) is None


def test_the_rate_is_over_the_time_that_really_passed(counters: Counters) -> None:
    counters.read("eth0", {"bytes": 5_000}, 100.0)

    increase = counters.read("eth0", {"bytes": 6_250}, 112.5)

    assert increase == Increase(12.5, {"bytes": 1_250})
    assert increase.per_second("bytes") == 100.0
    assert increase.per_second("packets") is None


def test_a_counter_of_32_bits_that_comes_round_goes_on(counters: Counters) -> None:
    counters.read("sda", {"busy_ms": WRAP_32_BIT - 400}, 100.0)

    assert counters.read("sda", {"busy_ms": 600}, 110.0) == Increase(
        10.0, {"busy_ms": 1_000}
    )


def test_without_a_known_end_a_counter_does_not_come_round() -> None:
    counters = Counters(LONGEST_GAP_SECONDS)
    counters.read("http", {"requests": WRAP_32_BIT - 400}, 100.0)

    assert counters.read("http", {"requests": 600}, 110.0) is None


@pytest.mark.parametrize("before", [1_000, WRAP_32_BIT // 2, 3 * WRAP_32_BIT])
def test_after_a_restart_there_is_no_rate_until_the_next_reading(
    counters: Counters, before: int
) -> None:
    counters.read("eth0", {"bytes": before}, 100.0)

    assert counters.read("eth0", {"bytes": 900}, 110.0) is None
    assert counters.read("eth0", {"bytes": 1_900}, 120.0) == Increase(
        10.0, {"bytes": 1_000}
    )


def test_one_counter_that_went_back_resets_all_of_its_source(
    counters: Counters,
) -> None:
    counters.read("histogram", {"count": 50, "le_1": 10}, 100.0)

    assert counters.read("histogram", {"count": 60, "le_1": 2}, 110.0) is None


def test_sources_do_not_disturb_each_other(counters: Counters) -> None:
    counters.read("eth0", {"bytes": 5_000}, 100.0)
    counters.read("eth1", {"bytes": 9_000}, 100.0)
    counters.read("eth0", {"bytes": 0}, 110.0)

    assert counters.read("eth1", {"bytes": 9_500}, 110.0) == Increase(
        10.0, {"bytes": 500}
    )


def test_a_night_asleep_has_no_rate_and_the_morning_has(counters: Counters) -> None:
    counters.read("eth0", {"bytes": 5_000}, 100.0)

    assert counters.read("eth0", {"bytes": 5_100}, 28_900.0) is None
    assert counters.read("eth0", {"bytes": 5_200}, 28_910.0) == Increase(
        10.0, {"bytes": 100}
    )


def test_the_same_reading_again_neither_has_a_rate_nor_spoils_the_next(
    counters: Counters,
) -> None:
    counters.read("cadvisor", {"cpu": 10.0}, 100.0)

    assert counters.read("cadvisor", {"cpu": 10.0}, 100.0) is None
    assert counters.read("cadvisor", {"cpu": 15.0}, 110.0) == Increase(
        10.0, {"cpu": 5.0}
    )


def test_a_counter_that_is_new_has_no_rate_yet_and_its_neighbour_has(
    counters: Counters,
) -> None:
    counters.read("sda", {"reads": 1}, 100.0)

    assert counters.read("sda", {"reads": 2, "discards": 7}, 110.0) == Increase(
        10.0, {"reads": 1}
    )


def test_a_source_that_is_gone_is_forgotten_and_begins_anew(
    counters: Counters,
) -> None:
    counters.read("usb0", {"bytes": 5_000}, 100.0)
    counters.read("eth0", {"bytes": 5_000}, 100.0)
    assert counters.forget_unread() == 0

    counters.read("eth0", {"bytes": 5_000}, 105.0)

    assert counters.forget_unread() == 1
    assert counters.read("usb0", {"bytes": 5_100}, 110.0) is None
    assert counters.read("eth0", {"bytes": 5_100}, 110.0) is not None
