"""``meshtasks report``: an HTML page about the house and the mesh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jinja2
import typer
from rich.filesize import decimal

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import fail, say, stopping_on_signals, tell_place
from meshtasks.config.extras import require
from meshtasks.config.private_files import write_private
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.archive.objects import open_store
from meshtasks.observation.chart import STYLE, Chart, Series, number_text
from meshtasks.observation.dead_letters import (
    WaitingDeadLetters,
    waiting_dead_letters,
)
from meshtasks.observation.facts import VIEWS, Curve, Period, ReportFacts, facts_of

if TYPE_CHECKING:
    from meshtasks.observation.drawing import Tick

_WIDTH = 560
_CURVE_HEIGHT = 160
_GROWTH_HEIGHT = 200

#: By kind: number of the colour, and smallest range of values of the chart.
_KINDS = {"temperature": (8, 4.0), "humidity": (1, 10.0)}
_OTHER_KIND = (5, 0.0)

#: Most rows in a table of the page.
_ALERTS = 40
_REASONS = 30

#: A sensor without readings for longer is silent.
_SILENT = timedelta(hours=3)


def report(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="File of the page.")
    ] = Path("report.html"),
    days: Annotated[
        int, typer.Option(min=1, max=3_650, metavar="N", help="Number of days to show.")
    ] = 7,
) -> None:
    """Write an HTML page about the house and the mesh.

    The page shows temperature and humidity of every room, the timeline of alerts, dead
    letters by reason, and the growth of the archive. It needs no network and no script,
    so it can be sent by mail. Only the owner can read the file. Dead letters stay in
    their queue; if the broker is unavailable, the page says so.

    Times are in the time zone of this machine, or TZ.

    Exit codes: 0; 69 the archive cannot be reached; 73 the page cannot be written; 78
    bad configuration, or the extra "analytics" is not installed.
    """
    require("analytics", "`meshtasks report`")
    # Imported here, because only few commands need DuckDB.
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415
        opened,
        passing_over_damaged,
    )

    settings = load_settings()
    tell_place(settings.env, "archive_url", "broker_url")
    now = datetime.now(UTC)
    since = (now - timedelta(days=days)).date()
    queue = settings.read(TOPOLOGY).dead_letter_queue
    dead_letters = dead_letters_in(settings.env.amqp_url, queue)
    with closing(open_store(settings.env)) as store:

        def gather(left_out: frozenset[str]) -> ReportFacts:
            with opened(settings.env, store, VIEWS, since, left_out) as database:
                return facts_of(database, store, days, now)

        facts = passing_over_damaged(gather, partial(say, err=True))
    try:
        write_private(out, page(facts, dead_letters))
    except OSError as error:
        fail(f"{out}: {error.strerror}", os.EX_CANTCREAT)
    say(f"wrote {out}")


def dead_letters_in(url: str, queue: str) -> WaitingDeadLetters | str:
    """The dead letters in the queue, which stay there.

    If the broker is unavailable, the reason as text: the rest of the report does not
    need the broker.

    Raises:
        KeyboardInterrupt: a signal interrupted it.
    """
    try:
        with stopping_on_signals() as stopping:
            waiting = waiting_dead_letters(url, queue, stopping=stopping)
        if stopping.is_set():
            raise KeyboardInterrupt
    except (Transient, ConfigError) as error:
        return str(error)
    return waiting


def page(facts: ReportFacts, dead_letters: WaitingDeadLetters | str) -> str:
    """The HTML page.

    Args:
        dead_letters: the dead letters, or the reason why they are unknown.
    """
    from meshtasks.observation.drawing import svg  # noqa: PLC0415 - matplotlib

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
        curve_svg=lambda room, curve: svg(
            curve_chart(room, curve, facts.period), _WIDTH, _CURVE_HEIGHT
        ),
        growth_title=growth.title,
        growth_svg=svg(growth, 2 * _WIDTH, _GROWTH_HEIGHT),
        is_silent=lambda curve: facts.period.end - curve.times[-1] > _SILENT,
        axis=_axis(facts.period),
        alerts=facts.alerts[:_ALERTS],
        dead=dead_letters,
        most_reasons=_REASONS,
        latest=_latest,
    )


def curve_chart(room: str, curve: Curve, period: Period) -> Chart:
    """The chart of one kind of reading in one room."""
    slot, span = _KINDS.get(curve.kind, _OTHER_KIND)
    title = f"{_spoken(curve.kind).capitalize()}, {_spoken(room)}"
    series = Series("", curve.means, curve.lows, curve.highs, slot)
    return Chart(
        title,
        "time",
        curve.times,
        (series,),
        curve.unit,
        span,
        (period.start.timestamp(), period.end.timestamp()),
    )


def growth_chart(bytes_by_day: dict[date, int]) -> Chart:
    """The chart of the bytes archived each day."""
    largest = max(bytes_by_day.values(), default=0)
    unit, factor = ("MB", 1e6) if largest >= 1e6 else ("kB", 1e3)  # noqa: PLR2004
    series = Series("", tuple(size / factor for size in bytes_by_day.values()))
    days = tuple(f"{day:%-d %b}" for day in bytes_by_day)
    return Chart(f"Archived each day, in {unit}", "category", days, (series,), unit)


def _axis(period: Period) -> Sequence[Tick]:
    """Ticks of the timeline of alerts; positions are percent of its width."""
    from meshtasks.observation.drawing import Tick, time_ticks  # noqa: PLC0415

    start, end = period.start.timestamp(), period.end.timestamp()
    ticks = time_ticks(start, end, period.end.tzinfo)
    return [
        Tick(round((tick.position - start) / (end - start) * 100, 2), tick.label)
        for tick in ticks
    ]


def _latest(curve: Curve) -> float:
    """The latest mean of a curve; every curve has at least one."""
    return next(mean for mean in reversed(curve.means) if mean is not None)


def _moment(moment: datetime, period: Period) -> str:
    return f"{moment.astimezone(period.end.tzinfo):%a %-d %b %H:%M}"


def _day(day: date) -> str:
    return f"{day:%a %-d %b}"


def _spoken(name: str) -> str:
    """A name for people: ``living room`` for ``living_room``."""
    return name.replace("_", " ")
