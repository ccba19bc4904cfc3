"""Charts as PNG files, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from meshtasks.cli.charts.chart import Chart, Series
from meshtasks.cli.charts.style import BACKGROUND, FAINT_INK, GRID, INK, LIGHT
from meshtasks.cli.charts.ticks import time_ticks

_INCHES = (9.6, 4.8)
_DOTS_PER_INCH = 200
_STYLE: Any = {
    "font.size": 9,
    "figure.constrained_layout.h_pad": 0.12,  # inches
    "figure.constrained_layout.w_pad": 0.12,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT_INK,
    "axes.facecolor": BACKGROUND,
    "figure.facecolor": BACKGROUND,
    "text.color": INK,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "text.parse_math": False,  # a name may hold a dollar sign
}


def write_png(chart: Chart, path: Path) -> None:
    """Write the chart, on a light background.

    Args:
        chart: what to draw.
        path: of the file.

    Raises:
        OSError: the file cannot be written.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
        axes = figure.subplots()
        axes.set_title(chart.title, loc="left", fontsize=11)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        axes.set_ylabel(chart.unit)
        if chart.axis == "category":
            _draw_bars(chart, axes)
        else:
            _draw_lines(chart, axes)
        if chart.axis == "time":
            _mark_times(chart, axes)
        if len(chart.series) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path, format="png")


def _draw_lines(chart: Chart, axes: Any) -> None:
    for series in chart.series:
        colour = LIGHT[series.slot - 1]
        lone = _lone_places(series)
        axes.plot(
            chart.x,
            _with_gaps(series.values),
            color=colour,
            linewidth=1.6,
            label=series.name,
            solid_capstyle="round",
            marker="o" if lone else None,
            markersize=3,
            markevery=lone or None,
        )


def _mark_times(chart: Chart, axes: Any) -> None:
    positions = chart.positions
    ticks = time_ticks(min(positions), max(positions), chart.zone)
    places = [datetime.fromtimestamp(tick.position, chart.zone) for tick in ticks]
    axes.set_xticks(places, [tick.label for tick in ticks])


def _draw_bars(chart: Chart, axes: Any) -> None:
    each = 0.8 / len(chart.series)
    places = range(len(chart.x))
    for number, series in enumerate(chart.series):
        axes.bar(
            [place - 0.4 + (number + 0.5) * each for place in places],
            _with_gaps(series.values),
            width=each * 0.94,
            color=LIGHT[series.slot - 1],
            label=series.name,
        )
    names = [str(name) for name in chart.x]
    crowded = sum(map(len, names)) > 90  # noqa: PLR2004 - characters that fit in a row
    axes.set_xticks(
        places,
        names,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
    )


def _with_gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _lone_places(series: Series) -> list[int]:
    """Values between two gaps: as a line they would not be seen."""
    padded = [None, *series.values, None]
    return [
        place
        for place, (before, value, after) in enumerate(
            zip(padded, padded[1:], padded[2:], strict=False)
        )
        if value is not None and before is None and after is None
    ]
