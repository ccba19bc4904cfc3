"""What charts show, before anything is drawn; and the drawing as SVG."""

from __future__ import annotations

import math
import re
import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.observation.chart import (
    ROWS_LIMIT,
    Chart,
    NotDrawable,
    Series,
    chart_of,
    number_text,
)
from meshtasks.observation.drawing import round_numbers, svg, time_ticks, write_chart

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def hours(count: int) -> tuple[datetime, ...]:
    """So many moments, an hour apart."""
    return tuple(NOON + timedelta(hours=n) for n in range(count))


def drawn(chart: Chart) -> ET.Element:
    """The SVG, parsed; so it is well-formed."""
    return ET.fromstring(svg(chart, 900, 400))


def texts(element: ET.Element) -> list[str]:
    """All texts in a drawing."""
    return [each.text or "" for each in element.iter("text")]


def paths(element: ET.Element, name: str) -> list[str]:
    """The paths of what is of that class."""
    groups = (g for g in element.iter("g") if g.get("class", "").startswith(name))
    return [path.get("d", "") for group in groups for path in group.iter("path")]


# From rows


def test_the_column_of_times_is_the_x_axis_wherever_it_stands() -> None:
    rows = [("attic", NOON, 1.5), ("attic", NOON + timedelta(hours=1), 2)]

    chart = chart_of(["location", "t", "avg"], rows)

    assert (chart.axis, chart.x) == ("time", hours(2))
    assert [(each.name, each.values) for each in chart.series] == [
        ("attic", (1.5, 2.0))
    ]
    assert chart.title == "avg by t"


def test_dates_are_times() -> None:
    chart = chart_of(["day", "n"], [(date(2026, 11, 23), 1)])
    assert chart.x == (datetime(2026, 11, 23, tzinfo=UTC),)


def test_without_times_the_first_column_is_the_x_axis() -> None:
    chart = chart_of(["a", "b"], [(3, 1), (1, 2)])
    assert (chart.axis, chart.x) == ("number", (1.0, 3.0))
    assert chart.series[0].values == (2.0, 1.0)


def test_texts_are_bars_in_the_order_of_the_rows() -> None:
    chart = chart_of(["room", "n"], [("kitchen", 1), ("attic", 2)])
    assert (chart.axis, chart.x) == ("category", ("kitchen", "attic"))


def test_every_column_of_numbers_is_a_series() -> None:
    chart = chart_of(["t", "low", "high"], [(NOON, 1, 2)])
    assert [each.name for each in chart.series] == ["low", "high"]
    assert [each.slot for each in chart.series] == [1, 2]


def test_a_column_of_texts_tells_series_apart() -> None:
    later = NOON + timedelta(hours=1)
    rows = [(NOON, "a", 1, 5), (NOON, "b", 2, 6), (later, "b", 3, 7)]

    chart = chart_of(["t", "room", "low", "high"], rows)

    assert {each.name: each.values for each in chart.series} == {
        "a low": (1.0, None),
        "a high": (5.0, None),
        "b low": (2.0, 3.0),
        "b high": (6.0, 7.0),
    }


def test_beyond_the_limit_the_largest_series_and_the_mean_of_the_others_are_drawn() -> (
    None
):
    rows = [(NOON, f"r{n:02}", n if n % 2 else -n) for n in range(12)]
    series = chart_of(["t", "room", "v"], rows).series
    assert [each.name for each in series] == [
        *(f"r{n:02}" for n in range(5, 12)),
        "mean of the others",
    ]
    assert series[-1].values == ((0 + 1 - 2 + 3 - 4) / 5,)


def test_series_keep_their_colours_however_the_rows_are_ordered() -> None:
    one = chart_of(["room", "t", "v"], [("b", NOON, 1), ("a", NOON, 2)])
    other = chart_of(["room", "t", "v"], [("a", NOON, 2), ("b", NOON, 1)])
    assert one == other


def test_what_is_not_finite_is_left_out() -> None:
    rows = [(1, 1.0), (2, math.inf), (math.nan, 3.0), (3, 2.0)]
    chart = chart_of(["x", "v"], rows)
    assert (chart.x, chart.series[0].values) == ((1.0, 2.0, 3.0), (1.0, None, 2.0))


@pytest.mark.parametrize(
    ("names", "rows", "why"),
    [
        (["t", "v"], [], "no rows"),
        (["t", "v"], [(None, 1)], "no rows"),
        (["t", "v"], [(NOON, None)], "no column of numbers beside t"),
        (["room", "v"], [("a", "b")], "no column of numbers beside room"),
        (["t", "a", "b", "v"], [(NOON, "x", "y", 1)], "the columns a, b hold no"),
        (["tags", "v"], [({}, 1)], "the column tags holds neither"),
        (["room", "v"], [(f"r{n}", n) for n in range(61)], "61 bars"),
        (["x", "v"], [(n, n) for n in range(ROWS_LIMIT + 1)], "more than 50,000 rows"),
    ],
)
def test_rows_that_make_no_chart_are_refused_with_the_reason(
    names: list[str], rows: list[Any], why: str
) -> None:
    with pytest.raises(NotDrawable, match=why):
        chart_of(names, rows)


# Ticks


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_y_axis_covers_what_there_is_with_few_round_numbers(
    one: float, other: float
) -> None:
    low, high = sorted((one, other))
    numbers = round_numbers(low, high)
    slack = 1e-6 * max(abs(low), abs(high))
    assert numbers[0] <= low + slack
    assert numbers[-1] >= high - slack
    assert 2 <= len(numbers) <= 8


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (18.3, 23.9, ["18", "20", "22", "24"]),
        (0, 0.003, ["0.000", "0.001", "0.002", "0.003"]),
        (0, 9, ["0", "2", "4", "6", "8", "10"]),
        (-3, 4, ["\N{MINUS SIGN}4", "\N{MINUS SIGN}2", "0", "2", "4"]),
        (0, 12.4, ["0.0", "2.5", "5.0", "7.5", "10.0", "12.5"]),
    ],
)
def test_marks_of_numbers_have_the_digits_they_need(
    low: float, high: float, labels: list[str]
) -> None:
    chart = Chart("t", "time", hours(2), (Series("", (low, high)),))
    found = texts(drawn(chart))
    assert [label for label in found if label in labels] == labels


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(minutes=3), ["12:57", "12:58", "12:59", "13:00"]),
        (timedelta(days=1), ["16:00", "20:00", "00:00", "04:00", "08:00", "12:00"]),
        (timedelta(days=3), ["21 Nov", "22 Nov", "23 Nov"]),
        (timedelta(days=30), ["1 Nov", "8 Nov", "15 Nov", "22 Nov"]),
        (timedelta(days=400), ["Jan 2026", "Apr 2026", "Jul 2026", "Oct 2026"]),
    ],
)
def test_time_ticks_are_full_hours_and_days_of_the_zone(
    span: timedelta, labels: list[str]
) -> None:
    end = NOON.timestamp()
    ticks = time_ticks(end - span.total_seconds(), end, BERLIN)
    assert [tick.label for tick in ticks] == labels


def test_on_the_day_the_clock_is_put_back_every_mark_is_there_once() -> None:
    day = datetime(2026, 10, 25, tzinfo=BERLIN)
    ticks = time_ticks(day.timestamp(), day.timestamp() + 25 * 3600, BERLIN)
    labels = [tick.label for tick in ticks]
    assert labels == [*(f"{hour:02}:00" for hour in range(0, 24, 4)), "00:00"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (21.44, "21.4 °C"),
        (0.0123, "0.012 °C"),
        (-4, "\N{MINUS SIGN}4 °C"),
        (12345.6, "12,346 °C"),
    ],
)
def test_values_are_written_for_people(value: float, text: str) -> None:
    assert number_text(value, "°C") == text


# SVG


def test_a_chart_has_words_for_what_it_shows() -> None:
    series = Series("", (20.0, None, 22.5))
    chart = Chart("Temperature, attic", "time", hours(3), (series,), "°C")
    assert drawn(chart).get("aria-label") == (
        "Temperature, attic. from 20 °C to 22.5 °C, at last 22.5 °C"
    )


def test_a_gap_breaks_the_line_and_a_lone_value_is_a_dot() -> None:
    values = (1.0, 2.0, None, 3.0, None, 4.0, 5.0)
    drawing = drawn(Chart("t", "time", hours(7), (Series("", values),)))
    line = next(path for path in paths(drawing, "line") if "L" in path)
    assert line.count("M") == 3
    assert len(list(drawing.iter("use"))) == 1


def test_what_is_under_the_pointer_can_be_read() -> None:
    moment = NOON.astimezone(BERLIN)
    x = (moment, moment + timedelta(hours=1))
    series = Series("", (20.0, 21.5), (19.0, 21.0), (21.0, 22.0))
    chart = Chart("t", "time", x, (series,), "°C")
    assert "Mon 23 Nov 13:00: 20 °C (19 to 21)" in texts(drawn(chart))


def test_several_series_have_a_legend() -> None:
    series = tuple(Series(f"room {n}", (1.0, 2.0), slot=n) for n in (1, 2))
    drawing = drawn(Chart("t", "time", hours(2), series))
    assert {"room 1", "room 2"} <= set(texts(drawing))
    assert "room 1: 1" in texts(drawing)


@pytest.mark.parametrize(
    "name",
    [
        '<script>alert("x")</script> & co',
        r"$\frac{1}{2}$ and $ alone",
        "_hidden",
        "\N{FIRE} \N{CJK UNIFIED IDEOGRAPH-6C34}",
    ],
)
def test_names_are_text_and_never_markup(name: str) -> None:
    series = (Series(name, (1.0,)), Series("b", (2.0,), slot=2))
    chart = Chart(name, "category", (name,), series)

    drawing = drawn(chart)

    assert "<script" not in svg(chart, 600, 200)
    assert name in texts(drawing)


def test_bars_begin_at_zero() -> None:
    chart = Chart("t", "category", ("a", "b"), (Series("", (5.0, 10.0)),))
    numbers = [re.findall(r"[\d.]+", bar)[1::2] for bar in paths(drawn(chart), "bar")]
    one, two = (max(ys) - min(ys) for ys in (list(map(float, n)) for n in numbers))
    assert two == pytest.approx(2 * one, abs=0.2)


def test_a_small_wobble_does_not_fill_the_chart() -> None:
    series = Series("", (20.0, 20.1))
    chart = Chart("t", "time", hours(2), (series,), "°C", span=4.0)
    assert chart.bounds == (18.05, 22.05)


@pytest.mark.parametrize(
    "chart",
    [
        Chart("long", "category", ("n" * 300, "m" * 300), (Series("", (1.0, 2.0)),)),
        Chart("huge", "number", (-1e300, 1e300), (Series("", (-1e300, 1e300)),)),
        Chart("tiny", "number", (0.0, 1e-320), (Series("", (0.0, 5e-324)),)),
        Chart("first", "time", (FIRST,), (Series("", (1.0,)),)),
        Chart("last", "time", (LAST,), (Series("", (1.0,)),)),
        Chart("one place", "time", (NOON,), (Series("", (5.0,)),)),
        Chart("no value", "time", hours(2), (Series("", (None, None)),)),
        Chart("constant", "number", (1.0, 2.0), (Series("", (0.0, 0.0)),)),
        Chart(
            "many",
            "number",
            tuple(map(float, range(5000))),
            (Series("", (1.0,) * 5000),),
        ),
    ],
    ids=lambda chart: chart.title,
)
def test_odd_charts_are_drawn_too(chart: Chart) -> None:
    drawing = svg(chart, 600, 200)
    ET.fromstring(drawing)
    assert not re.search("nan|inf", drawing.partition(">")[2])


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    name = "a\x00b\x1b\ufffe"
    series = (Series(name, (1.0,)), Series("b", (2.0,), slot=2))
    found = texts(drawn(Chart(name, "category", (name,), series)))
    assert r"a\u0000b\u001b" + "\ufffd" in found


@pytest.mark.parametrize("name", ["a.svg", "a.png", "a.html"])
def test_the_same_chart_is_the_same_file_whatever_the_settings_of_matplotlib(
    tmp_path: Path, name: str
) -> None:
    chart = Chart("t", "time", hours(3), (Series("", (1.0, 2.0, 4.0)),), "ppm")
    path = tmp_path / name
    write_chart(chart, path, "a query")
    first = path.read_bytes()

    with mpl.rc_context({"font.size": 30, "axes.grid": True, "lines.linewidth": 9}):
        write_chart(chart, path, "a query")

    assert path.read_bytes() == first
    assert b"matplotlib.org" not in first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
