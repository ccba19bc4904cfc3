"""Draw charts with matplotlib: as SVG for a page or a file, or as PNG.

The SVG follows the reader's light or dark setting and shows the values under the
pointer, without scripts. The drawing depends on the chart alone: not on a display, the
time, or the user's settings of matplotlib.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, tzinfo
from html import escape
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib import dates
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from meshtasks.config.private_files import private_opener, write_private
from meshtasks.observation.chart import STYLE, Chart, Series
from meshtasks.text import clip, printable

#: The light colours of the style by name, and the SVG text that replaces each.
_LIGHT = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", STYLE.partition("@media")[0]))
_VARIABLES = {colour: f"var(--{name})" for name, colour in _LIGHT.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_FAINT, _EDGE = _LIGHT["faint"], _LIGHT["edge"]

_PAGE_STYLE = """
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--card);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; }
pre { padding: .8rem; white-space: pre-wrap; background: var(--wash); }
"""

#: Size of a chart in a file, pixels; a PNG has twice as many.
_WIDTH, _HEIGHT = 960, 480
_POINTS_PER_INCH = 72  # one point is one pixel
_CHAR_WIDTH = 7.5  # pixels; average of 12 px sans serif
_LINE_HEIGHT = 18
_LABEL_CHARS = 40
_TALL = 260
#: If points are closer than this, the pointer cannot select one.
_AIM_PIXELS = 2.0
#: A chart of a shorter time shows seconds.
_SHORT_SECONDS = 600.0
_MINUTES = "%a %-d %b %H:%M"

_SETTINGS: Any = {
    "agg.path.chunksize": 10_000,  # longer lines in one piece may exceed Agg's limits
    "axes.edgecolor": _EDGE,
    "axes.facecolor": _LIGHT["background"],
    "axes.labelcolor": _FAINT,
    "axes.formatter.limits": (-6, 12),
    "axes.formatter.useoffset": False,
    "figure.facecolor": _LIGHT["background"],
    "font.size": 12,
    "svg.fonttype": "none",
    "svg.hashsalt": "meshtasks",
    "text.color": _LIGHT["ink"],
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}
_TIME_FORMATS = {
    365.0: "%Y",
    30.0: "%b %Y",
    1.0: "%-d %b",
    1 / 24: "%H:%M",
    1 / 1440: "%H:%M",
    1 / 86_400: "%H:%M:%S",
}
_dates: Any = dates  # without type hints
#: Characters that XML does not permit.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Tick(NamedTuple):
    """A mark on an axis of times: epoch seconds and text."""

    position: float
    label: str


def write_chart(chart: Chart, path: Path, note: str) -> None:
    """Write a chart to a file that only its owner can read.

    Args:
        chart: the chart.
        path: ends in ``.png``, ``.svg`` or ``.html``.
        note: the origin of the chart; shown in an HTML page.

    Raises:
        OSError: the file cannot be written.
    """
    match path.suffix.lower():
        case ".png":
            with open(path, "wb", opener=private_opener) as file:
                file.write(_png(chart))
        case ".svg":
            write_private(path, _picture(chart))
        case _:
            write_private(path, _page(chart, note))


def svg(chart: Chart, width: int, height: int) -> str:
    """The chart as an ``<svg>`` element; the page needs :data:`STYLE`.

    Args:
        chart: the chart.
        width: pixels; the page may scale the element.
        height: pixels.
    """
    return ET.tostring(_drawn(chart, width, height), encoding="unicode")


def time_ticks(
    start: float, end: float, zone: tzinfo | None, most: int = 7
) -> list[Tick]:
    """The marks of an axis of times: full hours, days and so on.

    Args:
        start: first moment, epoch seconds.
        end: last moment, epoch seconds.
        zone: time zone of the hours and days.
        most: approximate maximum number of marks; at least 7.
    """
    locator = _dates.AutoDateLocator(tz=zone, minticks=3, maxticks=most)
    formatter = _dates.AutoDateFormatter(locator, tz=zone)
    formatter.scaled = _TIME_FORMATS
    try:
        low, high = (datetime.fromtimestamp(moment, zone) for moment in (start, end))
        ticks = [
            Tick(_dates.num2date(days, zone).timestamp(), formatter(days))
            for days in locator.tick_values(low, high)
        ]
    except (ValueError, OverflowError):  # near the first or last date of the calendar
        return []
    return [tick for tick in ticks if start <= tick.position <= end]


def round_numbers(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that cover ``low`` to ``high``: the first is at most ``low``, the
    last is at least ``high``.
    """
    size = max(abs(low), abs(high))
    if high - low <= size * 1e-9 or size < 1e-200:  # noqa: PLR2004 - all the same
        pad = size * 0.1 if size >= 1e-200 else 1.0  # noqa: PLR2004 - zero
        low, high = low - pad, high + pad
    locator = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10])
    return [float(value) for value in locator.tick_values(low, high)]


def _picture(chart: Chart) -> str:
    """The chart as an SVG file, which contains its style, size and namespace."""
    drawing = _drawn(chart, _WIDTH, _HEIGHT, titled=True)
    drawing.set("xmlns", "http://www.w3.org/2000/svg")
    drawing.set("width", f"{_WIDTH}")
    drawing.set("height", f"{_HEIGHT}")
    drawing.set("style", "background: var(--card)")
    style = ET.Element("style")
    style.text = STYLE
    drawing.insert(0, style)
    return ET.tostring(drawing, encoding="unicode")


def _png(chart: Chart) -> bytes:
    with _matplotlib():
        figure = _figure(_with_fit_texts(chart), _WIDTH, _HEIGHT, titled=True)
        out = io.BytesIO()
        dpi, metadata = 2 * _POINTS_PER_INCH, {"Software": None}
        figure.savefig(out, format="png", dpi=dpi, metadata=metadata)
    return out.getvalue()


def _page(chart: Chart, note: str) -> str:
    title = escape(chart.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{_PAGE_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{svg(chart, _WIDTH, _HEIGHT)}
<pre>{escape(note)}</pre>
</body>
</html>
"""


@contextmanager
def _matplotlib() -> Iterator[None]:
    """Matplotlib with the settings of this module instead of the user's."""
    with mpl.rc_context(), warnings.catch_warnings():
        # This font only serves to measure texts; the reader's has more characters.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _drawn(
    chart: Chart, width: int, height: int, *, titled: bool = False
) -> ET.Element:
    """The chart as an SVG element for a page."""
    chart = _with_fit_texts(chart)
    with _matplotlib():
        figure = _figure(chart, width, height, titled=titled)
        (axes,) = figure.axes
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        root = ET.fromstring(out.getvalue())  # noqa: S314 - made here
        for parent in list(root.iter()):
            for child in list(parent):
                if child.tag.endswith(("}metadata", "}style")):
                    parent.remove(child)
        for element in root.iter():
            _make_fit(element)
        root.attrib.clear()
        root.set("class", "chart")
        root.set("viewBox", f"0 0 {width} {height}")
        root.set("role", "img")
        root.set("aria-label", chart.in_words())
        root.extend(_readings(chart, axes, width, height))
    return root


def _make_fit(element: ET.Element) -> None:
    """Remove namespaces, ids and fonts; replace colours by variables of the page."""
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    if element.tag != "text":
        element.text = None
    for name, value in list(element.attrib.items()):
        match name:
            case "id" if element.tag == "g":
                del element.attrib[name]
                if " " in value:  # set in this module: matplotlib's have no blank
                    element.set("class", value)
            case "d":
                element.set(name, " ".join(value.split()))
            case "style":
                rules = (r for r in value.split("; ") if not r.startswith("font"))
                style = "; ".join(rules)
                element.set(name, _COLOUR.sub(lambda c: _VARIABLES[c[0]], style))
            case _:
                del element.attrib[name]
                element.set(name.rpartition("}")[2], value)


def _figure(chart: Chart, width: int, height: int, *, titled: bool) -> Figure:
    """The chart as matplotlib's figure; one point is one pixel."""
    # The top line is for the title, and for the values under the pointer.
    room = 1 - _LINE_HEIGHT / height
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, rect=(0, 0, 1, room))
    size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    figure = Figure(figsize=size, dpi=_POINTS_PER_INCH, layout=layout)
    if titled:
        figure.text(0.01, 0.99, clip(chart.title, width // 8), ha="left", va="top")
    axes = figure.subplots()
    axes.grid(axis="y", color=_LIGHT["grid"], linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(left=False, bottom=False)
    if titled:
        axes.set_ylabel(chart.unit)
    y_values = round_numbers(*chart.bounds, most=5 if height >= _TALL else 3)
    axes.set_ylim(y_values[0], y_values[-1])
    axes.set_yticks(y_values)
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    if y_values[0] < 0 < y_values[-1]:
        axes.axhline(0, color=_EDGE, linewidth=1, clip_on=False)
    draw = _draw_bars if chart.axis == "category" else _draw_lines
    handles = [draw(chart, axes, index) for index in range(len(chart.series))]
    _mark_x_axis(chart, axes, width, height)
    if len(handles) > 1:
        names = [clip(series.name, _LABEL_CHARS) for series in chart.series]
        needed = 40 + _CHAR_WIDTH * max(map(len, names))
        legend = figure.legend(
            handles,
            [str(slot) for slot in range(len(names))],
            loc="outside lower left",
            ncols=max(1, int(width / needed)),
            frameon=False,
        )
        # Set here, because matplotlib ignores labels that begin with "_".
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_text(name)
    return figure


def _draw_lines(chart: Chart, axes: Any, index: int) -> Any:
    series = chart.series[index]
    xs, colour = chart.positions, _LIGHT[f"s{series.slot}"]
    if series.low and series.high:
        low, high = _with_gaps(series.low), _with_gaps(series.high)
        band = axes.fill_between(xs, low, high, color=colour, alpha=0.18, lw=0)
        band.set(clip_on=False, gid=f"band s{series.slot}")
    lone = _lone_points(series)
    (line,) = axes.plot(
        xs,
        _with_gaps(series.values),
        color=colour,
        linewidth=2,
        solid_capstyle="round",
        marker="o" if lone else None,
        markersize=4,
        markevery=lone or None,
        clip_on=False,
        gid=f"line s{series.slot}",
    )
    return line


def _draw_bars(chart: Chart, axes: Any, index: int) -> Any:
    series = chart.series[index]
    width = 0.8 / len(chart.series)
    return axes.bar(
        [x - 0.4 + (index + 0.5) * width for x in chart.positions],
        [0.0 if value is None else value for value in series.values],
        width=width * 0.94,
        color=_LIGHT[f"s{series.slot}"],
        clip_on=False,
        gid=f"bar s{series.slot}",
    )


def _mark_x_axis(chart: Chart, axes: Any, width: int, height: int) -> None:
    positions = chart.positions
    if chart.axis == "category":
        axes.set_xlim(-0.5, len(positions) - 0.5)
        names = [clip(str(name), _LABEL_CHARS) for name in chart.x]
        rows = sum(len(name) + 1 for name in names) * _CHAR_WIDTH / width
        crowded = rows > 1 and height >= _TALL
        every = 1 if crowded else ceil(rows)  # a low chart shows only some names
        axes.set_xticks(
            positions[::every],
            names[::every],
            rotation=40 if crowded else 0,
            ha="right" if crowded else "center",
        )
        return
    low, high = chart.x_range or (min(positions), max(positions))
    if low == high:
        low, high = low - 0.5, high + 0.5
    axes.set_xlim(low, high)
    if chart.axis == "time":
        ticks = time_ticks(low, high, chart.zone, max(7, width // 80))
        axes.set_xticks([t.position for t in ticks], [t.label for t in ticks])


def _readings(chart: Chart, axes: Any, width: int, height: int) -> Iterator[ET.Element]:
    """The texts that are shown while the pointer is over a point."""
    box = axes.bbox
    if len(chart.x) > box.width / _AIM_PIXELS:
        return
    xs = [x for x, _ in axes.transData.transform([(x, 0) for x in chart.positions])]
    low, high = axes.get_xlim()
    time_format = "%a %-d %b %H:%M:%S" if high - low < _SHORT_SECONDS else _MINUTES
    edges = [box.x0, *((a + b) / 2 for a, b in pairwise(xs)), box.x1]
    for index, (left, right) in enumerate(pairwise(edges)):
        lines = chart.reading(index, time_format)
        if not lines:
            continue
        reading = ET.Element("g", {"class": "reading"})
        area = {
            "x": f"{left:.1f}",
            "y": f"{height - box.y1:.1f}",
            "width": f"{max(right - left, 0):.1f}",
            "height": f"{box.height:.1f}",
        }
        ET.SubElement(reading, "rect", area)
        for row, line in enumerate(lines):
            at = {"x": f"{width - 8}", "y": f"{14 + row * _LINE_HEIGHT}"}
            ET.SubElement(reading, "text", at).text = line
        yield reading


def _with_fit_texts(chart: Chart) -> Chart:
    """The chart without characters that a drawing must not contain. Its texts come from
    messages and queries."""

    def fit(text: str) -> str:
        return _NOT_XML.sub("\ufffd", printable(text))

    return replace(
        chart,
        title=fit(chart.title),
        unit=fit(chart.unit),
        x=tuple(fit(x) if isinstance(x, str) else x for x in chart.x),
        series=tuple(replace(each, name=fit(each.name)) for each in chart.series),
    )


def _with_gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _lone_points(series: Series) -> list[int]:
    """Indexes of values between two gaps: they need markers, as a line is invisible."""
    padded = [None, *series.values, None]
    return [
        index
        for index, (before, value, after) in enumerate(
            zip(padded, padded[1:], padded[2:], strict=False)
        )
        if value is not None and before is None and after is None
    ]
