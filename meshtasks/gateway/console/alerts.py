"""The page of alerts: active and past ones, and who was notified. Viewers with the
scope ``operate`` acknowledge and silence them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from nicegui import ui

from meshtasks.config.durations import seconds_of, span_text
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.config import ALERTS, Matcher, parse_matcher
from meshtasks.flows.alerts.current import CurrentAlert, episodes, route_line
from meshtasks.flows.alerts.state import AlertEvent, AlertState, Silence
from meshtasks.flows.alerts.store import AlertTables
from meshtasks.gateway.console.frame import (
    Cards,
    Change,
    Console,
    bad,
    framed,
    html,
    moment,
    notified,
    scrolling,
    status,
    staying,
    table,
    text,
)
from meshtasks.gateway.console.watch import Alerts
from meshtasks.text import printable

_REFRESH_SECONDS = 3.0
_DAY_SECONDS = 24 * 3600.0
#: Width of the timeline and least width of an episode, in units of the SVG.
_WIDTH, _LEAST = 240.0, 1.0
_MUTED = 10
_CONDITION = re.compile(r'(?:[^,"]|"[^"]*"?)+')


def add_alerts(console: Console) -> None:
    """Add the page."""

    @ui.page("/alerts")
    def alerts(alert: str = "") -> None:
        with framed(console, "/alerts"):
            _AlertsPage(console, alert)


class _AlertsPage:
    """The page of one viewer.

    Args:
        console: the shared objects.
        chosen: fingerprint of the alert that is shown first; may be empty.
    """

    def __init__(self, console: Console, chosen: str) -> None:
        self._console = console
        self._chosen = chosen
        self._model = console.alerts
        self._zone = console.settings.read(ALERTS).zone
        self._now = 0.0
        self._place = ui.element("div")
        self._state = status("Looking …")
        self._silences = Cards[Silence](
            ui.element("div").classes("w-full column gap-2"), self._make_silence
        )
        self._cards = Cards[tuple[CurrentAlert, Alerts]](
            ui.element("div").classes("w-full column gap-2"), self._make
        )
        self._history = scrolling("What happened lately")
        ui.timer(0.05, self._look, once=True)
        ui.timer(_REFRESH_SECONDS, self._look)

    async def _look(self) -> None:
        try:
            known = await self._model.alerts()
        except MeshError as error:
            self._state.set_content(bad(error))
            return
        self._now = known.taken_at
        count = len(known.firing)
        verb = "s go on" if count != 1 else " goes on"
        self._state.set_content(f"{count or 'No'} alert{verb}.")
        self._silences.show((silence.id, silence) for silence in known.silences)
        loudest = sorted(
            known.shown,
            key=lambda each: (
                each.alert.fingerprint != self._chosen,
                not each.alert.firing,
                -self._times(each.alert),
                -each.alert.starts_at,
            ),
        )
        self._cards.show((each.alert.fingerprint, (each, known)) for each in loudest)
        self._history.set_content(_history(known.events))

    def _times(self, alert: AlertState) -> int:
        """The number of episodes of an alert in the last 24 hours."""
        since = self._now - _DAY_SECONDS
        return sum(
            each.ended_at is None or each.ended_at > since for each in episodes(alert)
        )

    def _make(
        self, item: tuple[CurrentAlert, Alerts]
    ) -> Change[tuple[CurrentAlert, Alerts]]:
        """Fill a card. Its buttons use the latest state of the alert."""
        alert = item[0].alert
        content = html()
        with ui.row():
            acknowledge = self._button("Acknowledge", lambda: self._acknowledge(alert))
            silence = self._button(
                "Silence",
                lambda: SilenceDialog(
                    self._console, alert.own_labels, self._look, alert.source
                ),
            )

        def change(item: tuple[CurrentAlert, Alerts]) -> None:
            nonlocal alert
            current, known = item
            alert = current.alert
            acknowledge.set_visibility(alert.firing and not alert.acknowledged_by)
            for button in (acknowledge, silence):
                button.props["aria-label"] = printable(f"{button.text}: {alert.title}")
            content.set_content(self._content(current, known))

        return change

    def _content(self, current: CurrentAlert, known: Alerts) -> str:
        alert = current.alert
        tone = "mesh-bad" if alert.firing and alert.severity == "critical" else ""
        tone = tone if alert.firing else "mesh-dim"
        labels = "".join(
            f"<li>{text(name)}={text(value)}</li>"
            for name, value in sorted(alert.labels.items())
        )
        routes = "".join(
            f"<li>{text(route_line(route, state, self._zone))}</li>"
            for route, state in sorted(known.notified[alert.fingerprint].items())
        )
        ends_at = known.taken_at if alert.ends_at is None else alert.ends_at
        return (
            f"<div class='mesh-row'><h2 class='{tone}'>{text(alert.title)}</h2>"
            f"<span>{text(alert.severity)} · {text(current.state)} · for "
            f"{span_text(ends_at - alert.starts_at)}</span></div>"
            f"<div class='mesh-wrap'>{text(alert.message)}</div>"
            f"<ul class='mesh-chips' aria-label='Labels'>{labels}</ul>"
            f"{self._timeline(alert)}"
            f"<div>Notified{'' if routes else ': nobody'}</div>"
            f"<ul class='q-pl-md q-my-none'>{routes}</ul>"
        )

    def _timeline(self, alert: AlertState) -> str:
        """The episodes of the last 24 hours as SVG."""
        since, times = self._now - _DAY_SECONDS, self._times(alert)
        bars, lasted = "", 0.0
        for episode in episodes(alert):
            ended_at = self._now if episode.ended_at is None else episode.ended_at
            began_at = max(episode.began_at, since)
            if ended_at <= since:
                continue
            lasted += max(0.0, ended_at - began_at)
            x = min(_WIDTH * (began_at - since) / _DAY_SECONDS, _WIDTH - _LEAST)
            width = max(_LEAST, _WIDTH * (ended_at - began_at) / _DAY_SECONDS)
            bars += f"<rect x='{x:.1f}' y='1' width='{width:.1f}' height='8'/>"
        label = (
            f"{times} time{'s' * (times != 1)} in the last 24 hours, "
            f"{span_text(lasted)} in all"
        )
        return (
            f"<div class='mesh-dim'>{label}</div><svg class='mesh-time' role='img' "
            f"viewBox='0 0 {_WIDTH:g} 10' preserveAspectRatio='none' "
            f"aria-label='{label}'>{bars}</svg>"
        )

    def _button(self, name: str, action: Callable[[], object]) -> ui.button:
        button = self._console.button(name, staying(self._place, action))
        return button.props("flat dense")

    def _make_silence(self, silence: Silence) -> Change[Silence]:
        with ui.element("div").classes("mesh-row"):
            content = html().classes("mesh-wrap")
            self._button("End", partial(self._end, silence)).props(
                f'aria-label="End silence {silence.id}"'
            )

        def change(silence: Silence) -> None:
            left = span_text(silence.ends_at - self._now)
            why = f": {silence.comment}" if silence.comment else ""
            content.set_content(
                f"Silenced: {text(' '.join(silence.matchers))}, {left} left, "
                f"by {text(silence.created_by)}{text(why)}"
            )

        return change

    async def _acknowledge(self, alert: AlertState) -> None:
        def write(tables: AlertTables, who: str) -> None:
            known = tables.alert(alert.fingerprint)
            if known is not None and known.firing:
                tables.acknowledge(known, who, tables.now)

        await self._do(write, f"acknowledged {alert.title}")

    async def _end(self, silence: Silence) -> None:
        await self._do(
            lambda tables, who: tables.end_silence(silence, who, tables.now),
            f"ended the silence of {' '.join(silence.matchers)}",
        )

    async def _do(self, write: Callable[[AlertTables, str], None], what: str) -> None:
        viewer = self._console.operator()
        if viewer is None:
            return
        with notified():
            await self._model.change(
                lambda tables: write(tables, viewer.name), viewer.name, what
            )
            ui.notify(what)
            await self._look()


def _history(events: list[AlertEvent]) -> str:
    rows = [
        (
            moment(event.at),
            *map(text, (event.kind, event.title, event.who, event.detail)),
        )
        for event in events
    ]
    head = ("when", "what", "alert or silence", "who", "detail")
    return table("What happened lately", head, rows, of=None)


class SilenceDialog:
    """The dialog for a new silence. It shows which alerts the silence would mute.

    Args:
        console: the shared objects.
        labels: the conditions at first.
        after: called when the silence has begun.
        source: source of the alert: the condition at first if no label can be one.
    """

    def __init__(
        self,
        console: Console,
        labels: Mapping[str, str],
        after: Callable[[], Awaitable[None]],
        source: str = "",
    ) -> None:
        self._console = console
        self._after = after
        conditions = _conditions(labels)
        if source and not conditions:
            conditions = _conditions({"source": source})
        with ui.dialog() as dialog, ui.card().classes("w-full"):
            dialog.props('aria-label="Silence"')
            self._dialog = dialog
            self._matchers = ui.input("Conditions that must all hold", value=conditions)
            self._matchers.classes("w-full").on_value_change(self._judge)
            self._lasts = ui.input("For", value="2h").on_value_change(self._judge)
            self._comment = ui.input("Why").classes("w-full")
            self._preview = status()
            ui.timer(0.05, self._judge, once=True)
            with ui.row():
                ui.button("Silence", on_click=self._begin)
                ui.button("Cancel", on_click=dialog.close).props("flat")
        dialog.open()

    def _silence(self) -> Silence:
        """The silence that the fields describe; it has not begun.

        Raises:
            ValueError: a field is not valid.
        """
        viewer = self._console.viewer()
        return Silence(
            secrets.token_hex(4),
            tuple(map(str, _matchers(self._matchers.value or ""))),
            0.0,
            seconds_of(self._lasts.value or ""),
            viewer.name if viewer else "?",
            self._comment.value or "",
        )

    async def _judge(self) -> None:
        try:
            known = await self._console.alerts.alerts()
            made = self._silence().begun(known.taken_at)
        except (ValueError, MeshError) as error:
            self._preview.set_content(bad(error))
            return
        self._preview.set_content(_preview(made, known))

    async def _begin(self) -> None:
        with notified(ValueError), notified():
            made = self._silence()
            if not made.matchers or not self._console.may_operate():
                return
            self._dialog.close()
            what = f"silenced {' '.join(made.matchers)}"
            await self._console.alerts.change(
                lambda tables: tables.begin_silence(made.begun(tables.now), tables.now),
                made.created_by,
                what,
            )
            ui.notify(what)
            await self._after()


def _matchers(conditions: str) -> list[Matcher]:
    """Parse conditions that are separated by commas; a comma in double quotes does not
    separate.

    Raises:
        ValueError: a part is not a condition.
    """
    parts = (part.strip() for part in _CONDITION.findall(conditions))
    return [parse_matcher(part) for part in parts if part]


def _conditions(labels: Mapping[str, str]) -> str:
    """The labels as conditions, without those that conditions cannot express."""
    written = []
    for name, value in sorted(labels.items()):
        for condition in (f"{name}={value}", f'{name}="{value}"'):
            with suppress(ValueError):
                if _matchers(condition) == [Matcher(name, "=", value)]:
                    written.append(condition)
                    break
    return ", ".join(written)


def _preview(made: Silence, known: Alerts) -> str:
    muted = [
        each.alert.title
        for each in known.firing
        if made.matchers and made.covers(each.alert.labels, made.starts_at)
    ]
    lines = "".join(f"<li>{text(title)}</li>" for title in muted[:_MUTED])
    more = f"and {len(muted) - _MUTED} more" * (len(muted) > _MUTED)
    return f"Silences {len(muted)} now:<ul>{lines}</ul>{more}"
