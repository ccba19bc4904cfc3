"""The page of the archive: a calendar, verification, replay, and SQL queries."""

from __future__ import annotations

import asyncio
from calendar import Calendar as Weeks
from calendar import day_abbr, month_name
from collections.abc import Mapping
from contextlib import closing
from datetime import date
from typing import Any

from nicegui import app, ui

from meshtasks.errors import MeshError
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.archive.reading import Period
from meshtasks.gateway.console.archive_jobs import ArchiveJobs, Jobs, Records
from meshtasks.gateway.console.frame import (
    Console,
    bad,
    framed,
    html,
    scrolling,
    status,
    table,
    text,
)
from meshtasks.gateway.console.sql import SqlPanel
from meshtasks.observation.archived import ArchivedDay, Calendar, calendar_of

_EVER = Period()
#: Months that are shown at first, and that each click adds.
_MONTHS = 6
_HOURS = 24
_ALL = "all domains"
_WEEKS = Weeks()

_STYLE = """
.mesh-months { display: grid; gap: 1rem; width: 100%;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)) }
.mesh-month { border-collapse: separate; border-spacing: 2px; width: 100%;
  table-layout: fixed }
.mesh-month caption { text-align: left; font-weight: 600 }
.mesh-month th { font-weight: 400; color: var(--dim); font-size: .8rem }
.mesh-month td { padding: 0; height: 3rem; vertical-align: top }
.mesh-day { display: block; width: 100%; height: 100%; padding: .1rem .2rem;
  border: 1px solid var(--line); border-radius: .3rem; background: var(--card);
  color: var(--ink); text-align: left; font: inherit; font-size: .8rem;
  line-height: 1.1rem; cursor: pointer; overflow: hidden }
.mesh-day[aria-pressed=true] { outline: 2px solid var(--accent) }
.mesh-day.gap { border-style: dashed; border-color: var(--bad); color: var(--bad);
  background: none; cursor: default }
.mesh-day svg { display: block; width: 100%; height: .3rem; color: var(--accent);
  background: var(--line) }
"""


def add_archive(console: Console) -> None:
    """Add the page."""
    jobs = Jobs()
    records: Records = {}
    app.on_shutdown(jobs.stop)

    @ui.page("/archive")
    def archive() -> None:
        with framed(console, "/archive"):
            ui.add_css(_STYLE)
            _ArchivePage(console, jobs, records)
            SqlPanel(console)


class _ArchivePage:
    """The page of one viewer."""

    def __init__(self, console: Console, jobs: Jobs, records: Records) -> None:
        self._env = console.settings.env
        self._records = records
        self._calendar = Calendar({}, 0)
        self._months = _MONTHS
        self._chosen: date | None = None
        with ui.row().classes("items-center w-full"):
            self._state = status("Looking …")
            ui.space()
            self._domain = ui.select(
                [_ALL], value=_ALL, label="Domain", on_change=self._show
            ).classes("w-40")
            ui.button("Look again", icon="refresh", on_click=self._look).props("flat")
        self._grid = html().classes("w-full")
        self._grid.on(
            "click",
            self._choose,
            js_handler="(e) => { const day = e.target.closest('[data-day]');"
            " if (day) emit(day.dataset.day) }",
        )
        self._earlier = ui.button("Earlier months", on_click=self._show_earlier)
        self._earlier.props("flat")
        self._detail = scrolling("The day")
        self._work = ArchiveJobs(console, jobs, records, self._show)
        ui.timer(0.05, self._look, once=True)

    async def _look(self) -> None:
        def look() -> Calendar:
            with closing(open_store(self._env)) as store:
                return calendar_of(store, _EVER, ())

        try:
            self._calendar = await asyncio.to_thread(look)
        except MeshError as error:
            self._state.set_content(bad(error))
            return
        names = sorted({name for day in self._calendar.days.values() for name in day})
        self._domain.set_options([_ALL, *names])
        self._work.know(names)
        self._show()

    def _show_earlier(self) -> None:
        self._months += _MONTHS
        self._show()

    def _show(self) -> None:
        calendar = self._of_domain()
        self._state.set_content(text(_in_words(calendar)))
        days = [*calendar.days, *calendar.gaps()]
        months = sorted({(day.year, day.month) for day in days})
        shown = months[-self._months :]
        self._grid.set_content(
            "<div class='mesh-months'>"
            + "".join(self._month(calendar, *month) for month in reversed(shown))
            + "</div>"
        )
        self._earlier.set_visibility(len(months) > len(shown))

    def _of_domain(self) -> Calendar:
        name = self._domain.value
        if name == _ALL:
            return self._calendar
        days = {
            day: {name: found[name]}
            for day, found in self._calendar.days.items()
            if name in found
        }
        return Calendar(days, 0)

    def _month(self, calendar: Calendar, year: int, month: int) -> str:
        head = "".join(f"<th scope='col'>{day_abbr[each]}</th>" for each in range(7))
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td>{self._day(calendar, day) if day.month == month else ''}</td>"
                for day in week
            )
            + "</tr>"
            for week in _WEEKS.monthdatescalendar(year, month)
        )
        return (
            f"<table class='mesh-month'><caption>{month_name[month]} {year}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def _day(self, calendar: Calendar, day: date) -> str:
        found = calendar.days.get(day)
        if found is None:
            dates = list(calendar.days)
            if not dates or not dates[0] < day < dates[-1]:
                return f"<span class='mesh-dim q-px-xs'>{day.day}</span>"
            return (
                f"<span class='mesh-day gap' role='img' aria-label='{day}: nothing is "
                f"archived' title='nothing is archived'>{day.day}<br>gap</span>"
            )
        objects = sum(each.objects for each in found.values())
        counted = self._counted(day, found)
        label = _day_in_words(day, found, counted)
        number = f"{counted:,}" if counted is not None else f"{objects:,} obj."
        pressed = str(day == self._chosen).lower()
        return (
            f"<button class='mesh-day' data-day='{day}' aria-pressed='{pressed}' "
            f"aria-label='{label}' title='{label}'>{day.day}"
            f"<span class='mesh-dim'> {number}</span>"
            f"{_hours_bar(_hours(found))}</button>"
        )

    def _counted(self, day: date, found: Mapping[str, ArchivedDay]) -> int | None:
        """The number of records of a day; None if not all its objects were counted."""
        total = 0
        for name, of_day in found.items():
            objects, records = self._records.get((name, day), (0, 0))
            if objects != of_day.objects:
                return None
            total += records
        return total

    async def _choose(self, event: Any) -> None:
        """Show a day and count its records."""
        try:
            day = date.fromisoformat(str(event.args))
        except ValueError:
            return
        found = self._of_domain().days.get(day)
        if found is None:
            return
        self._chosen = day
        self._work.choose(day)
        self._show()
        self._detail.set_content(self._rows(day, found))
        if self._counted(day, found) is None:
            fault = await self._work.count(day, found)
            self._show()
            rows = self._rows(day, found)
            self._detail.set_content(rows + bad(fault))

    def _rows(self, day: date, found: Mapping[str, ArchivedDay]) -> str:
        rows = []
        for name, of_day in found.items():
            counted = self._counted(day, {name: of_day})
            rows.append(
                (
                    text(name),
                    f"{of_day.objects:,}",
                    "…" if counted is None else f"{counted:,}",
                    f"{of_day.size_bytes / 1e6:,.2f}",
                    _hours_in_words(of_day.hours),
                )
            )
        numbers = ("objects", "records", "MB")
        head = ("domain", *numbers, "hours")
        return table(f"{day:%A}, {day} (UTC)", head, rows, numbers)


def _in_words(calendar: Calendar) -> str:
    if not calendar.days:
        return "Nothing is archived."
    dates = list(calendar.days)
    everything = [each for day in calendar.days.values() for each in day.values()]
    objects = sum(each.objects for each in everything)
    mb = sum(each.size_bytes for each in everything) / 1e6
    gaps = calendar.gaps()
    between = f"{len(gaps):,} days between have none" if gaps else "no day is missing"
    foreign = calendar.foreign
    others = f"; {foreign:,} objects are not the mesh's" if foreign else ""
    days = f"{len(dates):,} day{'s' * (len(dates) != 1)}"
    return (
        f"{dates[0]} to {dates[-1]} (UTC): {days} with {objects:,} "
        f"objects, {mb:,.1f} MB; {between}{others}."
    )


def _day_in_words(
    day: date, found: Mapping[str, ArchivedDay], counted: int | None
) -> str:
    objects = sum(each.objects for each in found.values())
    mb = sum(each.size_bytes for each in found.values()) / 1e6
    records = f", {counted:,} records" if counted is not None else ""
    hours = len(_hours(found))
    return f"{day}: {objects:,} objects{records}, {mb:,.2f} MB, {hours} of 24 hours"


def _hours(found: Mapping[str, ArchivedDay]) -> set[int]:
    return set().union(*(each.hours for each in found.values()))


def _hours_bar(hours: set[int]) -> str:
    """The hours with an object as a bar, so that a gap within a day is visible."""
    path = "".join(f"M{hour} 0h1v1h-1z" for hour in sorted(hours))
    return (
        f"<svg viewBox='0 0 {_HOURS} 1' preserveAspectRatio='none' aria-hidden='true'>"
        f"<path d='{path}' fill='currentColor'/></svg>"
    )


def _hours_in_words(hours: set[int]) -> str:
    """Hours as text: intervals, and single hours."""
    spans: list[list[int]] = []
    for hour in sorted(hours):
        if spans and spans[-1][1] == hour - 1:
            spans[-1][1] = hour
        else:
            spans.append([hour, hour])
    return ", ".join(
        f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
        for first, last in spans
    )
