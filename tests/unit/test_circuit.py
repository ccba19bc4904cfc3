"""The circuit of a service."""

from __future__ import annotations

import pytest

from meshtasks.amqp.queues import retry_level
from meshtasks.flows.circuit import Circuit, FailedTry, State


def longest(_low: float, high: float) -> float:
    return high


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(longest)


def waits_until_closed(circuit: Circuit, now: float, after_failures: int) -> float:
    """Fail so many tries in a row, each as soon as it may be made, then succeed.

    Returns:
        When the circuit closed.
    """
    for _ in range(after_failures):
        circuit.failed("refused", now, now)
        now += circuit.wait_seconds(now)
    assert circuit.succeeded(now, now)
    return now


def test_the_first_failure_opens_it(circuit: Circuit) -> None:
    assert circuit.failed("refused", 0.0, 0.0)

    assert circuit.state(0.0) is State.OPEN
    assert circuit.reason == "refused"


def test_it_is_half_open_when_its_wait_is_over(circuit: Circuit) -> None:
    circuit.failed("refused", 0.0, 0.0)

    assert circuit.state(0.99) is State.OPEN
    assert circuit.state(1.0) is State.HALF_OPEN


def test_a_try_that_succeeds_closes_it_and_one_that_fails_does_not(
    circuit: Circuit,
) -> None:
    circuit.failed("refused", 0.0, 0.0)

    assert not circuit.failed("again", 1.0, 1.0)
    assert circuit.state(1.0) is State.OPEN
    assert circuit.succeeded(2.0, 2.0)
    assert circuit.state(2.0) is State.CLOSED
    assert circuit.trips == 1


def test_what_began_before_it_opened_says_nothing(circuit: Circuit) -> None:
    circuit.failed("refused", 0.0, 5.0)

    assert not circuit.succeeded(4.0, 6.5)
    assert circuit.state(6.5) is State.HALF_OPEN

    circuit.succeeded(6.5, 7.0)
    assert not circuit.failed("hung since before", 4.0, 8.0)
    assert circuit.state(8.0) is State.CLOSED


def test_whoever_was_away_for_a_minute_is_tried_every_two_seconds(
    circuit: Circuit,
) -> None:
    now, tries = 0.0, 0
    while now < 60:
        circuit.failed("refused", now, now)
        now, tries = now + circuit.wait_seconds(now), tries + 1
    assert circuit.wait_seconds(now) == 0
    assert tries < 60

    circuit.failed("refused", now, now)
    assert circuit.wait_seconds(now) == pytest.approx(2, abs=0.1)


def test_whoever_was_away_for_hours_is_tried_every_thirty_seconds(
    circuit: Circuit,
) -> None:
    circuit.failed("refused", 0.0, 0.0)
    circuit.failed("refused", 7200.0, 7200.0)

    assert circuit.wait_seconds(7200.0) == 30


def test_waits_double_when_it_had_closed_for_a_moment_only(circuit: Circuit) -> None:
    now, waits = 0.0, []
    for _ in range(7):
        circuit.failed("refused", now, now)
        waits.append(circuit.wait_seconds(now))
        now += waits[-1]
        circuit.succeeded(now, now)

    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_that_is_forgotten_after_a_while_of_success(circuit: Circuit) -> None:
    now = 0.0
    for _ in range(4):
        now = waits_until_closed(circuit, now, after_failures=1)

    circuit.failed("refused", now + 21, now + 21)

    assert circuit.wait_seconds(now + 21) == 1


def test_where_work_comes_seldom_it_is_remembered_longer() -> None:
    circuit, now = Circuit(longest, steady_seconds=300.0), 0.0
    waits: list[float] = []
    for _ in range(4):  # a batch that is too large comes every half minute
        assert not circuit.verdict(now, now).counts or not waits
        circuit.failed("no space left", now, now)
        waits.append(circuit.wait_seconds(now))
        circuit.succeeded(now + waits[-1], now + waits[-1])
        now += waits[-1] + 30

    assert waits[0] == 1
    assert waits[1] == 2
    assert waits == sorted(waits)
    circuit.failed("no space left", now + 301, now + 301)
    assert circuit.wait_seconds(now + 301) == 1


def test_a_service_that_takes_every_third_request_is_found_down_a_few_times_a_minute(
    circuit: Circuit,
) -> None:
    now, requests = 0.0, 0
    while now < 60:
        requests += 1
        if requests % 3:
            counts = circuit.verdict(now, now).counts
            assert not counts
            circuit.failed("refused", now, now)
        else:
            circuit.succeeded(now, now)
        now += circuit.wait_seconds(now)

    assert circuit.trips <= 6


def test_a_wait_is_as_long_as_the_service_kept_us_waiting(circuit: Circuit) -> None:
    circuit.failed("no answer", 0.0, 10.0, lasted_seconds=10.0)
    assert circuit.wait_seconds(10.0) == 10

    circuit.failed("no answer", 20.0, 30.0, lasted_seconds=10.0)
    assert circuit.wait_seconds(30.0) == 20


@pytest.mark.parametrize(("asked", "waits"), [(90.0, 90.0), (86_400.0, 300.0)])
def test_no_try_comes_before_the_time_that_was_asked_for_within_five_minutes(
    circuit: Circuit, asked: float, waits: float
) -> None:
    circuit.failed("429", 0.0, 0.0, asked_seconds=asked)

    assert circuit.wait_seconds(0.0) == waits


# --- what counts


def test_a_failure_counts_once_the_service_has_done_other_work(
    circuit: Circuit,
) -> None:
    for number in range(5):
        assert not circuit.verdict(0.0, 0.0).counts
        circuit.succeeded(number, number)

    assert circuit.verdict(5.0, 5.0).counts


def test_a_failure_counts_once_the_service_has_been_well_for_a_while(
    circuit: Circuit,
) -> None:
    circuit.succeeded(0.0, 0.0)

    assert not circuit.verdict(10.0, 10.0).counts
    assert circuit.verdict(21.0, 21.0).counts


def test_no_failure_counts_while_it_is_open_or_half_open(circuit: Circuit) -> None:
    circuit.succeeded(0.0, 0.0)
    circuit.failed("refused", 30.0, 30.0)

    assert circuit.verdict(29.0, 30.0) == FailedTry(counts=False)  # was under way
    assert circuit.verdict(31.0, 31.0) == FailedTry(counts=False)  # half-open


def test_what_fails_when_it_has_just_closed_waits_until_others_had_their_turn(
    circuit: Circuit,
) -> None:
    now = waits_until_closed(circuit, 0.0, after_failures=1)

    # it opens for two seconds then, and counts as well 20 seconds after those
    assert circuit.verdict(now, now) == FailedTry(counts=False, wait_seconds=22.0)


def test_what_always_fails_is_found_out_where_other_work_comes_once_a_minute(
    circuit: Circuit,
) -> None:
    returns_at, waiting = 0.0, 0
    for now in range(3600):
        waiting += now % 60 == 0
        state = circuit.state(now)
        if state is State.OPEN:
            continue
        # The oldest goes alone while it is tried whether the service is back.
        if now >= returns_at and (state is State.CLOSED or not waiting):
            verdict = circuit.verdict(now, now)
            if verdict.counts:
                break
            circuit.failed("no answer", now, now)
            wait_seconds = retry_level((1, 5, 30, 120, 600), 1, verdict.wait_seconds)
            returns_at = now + wait_seconds
        elif waiting:
            circuit.succeeded(now, now)
            waiting = 0

    assert verdict.counts


def test_tries_are_counted_anew_when_it_opens_again(circuit: Circuit) -> None:
    closed_at = waits_until_closed(circuit, 0.0, after_failures=4)
    assert circuit.failed_tries == 3

    circuit.failed("refused", closed_at + 60, closed_at + 60)

    assert circuit.failed_tries == 0


def test_tries_that_hang_make_the_wait_three_times_as_long_at_most(
    circuit: Circuit,
) -> None:
    now, waits = 0.0, []
    for _ in range(5):
        circuit.failed("too slow", now, now, lasted_seconds=40.0)
        waits.append(circuit.wait_seconds(now))
        now += waits[-1]

    assert waits == [40, 80, 120, 120, 120]


def test_a_fifth_of_a_wait_is_left_to_chance() -> None:
    circuit = Circuit(uniform=lambda low, high: low)

    circuit.failed("refused", 0.0, 0.0)

    assert circuit.wait_seconds(0.0) == pytest.approx(0.8)
