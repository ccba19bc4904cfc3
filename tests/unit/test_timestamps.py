"""Timestamps: the forms that are read, and those that are refused."""

from __future__ import annotations

import pytest

from meshtasks.records.timestamps import (
    InvalidTimestamp,
    UntimedMoments,
    epoch_seconds,
)
from tests.support.handling import message

NOW = 1_795_440_000.0  # 2026-11-23T13:20:00Z


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2026-11-23T13:12:00Z", 1_795_439_520.0),
        ("2026-11-23t13:12:00z", 1_795_439_520.0),
        ("2026-11-23T14:12:00+01:00", 1_795_439_520.0),
        ("2026-11-23T13:12:00.250Z", 1_795_439_520.25),
        ("2026-11-23 13:12:00Z", 1_795_439_520.0),
        (1_795_439_520, 1_795_439_520.0),
        (1_795_439_520.5, 1_795_439_520.5),
        (1_795_439_520_500, 1_795_439_520.5),
        (1_795_439_520_500_250, 1_795_439_520.50025),
        (1_795_439_520_500_250_000, 1_795_439_520.50025),
        (946_684_800_000_000_000, 946_684_800.0),
    ],
)
def test_a_moment_is_read(stamp: object, seconds: float) -> None:
    assert epoch_seconds(stamp, NOW) == seconds


def test_a_local_time_is_refused_because_its_zone_is_anybodys_guess() -> None:
    with pytest.raises(InvalidTimestamp) as caught:
        epoch_seconds("2019-01-01T00:00:00", NOW)

    assert str(caught.value) == (
        "timestamp 2019-01-01T00:00:00 has no time zone; end it with Z for UTC or "
        "with an offset such as +01:00"
    )


@pytest.mark.parametrize(
    "stamp",
    ["2026-02-30T00:00:00Z", "2026-11-23T25:00:00Z", "yesterday", "1795439520", ""],
)
def test_text_that_is_no_moment_is_refused(stamp: str) -> None:
    with pytest.raises(InvalidTimestamp, match="is not an RFC 3339 time"):
        epoch_seconds(stamp, NOW)


@pytest.mark.parametrize("stamp", [True, [], {}, float("nan"), float("inf"), 10**400])
def test_what_is_neither_text_nor_number_is_refused(stamp: object) -> None:
    with pytest.raises(InvalidTimestamp, match=r"^timestamp: expected"):
        epoch_seconds(stamp, NOW)


@pytest.mark.parametrize("stamp", [0, -5, 3_600, "1970-01-01T00:01:00Z"])
def test_a_clock_that_was_never_set_is_refused(stamp: object) -> None:
    with pytest.raises(InvalidTimestamp, match="before the year 2000"):
        epoch_seconds(stamp, NOW)


def test_up_to_a_day_ahead_is_taken() -> None:
    assert epoch_seconds(NOW + 86_400, NOW) == NOW + 86_400


@pytest.mark.parametrize("stamp", [NOW + 86_401, "9999-12-31T23:59:59Z", 1e15])
def test_more_than_a_day_ahead_is_refused(stamp: object) -> None:
    with pytest.raises(InvalidTimestamp, match="days after it was received"):
        epoch_seconds(stamp, NOW)


def moments(*receipts: float, timestamp: float | None) -> list[float]:
    """Of records of one series without timestamps, each in a batch of its own."""
    envelopes = [
        message("q", "sensors.temperature.hall", 1, timestamp=timestamp, received_at=at)
        for at in receipts
    ]
    return [UntimedMoments().next("hall", each) for each in envelopes]


@pytest.mark.parametrize(
    "receipts",
    [
        (NOW + 0.2, NOW + 0.7),
        (NOW + 0.3, NOW + 1.004),  # the second was over when it came
        (NOW - 3.1, NOW - 2.8),  # the publisher's clock is ahead
        (NOW + 5.6, NOW + 6.1),  # or behind
        (NOW + 600, NOW + 600.1),  # nobody consumed
    ],
)
def test_records_of_one_amqp_second_stay_apart_within_it_and_in_order(
    receipts: tuple[float, float],
) -> None:
    first, second = moments(*receipts, timestamp=NOW)

    assert NOW <= first < second < NOW + 1
    assert second - first > 0.0005  # points have milliseconds


def test_a_retry_of_a_record_without_a_timestamp_has_the_same_moment() -> None:
    first, again = moments(NOW + 0.4, NOW + 0.4, timestamp=NOW)

    assert first == again


def test_records_of_one_batch_and_millisecond_are_a_millisecond_apart() -> None:
    untimed, array = UntimedMoments(), message("q", "k", [1, 2, 3])
    later = message("q", "k", 4, received_at=NOW + 0.001)

    times = [untimed.next("hall", each) for each in (array, array, array, later)]

    assert times == [NOW, NOW + 0.001, NOW + 0.002, NOW + 0.003]
    assert untimed.next("attic", array) == NOW
