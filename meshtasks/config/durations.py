"""Spans of time as people write them, ``30s``, ``5m``, ``1h30m``, ``7d``, and zones."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_TERM = re.compile(r"(\d{1,9})([smhdw])")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
#: The whole of a span.
SPAN = re.compile(rf"(?:{_TERM.pattern})+")


def seconds_of(text: object) -> float:
    """Seconds of a span such as ``1h30m``; a number is of seconds already.

    A number as text is refused: on a command line nobody can tell whether it means
    seconds or minutes.

    Raises:
        ValueError: it is not such a span.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    terms = _TERM.findall(text) if isinstance(text, str) else []
    if not terms or "".join(number + unit for number, unit in terms) != text:
        message = f"expected a time such as 30s, 5m, 1h30m or 7d, got {text!r}"
        raise ValueError(message)
    return sum(int(number) * _UNITS[unit] for number, unit in terms)


def span_text(seconds: float) -> str:
    """A span in its two largest units: ``45 s``, ``25 min``, ``3 h 5 min``, ``2 d``."""
    if seconds < _UNITS["m"]:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h")] if days else [(hours, "h"), (minutes, "min")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def moment_of(text: str, now: float) -> float:
    """Epoch seconds of ``2026-11-20``, ``2026-11-20T13:00``, ``…+01:00``, of ``14:05``
    (the latest such time of day), or of ``7d`` (so long ago). Without a zone it is
    local time.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return now - seconds_of(text)
    except ValueError:
        pass  # not a span, then
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
    """The last time that it was this time of day, here."""
    today = datetime.fromtimestamp(now)  # noqa: DTZ006 - local, as it is meant
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


#: Name of a time zone.
TimeZone = Annotated[str, AfterValidator(_known_zone)]
#: Seconds, written as a span.
Duration = Annotated[float, BeforeValidator(seconds_of), Field(ge=0)]
