"""What a chart shows, whatever it is drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal

#: More lines than this nobody tells apart.
SERIES_LIMIT = 8

#: How a chart is drawn: lines over moments or numbers, or bars side by side.
Axis = Literal["time", "number", "category"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of bars.

    Attributes:
        name: what the legend says; may be blank if there is one series only.
        values: one for each place on the x axis; None leaves a gap.
        low: smallest of what each value stands for, to draw a band.
        high: largest of it.
        slot: its colour, 1 to :data:`SERIES_LIMIT`.
    """

    name: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    slot: int = 1


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        title: what it shows, for a heading and for those who cannot see it.
        axis: of the x axis.
        x: places on it, ascending unless they are categories: aware datetimes,
            numbers or texts.
        series: what is drawn.
        unit: of all values; blank if they have none.
        span: least height of the y axis, in that unit, so that noise stays small.
        x_range: what the x axis covers if not just its places, so that charts side
            by side can be compared; as positions.
    """

    title: str
    axis: Axis
    x: tuple[datetime | float | str, ...]
    series: tuple[Series, ...]
    unit: str = ""
    span: float = 0.0
    x_range: tuple[float, float] | None = None

    @property
    def positions(self) -> list[float]:
        """Places on the x axis as numbers: epoch seconds, numbers, or 0, 1, 2, …"""
        return [_position(place, each) for place, each in enumerate(self.x)]

    @property
    def zone(self) -> tzinfo | None:
        """Time zone of the times on its x axis."""
        first = self.x[0] if self.x else None
        return first.tzinfo if isinstance(first, datetime) else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value; (0, 1) if there is none."""
        values = [
            value
            for series in self.series
            for value in (*series.values, *series.low, *series.high)
            if value is not None
        ]
        if not values:
            return 0.0, 1.0
        low, high = min(values), max(values)
        if self.axis == "category":
            return min(low, 0.0), max(high, 0.0)
        missing = max(self.span - (high - low), 0.0)
        return low - missing / 2, high + missing / 2


def _position(place: int, x: datetime | float | str) -> float:
    match x:
        case datetime():
            return x.timestamp()
        case str():
            return float(place)
        case _:
            return float(x)
