"""Durations as text (``30s``, ``5m``, ``1h30m``, ``7d``), times and time zones."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_TERM = re.compile(r"(\d{1,9})([smhdw])")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
#: Pattern of a whole duration.
SPAN = re.compile(rf"(?:{_TERM.pattern})+")


def seconds_of(text: object) -> float:
    """Seconds of a duration such as ``1h30m``; a number is in seconds already.

    A number as text is refused: on a command line it is unclear whether it means
    seconds or minutes.

    Raises:
        ValueError: the text is not a duration.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    terms = _TERM.findall(text) if isinstance(text, str) else []
    if not terms or "".join(number + unit for number, unit in terms) != text:
        message = f"expected a time such as 30s, 5m, 1h30m or 7d, got {text!r}"
        raise ValueError(message)
    return sum(int(number) * _UNITS[unit] for number, unit in terms)


def span_text(seconds: float) -> str:
    """A duration as text in its two largest units: ``45 s``, ``3 h 5 min``, ``2 d``."""
    if seconds < _UNITS["m"]:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h")] if days else [(hours, "h"), (minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def moment_of(text: str, now: float) -> float:
    """Epoch seconds of a time that a user entered.

    Args:
        text: date or date and time in ISO 8601 (``2026-11-20``, ``2026-11-20T13:00``,
            ``2026-11-20T13:00+01:00``), local without a zone; a time of day (``14:05``,
            the most recent one); or a duration (``7d``, that long before ``now``).
        now: current time in epoch seconds.

    Raises:
        ValueError: the text is none of these.
    """
    try:
        return now - seconds_of(text)
    except ValueError:
        pass  # not a duration
    try:
        if _TIME_OF_DAY.fullmatch(text):
            hour, rest = text.split(":", 1)
            return _latest(time.fromisoformat(f"{hour:0>2}:{rest}"), now)
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError) as error:
        message = (
            f"expected a date and time such as 2026-11-20T13:00, a date, a time of day "
            f"such as 14:05, or a span of time such as 7d, got {text!r}"
        )
        raise ValueError(message) from error


def _latest(at: time, now: float) -> float:
    """Epoch seconds of the most recent occurrence of a local time of day."""
    today = datetime.fromtimestamp(now)  # noqa: DTZ006 - local time is intended
    moment = datetime.combine(today.date(), at)
    if moment.timestamp() > now:
        moment = datetime.combine(today.date() - timedelta(days=1), at)
    return moment.timestamp()


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f'"{name}" is not a time zone such as Europe/Berlin'
        raise ValueError(message) from error
    return name


#: Name of a time zone, such as ``Europe/Berlin``.
TimeZone = Annotated[str, AfterValidator(_known_zone)]
#: Seconds, at least 0; may be written as a duration.
Duration = Annotated[float, BeforeValidator(seconds_of), Field(ge=0)]
