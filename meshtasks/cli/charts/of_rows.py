"""From the rows of a query to the chart of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from meshtasks.cli.charts.chart import SERIES_LIMIT, Axis, Chart, Series

#: Rows beyond which a chart shows nothing that fewer would not.
ROWS_LIMIT = 50_000
#: Bars beyond which their names cannot be read.
_BARS_LIMIT = 60

_FEWER = "ask for fewer, say with GROUP BY and time_bucket(INTERVAL '1 hour', time)"


#: The series that stands for those beyond the limit: their mean.
_OTHERS = "mean of the others"

_Values = dict[datetime | float | str, float | None]


class NotDrawable(Exception):
    """No chart can be made of these rows; the text says why."""


def chart_of(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Chart:
    """The chart of a query's result.

    The first column of times is the x axis, else the first column: times and numbers
    make lines, texts make bars. Every other column of numbers is a series; a column
    of texts, of which there may be one, tells series apart. Of more series than a chart
    can show, the largest are drawn, and the mean of the others.

    Args:
        names: of the columns.
        rows: their values; at most :data:`ROWS_LIMIT`.

    Raises:
        NotDrawable: the rows are not of that form.
    """
    table = [tuple(row) for row in rows]
    if len(table) > ROWS_LIMIT:
        message = f"more than {ROWS_LIMIT:,} rows; {_FEWER}"
        raise NotDrawable(message)
    across = next((c for c in range(len(names)) if _is_time(table, c)), 0)
    table = [row for row in table if row[across] is not None]
    if not table:
        raise NotDrawable("there are no rows to draw")
    axis, xs = _axis(names[across], [row[across] for row in table])
    numbers, labels = _roles(names, table, across)
    series: dict[str, _Values] = {}
    for x, row in zip(xs, table, strict=True):
        label = " ".join(str(row[column]) for column in labels)
        for column in numbers:
            alone = len(numbers) == 1
            name = label if alone and label else f"{label} {names[column]}".strip()
            value = row[column]
            series.setdefault(name, {})[x] = None if value is None else float(value)
    if len(series) > SERIES_LIMIT:
        series = _largest(series)
    places = list(dict.fromkeys(xs)) if axis == "category" else sorted(set(xs))
    if axis == "category" and len(places) > _BARS_LIMIT:
        message = f"{len(places)} bars; a chart can show {_BARS_LIMIT}"
        raise NotDrawable(message)
    # groups come in any order, and colours should stay with their names
    named = sorted(series.keys() - {_OTHERS}) if labels else list(series)
    ordered = [(name, series[name]) for name in named]
    if _OTHERS in series and labels:
        ordered.append((_OTHERS, series[_OTHERS]))
    drawn = tuple(
        Series(name, tuple(values.get(x) for x in places), slot=slot)
        for slot, (name, values) in enumerate(ordered, 1)
    )
    what = ", ".join(names[column] for column in numbers)
    title = f"{what} by {names[across]}".replace('"', "")
    return Chart(title, axis, tuple(places), drawn)


def _largest(series: Mapping[str, _Values]) -> dict[str, _Values]:
    """The series of the greatest mean (without its sign), and the mean of all others
    as one more."""
    kept = sorted(series, key=lambda name: -_mean_size(series[name]))[
        : SERIES_LIMIT - 1
    ]
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
    """The kind of the x axis, and its values."""
    if all(isinstance(value, date) for value in column):  # a datetime is a date too
        return "time", [_moment(value) for value in column]
    if all(_is_number(value) for value in column):
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
    """Places of the columns of numbers, and of that which names series."""
    numbers, labels = [], []
    for column in range(len(names)):
        if column == across:
            continue
        values = [row[column] for row in table if row[column] is not None]
        if values and all(map(_is_number, values)):
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_time(table: Sequence[Sequence[Any]], column: int) -> bool:
    """Whether a column holds times; dates are times too."""
    values = [row[column] for row in table if row[column] is not None]
    return bool(values) and all(isinstance(value, date) for value in values)
