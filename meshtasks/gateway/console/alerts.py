"""Alerts: those that go on, what was notified; acknowledged and silenced here."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial

from nicegui import ui

from meshtasks.config.durations import seconds_of, span_text
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.matchers import parse_matcher
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import AlertEvent, AlertState, Silence
from meshtasks.flows.alerts.store import AlertTables
from meshtasks.flows.sinks import Sinks
from meshtasks.gateway.console.frame import Console, framed, text

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 3.0
_EVENTS = 50


def add_alerts(console: Console) -> None:
    """Serve the page."""

    @ui.page("/alerts")
    def alerts() -> None:
        with framed(console, "/alerts"):
            _Page(console).build()


class _Page:
    """One viewer's look at the alerts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._settings = console.settings
        self._policy = self._settings.read(ALERTS)
        self._shown: list[tuple[str, str, str]] | None = None

    def build(self) -> None:
        """Fill the page."""
        self._state = ui.html("Looking …", sanitize=False).props('role="status"')
        self._list = ui.column().classes("w-full gap-2")
        self._silences = ui.html("", sanitize=False).classes("mesh-scroll")
        self._history = ui.html("", sanitize=False).classes("mesh-scroll")
        ui.timer(0.05, self._look, once=True)
        ui.timer(_REFRESH_SECONDS, self._look)

    async def _look(self) -> None:
        now = time.time()
        try:
            alerts, silences, events = await asyncio.to_thread(self._read, now)
        except MeshError as error:
            self._state.set_content(f'<span class="mesh-bad">{text(error)}</span>')
            return
        count = sum(alert.alert.firing for alert in alerts)
        self._state.set_content(f"{count or 'No'} alert{'s' * (count != 1)} go on.")
        seen = [(a.alert.fingerprint, a.state, a.told) for a in alerts]
        if seen != self._shown:
            self._shown = seen
            self._list.clear()
            with self._list:
                for alert in alerts:
                    self._show(alert, now)
        self._silences.set_content(_silences(silences, now))
        self._history.set_content(_history(events))

    def _read(
        self, now: float
    ) -> tuple[list[CurrentAlert], list[Silence], list[AlertEvent]]:
        with self._tables() as tables:
            alerts = current_alerts(tables, self._policy, now, every=False)
            silences = [item for item in tables.silences() if item.ends_at > now]
            return alerts, silences, tables.history(_EVENTS)

    @contextmanager
    def _tables(self) -> Iterator[AlertTables]:
        """The tables, for one look or one change."""
        with (
            closing(Sinks(self._settings)) as sinks,
            sinks[ALERT_STATE].tables() as tables,
        ):
            yield tables

    def _show(self, current: CurrentAlert, now: float) -> None:
        alert = current.alert
        tone = "mesh-bad" if alert.severity == "critical" else ""
        labels = " ".join(
            f"<span class='mesh-dim'>{text(name)}={text(value)}</span>"
            for name, value in sorted(alert.own_labels.items())
        )
        with ui.element("div").classes("mesh-card w-full"):
            ui.html(
                f"<div class='mesh-row'><h2 class='{tone}'>{text(alert.title)}</h2>"
                f"<span>{text(alert.severity)} · {text(current.state)} · for "
                f"{span_text(now - alert.starts_at)}</span></div>"
                f"<div>{text(alert.message)}</div>"
                f"<div class='mesh-wrap'>{labels}</div>",
                sanitize=False,
            )
            with ui.row():
                for name, action in (
                    ("Acknowledge", partial(self._acknowledge, alert)),
                    ("Silence", partial(self._silence, alert)),
                ):
                    button = ui.button(name, on_click=action).props("flat dense")
                    if not self._console.may_operate():
                        button.disable()

    async def _acknowledge(self, alert: AlertState) -> None:
        viewer = self._console.viewer()
        if viewer is None or not self._console.may_operate():
            return

        def write() -> None:
            with self._tables() as tables:
                known = tables.alert(alert.fingerprint)
                if known is not None and known.firing:
                    tables.acknowledge(known, viewer.name, time.time())

        await self._do(write, "acknowledged")

    def _silence(self, alert: AlertState) -> None:
        """Ask for how long and what, and show what that mutes now."""
        labels = ", ".join(f"{n}={v}" for n, v in sorted(alert.own_labels.items()))
        with ui.dialog() as dialog, ui.card().classes("w-full"):
            matchers = ui.input("Conditions that must all hold", value=labels)
            matchers.classes("w-full")
            lasts = ui.input("For", value="2h")
            comment = ui.input("Why").classes("w-full")
            preview = ui.html("", sanitize=False).props('role="status"')

            def silence() -> Silence:
                now = time.time()
                texts = [part.strip() for part in matchers.value.split(",")]
                viewer = self._console.viewer()
                return Silence(
                    secrets.token_hex(4),
                    tuple(str(parse_matcher(part)) for part in texts if part),
                    now,
                    now + seconds_of(lasts.value),
                    viewer.name if viewer else "?",
                    comment.value,
                )

            async def judge() -> None:
                try:
                    made = silence()
                    alerts, _, _ = await asyncio.to_thread(self._read, time.time())
                except (ValueError, MeshError) as error:
                    preview.set_content(f"<span class='mesh-bad'>{text(error)}</span>")
                    return
                muted = [
                    item.alert.title
                    for item in alerts
                    if made.matchers and made.covers(item.alert.labels, made.starts_at)
                ]
                lines = "".join(f"<li>{text(title)}</li>" for title in muted[:10])
                preview.set_content(f"Silences {len(muted)} now:<ul>{lines}</ul>")

            async def begin() -> None:
                try:
                    made = silence()
                except ValueError as error:
                    ui.notify(str(error), type="negative")
                    return
                if not made.matchers or not self._console.may_operate():
                    return

                def write() -> None:
                    with self._tables() as tables:
                        tables.begin_silence(made, time.time())

                dialog.close()
                await self._do(write, f"silenced {' '.join(made.matchers)}")

            matchers.on_value_change(judge)
            lasts.on_value_change(judge)
            ui.timer(0.05, judge, once=True)
            with ui.row():
                ui.button("Silence", on_click=begin)
                ui.button("Cancel", on_click=dialog.close).props("flat")
        dialog.open()

    async def _do(self, write: Callable[[], None], what: str) -> None:
        viewer = self._console.viewer()
        try:
            await asyncio.to_thread(write)
        except MeshError as error:
            ui.notify(str(error), type="negative")
            return
        who = viewer.name if viewer else "?"
        logger.info("%s %s on the console", who, what)
        ui.notify(what)
        await self._look()


def _silences(silences: list[Silence], now: float) -> str:
    lines = "".join(
        f"<li>{text(' '.join(item.matchers))}: {span_text(item.ends_at - now)} left, "
        f"by {text(item.created_by)}</li>"
        for item in silences
    )
    return f"<h2 class='mesh-h2'>Silences</h2><ul>{lines}</ul>" if silences else ""


def _history(events: list[AlertEvent]) -> str:
    rows = "".join(
        f"<tr><td>{datetime.fromtimestamp(event.at).astimezone():%d %b %H:%M:%S}</td>"
        f"<td>{text(event.kind)}</td><td>{text(event.title)}</td>"
        f"<td>{text(event.who)}</td>"
        f"<td class='mesh-wrap'>{text(event.detail)}</td></tr>"
        for event in events
    )
    return (
        "<table class='mesh-table'><caption class='mesh-h2'>What happened lately"
        f"</caption>{rows}</table>"
    )
