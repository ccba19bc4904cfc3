"""SQL queries of the archive, with their results as table and chart."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from functools import partial
from typing import Any

from nicegui import ui

from meshtasks.gateway.console.frame import (
    Console,
    html,
    scrolling,
    status,
    table,
    text,
)
from meshtasks.observation.chart import STYLE, is_number
from meshtasks.observation.query import Answered, QueryRefused

logger = logging.getLogger(__name__)

#: Rows of a result that the page shows.
_ROWS = 500
_CHARS = 500
_EXAMPLES = {
    "Latest readings": "SELECT kind, location, arg_max(value, time) AS value,\n"
    "  max(time) AS time\nFROM readings GROUP BY ALL ORDER BY ALL",
    "Temperatures": "SELECT time_bucket(INTERVAL '10 minutes', time) AS t,\n"
    "  location, avg(value) AS value\nFROM readings WHERE kind = 'temperature'\n"
    "GROUP BY ALL ORDER BY t",
    "Records a day": "SELECT date, domain, count(*) AS records\n"
    "FROM archive GROUP BY ALL ORDER BY ALL",
    "Columns": "DESCRIBE readings",
}
#: Colours of the chart, limited to it so that the rest of the page keeps its own.
_CHART_STYLE = STYLE.replace(":root {", ".mesh-chart {")


class SqlPanel:
    """The panel of one viewer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: asyncio.Task[Answered] | None = None
        self._gone = False
        ui.add_css(_CHART_STYLE)
        with ui.element("section").classes("mesh-card w-full"):
            html("<h2>SQL</h2>")
            html(
                "The views are readings, metrics, events and archive, as of "
                "<code>meshtasks query</code>; nothing can be written."
            ).classes("mesh-dim")
            with ui.row():
                for name in _EXAMPLES:
                    ui.button(name, on_click=partial(self._propose, name)).props(
                        "flat dense"
                    )
            self._sql = ui.textarea("SQL", value=_EXAMPLES["Latest readings"])
            self._sql.classes("w-full").props("outlined autogrow spellcheck=false")
            self._sql.on("keydown.ctrl.enter", self._run)
            with ui.row().classes("items-center"):
                self._days = ui.number("Last days (all)", min=1, precision=0)
                self._button = ui.button("Run", on_click=self._run)
                self._cancel = ui.button("Cancel", on_click=self._stop).props("flat")
                self._cancel.set_visibility(False)
            self._state = status()
            self._chart = html().classes("mesh-chart w-full")
            self._table = scrolling("What the query has given")
        ui.context.client.on_delete(self._leave)

    def _propose(self, name: str) -> None:
        self._sql.set_value(_EXAMPLES[name])

    def _leave(self) -> None:
        self._gone = True
        self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        viewer = self._console.viewer()
        if self._running is not None or viewer is None:
            return
        days = int(self._days.value) if self._days.value else None
        began = time.monotonic()
        self._show_busy(busy=True)
        logger.info("%s asks: %s", viewer.name, " ".join(self._sql.value.split()))
        self._running = asyncio.create_task(
            self._console.context.queries.run(self._sql.value, days, drawn=True)
        )
        try:
            answer = await self._running
        except QueryRefused as error:
            self._show(f"<pre class='mesh-bad mesh-wrap'>{text(error)}</pre>")
            return
        except asyncio.CancelledError:
            self._show("Cancelled.")
            return
        finally:
            self._running = None
            self._show_busy(busy=False)
        self._show(_summary(answer, time.monotonic() - began), answer)

    def _show_busy(self, *, busy: bool) -> None:
        if self._gone:
            return
        self._button.set_enabled(not busy)
        self._cancel.set_visibility(busy)
        if busy:
            self._state.set_content("Asking …")

    def _show(self, state: str, answer: Answered | None = None) -> None:
        if self._gone:
            return
        self._state.set_content(state)
        self._chart.set_content((answer and answer.chart) or "")
        self._table.set_content(_table(answer) if answer else "")


def _summary(answer: Answered, seconds: float) -> str:
    first = "the first " if answer.more else ""
    notes = "".join(f"<li>{text(note)}</li>" for note in answer.notes)
    why = f" No chart: {text(answer.no_chart)}." if answer.no_chart else ""
    rows = f"{first}{len(answer.rows):,} rows in {seconds:.1f} s."
    return f"{rows}{why}<ul class='mesh-bad'>{notes}</ul>"


def _table(answer: Answered) -> str:
    rows = answer.rows[:_ROWS]
    names = [text(name) for name in answer.columns]
    numbers = [
        name
        for index, name in enumerate(names)
        if all(is_number(row[index]) or row[index] is None for row in rows)
    ]
    cells = ([text(_shown(value)) for value in row] for row in rows)
    more = (
        f"<p class='mesh-dim'>The first {len(rows):,} rows; <code>meshtasks query "
        "--csv</code> gives all of them.</p>"
        if answer.more or len(answer.rows) > len(rows)
        else ""
    )
    return table("", names, cells, numbers, of=None) + more


def _shown(value: Any) -> str:
    match value:
        case None:
            shown = ""
        case bool() | list() | dict():
            shown = json.dumps(value, ensure_ascii=False)
        case float():
            shown = f"{value:.10g}"
        case _:
            shown = str(value)
    return shown if len(shown) <= _CHARS else f"{shown[:_CHARS]}…"
