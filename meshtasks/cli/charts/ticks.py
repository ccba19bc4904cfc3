"""Where an axis has its marks, and what they and other values say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

#: As wide as a plus sign, and no line breaks after it.
MINUS = "\N{MINUS SIGN}"


class Tick(NamedTuple):
    """A mark on an axis.

    Attributes:
        position: in the axis's own numbers.
        label: what it says.
    """

    position: float
    label: str


#: Numbers that differ by less of themselves are the same, and less than the second
#: is zero; computing with them would lose all digits.
_SAME, _TINY = 1e-9, 1e-200
#: Steps outside these are written with an exponent.
_SMALLEST_STEP, _LARGEST_STEP = 1e-6, 1e12

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
#: Distances between marks on a time axis, seconds, and how each mark is written.
_TIME_STEPS = (
    *((seconds, "%H:%M:%S") for seconds in (1, 5, 15, 30)),
    *((minutes * _MINUTE, "%H:%M") for minutes in (1, 5, 15, 30)),
    *((hours * _HOUR, "%H:%M") for hours in (1, 3, 6, 12)),
    *((days * _DAY, "%-d %b") for days in (1, 2, 7, 14)),
    *((days * _DAY, "%b %Y") for days in (31, 92, 183, 366, 731, 1827)),
)


def number_ticks(low: float, high: float, most: int = 5) -> list[Tick]:
    """Round numbers that cover ``low`` to ``high``: the first is not above it, the
    last not below.

    Args:
        low: smallest value.
        high: largest value.
        most: about how many.
    """
    size = max(abs(low), abs(high))
    if high - low <= size * _SAME or size < _TINY:
        pad = size * 0.1 if size >= _TINY else 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in _STEPS if each * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) % 1 != 0  # 2.5 and the like
    how = f",.{decimals}f" if _SMALLEST_STEP <= step < _LARGEST_STEP else ".4g"
    return [
        Tick(place * step, f"{place * step:{how}}".replace("-", MINUS))
        for place in range(first, last + 1)
    ]


def time_ticks(
    start: float, end: float, zone: tzinfo | None, most: int = 7
) -> list[Tick]:
    """Full hours, days and the like between two moments.

    Args:
        start: epoch seconds.
        end: epoch seconds.
        zone: whose hours and days.
        most: as many at most.
    """
    fits = ((step, how) for step, how in _TIME_STEPS if (end - start) / step <= most)
    step, how = next(fits, _TIME_STEPS[-1])
    moments = (
        _days(start, end, zone, step)
        if step >= _DAY
        else _within(start, end, zone, step)
    )
    return [Tick(each.timestamp(), each.strftime(how)) for each in moments]


def category_ticks(names: Sequence[str], most: int = 12) -> list[Tick]:
    """Names of categories; some are left out where they are too many."""
    every = math.ceil(len(names) / most)
    return [
        Tick(float(place), name)
        for place, name in enumerate(names)
        if place % every == 0
    ]


def number_text(value: float, unit: str = "") -> str:
    """A value for people: ``21.4 °C``."""
    size = abs(value)
    decimals = 0 if size >= 1000 or value == int(value) else 1 if size >= 1 else 3  # noqa: PLR2004
    text = f"{value:,.{decimals}f}".replace("-", MINUS)
    return f"{text} {unit}" if unit else text


def _within(
    start: float, end: float, zone: tzinfo | None, step: int
) -> Iterator[datetime]:
    """Multiples of a step of less than a day, counted from midnight."""
    for day in _days(start - _DAY, end, zone, _DAY):
        for seconds in range(0, _DAY, step):
            # by the clock: on the day it is put forward an hour is missing
            moment = day + timedelta(seconds=seconds)
            if start <= moment.timestamp() <= end and moment.date() == day.date():
                yield moment


def _days(
    start: float, end: float, zone: tzinfo | None, step: int
) -> Iterator[datetime]:
    """Midnights; every so many days, or the first of every so many months."""
    day = datetime.fromtimestamp(start, zone)
    day = day.replace(hour=0, minute=0, second=0, microsecond=0)
    days = step // _DAY
    months = round(days / 30.4) if days > 28 else 0  # noqa: PLR2004 - a month
    while day.timestamp() <= end:
        ordinal = day.year * 12 + day.month - 1 if months else day.toordinal()
        due = ordinal % (months or days) == 0 and (not months or day.day == 1)
        if due and day.timestamp() >= start:
            yield day
        day += timedelta(days=1)
