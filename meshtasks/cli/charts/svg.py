"""Charts as SVG for a web page: with a reading of the values under the pointer, in
the page's light or dark colours, and without any script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise

from meshtasks.cli.charts.chart import Chart, Series
from meshtasks.cli.charts.ticks import (
    Tick,
    category_ticks,
    number_text,
    number_ticks,
    time_ticks,
)

_CHAR_WIDTH = 6.8  # of 12 px sans serif, on average
_LINE_HEIGHT = 18.0
_BOTTOM = 26.0
_RIGHT = 14.0
#: Below so many pixels from one place to the next nobody can aim at one.
_AIM_PIXELS = 2.0
_WIDEST_BAR = 48.0
#: A chart of less than this tells seconds.
_SHORT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Frame:
    """The area of the values, and how to get there from numbers."""

    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, position: float) -> float:
        share = (position - self.x_low) / (self.x_high - self.x_low)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(self.bottom - share * (self.bottom - self.top), 1)


def svg(chart: Chart, width: int, height: int) -> str:
    """The chart as an ``<svg>`` element; :data:`STYLE` belongs to it.

    Args:
        chart: what to draw.
        width: pixels; where the page gives it more or less room, it is scaled.
        height: pixels.
    """
    y_ticks = number_ticks(*chart.bounds, most=5 if height > 260 else 3)  # noqa: PLR2004
    legend, rows = _legend(chart, width)
    frame = _frame(chart, width, height, y_ticks, rows)
    x_ticks = _x_ticks(chart, frame)
    shapes = _bars if chart.axis == "category" else _lines
    start = f'<svg class="chart" viewBox="0 0 {width} {height}" role="img"'
    parts = [
        f'{start} aria-label="{escape(_spoken(chart))}">',
        *legend,
        *_axes(frame, x_ticks, y_ticks),
        *shapes(chart, frame),
        *_readings(chart, frame),
        "</svg>",
    ]
    return "".join(parts)


def _frame(
    chart: Chart, width: int, height: int, y_ticks: Sequence[Tick], rows: int
) -> _Frame:
    positions = chart.positions or [0.0]
    if chart.axis == "category":
        x_low, x_high = -0.5, len(positions) - 0.5
    else:
        x_low, x_high = chart.x_range or (min(positions), max(positions))
        if x_low == x_high:
            x_low, x_high = x_low - 0.5, x_high + 0.5
    left = 12 + _CHAR_WIDTH * max(len(tick.label) for tick in y_ticks)
    top = 8 + _LINE_HEIGHT * max(rows, 1)
    return _Frame(
        round(left, 1),
        width - _RIGHT,
        top,
        height - _BOTTOM,
        x_low,
        x_high,
        y_ticks[0].position,
        y_ticks[-1].position,
    )


def _x_ticks(chart: Chart, frame: _Frame) -> list[Tick]:
    room = frame.right - frame.left
    match chart.axis:
        case "time":
            most = int(room / 70)
            return time_ticks(frame.x_low, frame.x_high, chart.zone, most)
        case "number":
            ticks = number_ticks(frame.x_low, frame.x_high, most=int(room / 90))
            return [t for t in ticks if frame.x_low <= t.position <= frame.x_high]
        case "category":
            names = [str(name) for name in chart.x]
            longest = max(map(len, names), default=1)
            fit = int(room / (longest * _CHAR_WIDTH + 8))
            return category_ticks(names, most=max(fit, 1))


def _axes(
    frame: _Frame, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick]
) -> Iterator[str]:
    for tick in y_ticks:
        y = frame.y(tick.position)
        yield f'<path class="grid" d="M{frame.left} {y}H{frame.right}"/>'
        yield (
            f'<text class="tick" x="{frame.left - 6}" y="{y + 4}" '
            f'text-anchor="end">{tick.label}</text>'
        )
    base = frame.y(0.0) if frame.y_low < 0 < frame.y_high else frame.bottom
    yield f'<path class="axis" d="M{frame.left} {base}H{frame.right}"/>'
    for tick in x_ticks:
        x = frame.x(tick.position)
        anchor = "end" if x > frame.right - 20 else "middle"
        yield (
            f'<text class="tick" x="{x}" y="{frame.bottom + 17}" '
            f'text-anchor="{anchor}">{escape(tick.label)}</text>'
        )


def _lines(chart: Chart, frame: _Frame) -> Iterator[str]:
    xs = [frame.x(position) for position in chart.positions]
    for series in chart.series:
        if series.low and series.high:
            yield from _band(series, xs, frame)
        runs = list(_runs(series.values))
        path = "".join(
            "M" + "L".join(f"{xs[place]} {frame.y(value)}" for place, value in run)
            for run in runs
        )
        yield f'<path class="line s{series.slot}" d="{path}"/>'
        for (place, value), *more in runs:
            if not more:  # a line without a length is not seen
                at = f'cx="{xs[place]}" cy="{frame.y(value)}"'
                yield f'<circle class="bar s{series.slot}" {at} r="2"/>'


def _band(series: Series, xs: Sequence[float], frame: _Frame) -> Iterator[str]:
    for run in _runs(series.low):
        places = [place for place, _ in run]
        upper = [(xs[place], series.high[place]) for place in places]
        lower = [(xs[place], series.low[place]) for place in reversed(places)]
        corners = " ".join(
            f"{x},{frame.y(value)}" for x, value in upper + lower if value is not None
        )
        yield f'<polygon class="band s{series.slot}" points="{corners}"/>'


def _bars(chart: Chart, frame: _Frame) -> Iterator[str]:
    slot_width = (frame.right - frame.left) / len(chart.x)
    group = min(slot_width * 0.8, _WIDEST_BAR * len(chart.series))
    each = group / len(chart.series)
    zero = frame.y(0.0)
    for number, series in enumerate(chart.series):
        for place, value in enumerate(series.values):
            if value is None:
                continue
            left = frame.x(float(place)) - group / 2 + number * each
            top, bottom = sorted((frame.y(value), zero))
            yield (
                f'<rect class="bar s{series.slot}" x="{left + 1:.1f}" y="{top}" '
                f'width="{max(each - 2, 1):.1f}" height="{bottom - top:.1f}" rx="2"/>'
            )


def _readings(chart: Chart, frame: _Frame) -> Iterator[str]:
    """What is seen of each place while the pointer is over it."""
    xs = [frame.x(position) for position in chart.positions]
    if len(xs) > (frame.right - frame.left) / _AIM_PIXELS:
        return
    middles = [(a + b) / 2 for a, b in pairwise(xs)]
    edges = [frame.left, *middles, frame.right]
    for place, (left, right) in enumerate(pairwise(edges)):
        there = [
            (series, value)
            for series in chart.series
            if (value := series.values[place]) is not None
        ]
        if not there:
            continue
        yield (
            f'<g class="reading"><rect x="{left:.1f}" y="{frame.top}" '
            f'width="{max(right - left, 0):.1f}" '
            f'height="{frame.bottom - frame.top:.1f}"/>'
        )
        if chart.axis != "category":
            yield f'<path d="M{xs[place]} {frame.top}V{frame.bottom}"/>'
            for series, value in there:
                at = f'cx="{xs[place]}" cy="{frame.y(value)}"'
                yield f'<circle class="s{series.slot}" {at} r="4"/>'
        for row, text in enumerate(_said(chart, place, there)):
            y = frame.top - 8 + row * _LINE_HEIGHT
            yield f'<text x="{frame.right}" y="{y}">{escape(text)}</text>'
        yield "</g>"


def _said(
    chart: Chart,
    place: int,
    there: Sequence[tuple[Series, float]],
) -> Iterator[str]:
    """The lines of a reading."""
    where = _place_text(chart, place)
    if len(chart.series) > 1:
        yield where
        for series, value in there:
            yield f"{series.name}: {number_text(value, chart.unit)}"
        return
    for series, value in there:
        text = f"{where}: {number_text(value, chart.unit)}"
        low = series.low[place] if series.low else None
        high = series.high[place] if series.high else None
        if low is not None and high is not None and low < high:
            text += f" ({number_text(low)} to {number_text(high)})"
        yield text


def _place_text(chart: Chart, place: int) -> str:
    match chart.x[place]:
        case datetime() as moment:
            low, high = chart.x_range or (chart.positions[0], chart.positions[-1])
            seconds = ":%S" if high - low < _SHORT_SECONDS else ""
            return moment.strftime(f"%a %-d %b %H:%M{seconds}")
        case str() as name:
            return name
        case number:
            return f"{number:g}"


def _legend(chart: Chart, width: int) -> tuple[list[str], int]:
    """The legend's elements and its rows; one series needs none."""
    if len(chart.series) == 1:
        return [], 0
    parts: list[str] = []
    x, row = 12.0, 0
    for series in chart.series:
        needed = 36 + _CHAR_WIDTH * len(series.name)
        if x > 12 and x + needed > width - _RIGHT:  # noqa: PLR2004 - the first of a row
            x, row = 12.0, row + 1
        y = 14 + row * _LINE_HEIGHT
        parts.append(
            f'<rect class="key s{series.slot}" x="{x}" y="{y - 9}" width="12" '
            f'height="10" rx="2"/><text class="name" x="{x + 18}" y="{y}">'
            f"{escape(series.name)}</text>"
        )
        x += needed
    return parts, row + 2  # one row more for what is under the pointer


def _spoken(chart: Chart) -> str:
    """The chart in words, for those who cannot see it."""
    told = [chart.title]
    for series in chart.series:
        values = [value for value in series.values if value is not None]
        if values:
            lowest, highest, last = (
                number_text(value, chart.unit)
                for value in (min(values), max(values), values[-1])
            )
            name = f"{series.name}: " if len(chart.series) > 1 else ""
            told.append(f"{name}from {lowest} to {highest}, at last {last}")
    return ". ".join(told)


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """Places and values from one gap to the next."""
    run: list[tuple[int, float]] = []
    for place, value in enumerate(values):
        if value is not None:
            run.append((place, value))
        elif run:
            yield run
            run = []
    if run:
        yield run
