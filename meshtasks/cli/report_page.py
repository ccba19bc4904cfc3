"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import jinja2
from rich.filesize import decimal

from meshtasks.observation.chart import STYLE, Chart, Series, number_text
from meshtasks.observation.dead_letters import WaitingDeadLetters
from meshtasks.observation.drawing import Tick, svg, time_ticks
from meshtasks.observation.facts import Curve, Period, ReportFacts

_WIDTH = 560
_CURVE_HEIGHT = 160
_GROWTH_HEIGHT = 200

#: Colour, as a slot, and least height of the chart of each kind.
_KINDS = {"temperature": (8, 4.0), "humidity": (1, 10.0)}
_OTHER_KIND = (5, 0.0)

#: Rows of a table that a page shows.
_ALERTS = 40
_REASONS = 30

#: A sensor without readings for so long is silent.
_SILENT = timedelta(hours=3)


def page(facts: ReportFacts, dead_letters: WaitingDeadLetters | str) -> str:
    """The whole page; of dead letters, why nothing is known if that is so."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=decimal, number=number_text, moment=_moment, day=_day, spoken=_spoken
    )
    growth = growth_chart(facts.archive.bytes_by_day)
    return environment.get_template("report.html.j2").render(
        facts=facts,
        style=STYLE,
        curve_svg=lambda room, curve: curve_svg(room, curve, facts.period),
        growth_title=growth.title,
        growth_svg=svg(growth, 2 * _WIDTH, _GROWTH_HEIGHT),
        is_silent=lambda curve: facts.period.end - curve.times[-1] > _SILENT,
        axis=_axis(facts.period),
        alerts=facts.alerts[:_ALERTS],
        dead=dead_letters,
        most_reasons=_REASONS,
        latest=_latest,
    )


def curve_svg(room: str, curve: Curve, period: Period) -> str:
    """The chart of one kind of reading in one room."""
    slot, span = _KINDS.get(curve.kind, _OTHER_KIND)
    title = f"{_spoken(curve.kind).capitalize()}, {_spoken(room)}"
    series = Series("", curve.means, curve.lows, curve.highs, slot)
    chart = Chart(
        title,
        "time",
        curve.times,
        (series,),
        curve.unit,
        span,
        (period.start.timestamp(), period.end.timestamp()),
    )
    return svg(chart, _WIDTH, _CURVE_HEIGHT)


def growth_chart(bytes_by_day: dict[date, int]) -> Chart:
    """What each day has added to the archive."""
    largest = max(bytes_by_day.values(), default=0)
    unit, factor = ("MB", 1e6) if largest >= 1e6 else ("kB", 1e3)  # noqa: PLR2004
    series = Series("", tuple(size / factor for size in bytes_by_day.values()))
    days = tuple(f"{day:%-d %b}" for day in bytes_by_day)
    return Chart(f"Archived each day, in {unit}", "category", days, (series,), unit)


def _axis(period: Period) -> Sequence[Tick]:
    """Marks of the alerts' timeline, in percent of its width."""
    start, end = period.start.timestamp(), period.end.timestamp()
    ticks = time_ticks(start, end, period.end.tzinfo)
    return [
        Tick(round((tick.position - start) / (end - start) * 100, 2), tick.label)
        for tick in ticks
    ]


def _latest(curve: Curve) -> float:
    """The last mean; a curve has one."""
    return next(mean for mean in reversed(curve.means) if mean is not None)


def _moment(moment: datetime, period: Period) -> str:
    return f"{moment.astimezone(period.end.tzinfo):%a %-d %b %H:%M}"


def _day(day: date) -> str:
    return f"{day:%a %-d %b}"


def _spoken(name: str) -> str:
    """A name as people write it: ``living room`` for ``living_room``."""
    return name.replace("_", " ")
