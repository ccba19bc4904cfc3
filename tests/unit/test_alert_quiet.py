"""Quiet hours, by the clock on the wall."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from meshtasks.flows.alerts.config import QuietHours

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = QuietHours.model_validate({"from": "22:00", "to": "07:00"})
NOON = QuietHours.model_validate({"from": "12:00", "to": "14:00"})


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("hours", "moment", "end"),
    [
        (NIGHT, "2026-11-23 22:00", "2026-11-24 07:00"),
        (NIGHT, "2026-11-23 23:59", "2026-11-24 07:00"),
        (NIGHT, "2026-11-24 06:59", "2026-11-24 07:00"),
        (NOON, "2026-11-24 12:00", "2026-11-24 14:00"),
        (NIGHT, "2026-12-31 23:00", "2027-01-01 07:00"),
    ],
)
def test_they_last_until_their_end(hours: QuietHours, moment: str, end: str) -> None:
    assert hours.end_of(at(moment), BERLIN) == at(end)


@pytest.mark.parametrize(
    ("hours", "moment"),
    [
        (NIGHT, "2026-11-24 07:00"),
        (NIGHT, "2026-11-24 21:59"),
        (NOON, "2026-11-24 11:59"),
        (NOON, "2026-11-24 14:00"),
    ],
)
def test_other_hours_are_not_quiet(hours: QuietHours, moment: str) -> None:
    assert hours.end_of(at(moment), BERLIN) is None


def test_a_night_with_a_clock_change_ends_by_the_clock() -> None:
    asleep = at("2026-10-24 23:00")  # summer time ends at 3 in the morning

    assert NIGHT.end_of(asleep, BERLIN) == at("2026-10-25 07:00") == asleep + 9 * 3_600


def test_without_a_zone_the_hosts_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        end = NIGHT.end_of(at("2026-10-24 23:00"), None)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert end == at("2026-10-25 07:00")


@pytest.mark.parametrize("value", [1320, "22", "25:00", "10 pm", None])
def test_what_is_no_time_of_day_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="a time of day in quotes"):
        QuietHours.model_validate({"from": value, "to": "07:00"})


def test_quiet_hours_of_no_length_are_refused() -> None:
    with pytest.raises(ValidationError, match="must differ"):
        QuietHours.model_validate({"from": "07:00", "to": "07:00"})
