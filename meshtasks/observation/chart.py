"""The data of a chart, and the chart of a query's rows; this module draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from pathlib import Path
from typing import Any, Literal

#: CSS of a page with charts; it follows the reader's light or dark setting.
STYLE = Path(__file__).with_name("chart.css").read_text(encoding="utf-8")

#: More series than this cannot be told apart.
SERIES_LIMIT = 8

#: Kind of the x axis: lines over times or numbers, or bars side by side.
Axis = Literal["time", "number", "category"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of bars.

    Attributes:
        name: its text in the legend; may be blank for a single series.
        values: one for each point of the x axis; None leaves a gap.
        low: smallest reading that each value stands for, to draw a band.
        high: largest reading that each value stands for.
        slot: number of its colour, 1 to :data:`SERIES_LIMIT`.
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
        title: what the chart shows, as heading and for screen readers.
        axis: kind of the x axis.
        x: its points, ascending unless they are categories: aware datetimes, numbers
            or texts.
        series: the lines or sets of bars.
        unit: unit of all values; blank if they have none.
        span: least height of the y axis, in that unit, so that noise looks small.
        x_range: first and last position of the x axis, if wider than its points, so
            that charts side by side can be compared; in units of :attr:`positions`.
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
        """Points of the x axis as numbers: epoch seconds, numbers, or 0, 1, 2, …"""
        return [_position(index, x) for index, x in enumerate(self.x)]

    @property
    def zone(self) -> tzinfo | None:
        """Time zone of the times on the x axis; None if it shows no times."""
        first = self.x[0] if self.x else None
        return first.tzinfo if isinstance(first, datetime) else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the y axis; (0, 1) if there is no value."""
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

    def reading(self, index: int, time_format: str) -> list[str]:
        """The lines of text for one point: its position and its values. The list is
        empty if it has no value."""
        match self.x[index]:
            case datetime() as moment:
                where = moment.strftime(time_format)
            case str() as where:
                pass
            case number:
                where = f"{number:g}"
        lines = [where] if len(self.series) > 1 else []
        for series in self.series:
            value = series.values[index]
            if value is None:
                continue
            text = f"{series.name if lines else where}: {number_text(value, self.unit)}"
            low = series.low[index] if series.low else None
            high = series.high[index] if series.high else None
            if low is not None and high is not None and low < high:
                text += f" ({number_text(low)} to {number_text(high)})"
            lines.append(text)
        return lines if lines != [where] else []

    def in_words(self) -> str:
        """The chart as sentences, for screen readers."""
        sentences = [self.title]
        for series in self.series:
            values = [value for value in series.values if value is not None]
            if values:
                lowest, highest, last = (
                    number_text(value, self.unit)
                    for value in (min(values), max(values), values[-1])
                )
                name = f"{series.name}: " if len(self.series) > 1 else ""
                sentences.append(f"{name}from {lowest} to {highest}, at last {last}")
        return ". ".join(sentences)


def number_text(value: float, unit: str = "") -> str:
    """A value with its unit as text: ``21.4 °C``."""
    size = abs(value)
    decimals = 0 if size >= 1000 or value == int(value) else 1 if size >= 1 else 3  # noqa: PLR2004
    text = f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return f"{text} {unit}" if unit else text


def _position(index: int, x: datetime | float | str) -> float:
    match x:
        case datetime():
            return x.timestamp()
        case str():
            return float(index)
        case _:
            return float(x)


#: Rows above this add nothing visible to a chart.
ROWS_LIMIT = 50_000
#: With more bars than this their names cannot be read.
_BARS_LIMIT = 60
#: Larger numbers are left out, and so are infinity and NaN.
_LARGEST = 1e300

_FEWER = "reduce them, as with GROUP BY and time_bucket(INTERVAL '1 hour', time)"


#: Name of the series with the mean of all series beyond the limit.
_OTHERS = "mean of the others"

_Values = dict[datetime | float | str, float | None]


class NotDrawable(Exception):
    """The rows cannot be drawn as a chart; the text says why."""


def chart_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Chart:
    """The chart of a query's result.

    The x axis is the first column of times, or else the first column. Times and numbers
    make lines, texts make bars. Every other column of numbers is a series. One column
    of texts may name the series. If there are more series than a chart can show, the
    largest are drawn, and the mean of the others.

    Args:
        names: the names of the columns.
        rows: the values of the columns; at most :data:`ROWS_LIMIT` rows.

    Raises:
        NotDrawable: the rows do not have this form.
    """
    table = [tuple(row) for row in rows]
    if len(table) > ROWS_LIMIT:
        message = f"more than {ROWS_LIMIT:,} rows; {_FEWER}"
        raise NotDrawable(message)
    across = next((c for c in range(len(names)) if _is_time(table, c)), 0)
    table = [row for row in table if _is_drawable(row[across])]
    if not table:
        raise NotDrawable("there are no rows to draw")
    axis, xs = _axis(names[across], [row[across] for row in table])
    numbers, labels = _roles(names, table, across)
    series = _series_of(names, table, xs, numbers, labels)
    points = list(dict.fromkeys(xs)) if axis == "category" else sorted(set(xs))
    if axis == "category" and len(points) > _BARS_LIMIT:
        message = f"{len(points)} bars; a chart can show {_BARS_LIMIT}"
        raise NotDrawable(message)
    ordered = list(series)
    if labels:  # groups come in any order; a sorted order keeps colours with names
        ordered.sort(key=lambda name: (name == _OTHERS, name))
    drawn = tuple(
        Series(name, tuple(series[name].get(x) for x in points), slot=slot)
        for slot, name in enumerate(ordered, 1)
    )
    what = ", ".join(names[column] for column in numbers)
    title = f"{what} by {names[across]}".replace('"', "")
    return Chart(title, axis, tuple(points), drawn)


def _series_of(
    names: Sequence[str],
    table: list[tuple[Any, ...]],
    xs: list[datetime | float | str],
    numbers: Sequence[int],
    labels: Sequence[int],
) -> dict[str, _Values]:
    """The values of each series by x, of at most as many series as a chart can show."""
    series: dict[str, _Values] = {}
    for x, row in zip(xs, table, strict=True):
        label = " ".join(str(row[column]) for column in labels)
        for column in numbers:
            alone = len(numbers) == 1
            name = label if alone and label else f"{label} {names[column]}".strip()
            series.setdefault(name, {})[x] = _finite(row[column])
    return _largest(series) if len(series) > SERIES_LIMIT else series


def _largest(series: Mapping[str, _Values]) -> dict[str, _Values]:
    """The series with the largest mean absolute value, and one series with the mean of
    all others."""
    by_size = sorted(series, key=lambda name: -_mean_size(series[name]))
    kept = by_size[: SERIES_LIMIT - 1]
    at: dict[datetime | float | str, list[float]] = {}
    for name in series.keys() - set(kept):
        for x, value in series[name].items():
            if value is not None:
                at.setdefault(x, []).append(value)
    others: _Values = {x: sum(values) / len(values) for x, values in at.items()}
    return {**{name: series[name] for name in kept}, _OTHERS: others}


def _mean_size(values: _Values) -> float:
    sizes = [abs(value) for value in values.values() if value is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _axis(name: str, column: list[Any]) -> tuple[Axis, list[datetime | float | str]]:
    """The kind of the x axis and its values."""
    if all(isinstance(value, date) for value in column):  # a datetime is a date too
        return "time", [_moment(value) for value in column]
    if all(is_number(value) for value in column):
        return "number", [float(value) for value in column]
    if all(isinstance(value, str | bool) for value in column):
        return "category", [str(value) for value in column]
    message = (
        f"the column {name} holds neither times nor numbers nor texts only, so it "
        "is no x axis"
    )
    raise NotDrawable(message)


def _moment(value: date) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _roles(
    names: Sequence[str], table: Sequence[Sequence[Any]], across: int
) -> tuple[list[int], list[int]]:
    """Indexes of the columns of numbers, and of the column that names the series."""
    numbers, labels = [], []
    for column in range(len(names)):
        if column == across:
            continue
        values = [row[column] for row in table if row[column] is not None]
        if values and all(map(is_number, values)):
            numbers.append(column)
        elif values:
            labels.append(column)
    if not numbers:
        message = f"there is no column of numbers beside {names[across]}, the x axis"
        raise NotDrawable(message)
    if len(labels) > 1:
        named = ", ".join(names[column] for column in labels)
        message = (
            f"the columns {named} hold no numbers; one of them may name the series, "
            "leave out the others"
        )
        raise NotDrawable(message)
    return numbers, labels


def _finite(value: float | None) -> float | None:
    """The value as a float; None if a chart cannot show it."""
    return float(value) if value is not None and abs(value) <= _LARGEST else None


def _is_drawable(x: object) -> bool:
    return _finite(x) is not None if isinstance(x, float) else x is not None


def is_number(value: object) -> bool:
    """Whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_time(table: Sequence[Sequence[Any]], column: int) -> bool:
    """Whether a column holds only dates or times, at least one."""
    values = [row[column] for row in table if row[column] is not None]
    return bool(values) and all(isinstance(value, date) for value in values)
