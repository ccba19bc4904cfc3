"""Asks for how long, and what, a silence is to mute."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from nicegui import ui

from meshtasks.config.durations import seconds_of
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.matchers import Matcher, parse_matcher
from meshtasks.flows.alerts.state import Silence
from meshtasks.gateway.console.alerts_model import Alerts
from meshtasks.gateway.console.frame import Console, text

_MUTED = 10
_CONDITION = re.compile(r'(?:[^,"]|"[^"]*"?)+')


def ask_silence(
    console: Console,
    labels: Mapping[str, str],
    after: Callable[[], Awaitable[None]],
    source: str = "",
) -> None:
    """Open the dialog, which shows what the silence would mute now.

    Args:
        labels: to begin with.
        after: called when the silence has begun.
        source: of the alert, to begin with if no label can be written.
    """
    conditions = _conditions(labels)
    if source and not conditions:
        conditions = _conditions({"source": source})
    with ui.dialog() as dialog, ui.card().classes("w-full"):
        dialog.props('aria-label="Silence"')
        matchers = ui.input("Conditions that must all hold", value=conditions)
        matchers.classes("w-full")
        lasts = ui.input("For", value="2h")
        comment = ui.input("Why").classes("w-full")
        preview = ui.html("", sanitize=False).props('role="status"')

        def silence() -> Silence:
            now = time.time()
            viewer = console.viewer()
            return Silence(
                secrets.token_hex(4),
                tuple(map(str, _matchers(matchers.value or ""))),
                now,
                now + seconds_of(lasts.value or ""),
                viewer.name if viewer else "?",
                comment.value or "",
            )

        async def judge() -> None:
            try:
                made, known = silence(), await console.alerts.alerts()
            except (ValueError, MeshError) as error:
                preview.set_content(f"<span class='mesh-bad'>{text(error)}</span>")
                return
            preview.set_content(_preview(made, known))

        async def begin() -> None:
            try:
                made = silence()
            except ValueError as error:
                ui.notify(str(error), type="negative")
                return
            if made.matchers and console.may_operate():
                dialog.close()
                what = f"silenced {' '.join(made.matchers)}"
                try:
                    await console.alerts.change(
                        lambda tables, now: tables.begin_silence(made, now),
                        made.created_by,
                        what,
                    )
                except MeshError as error:
                    ui.notify(str(error), type="negative")
                    return
                ui.notify(what)
                await after()

        matchers.on_value_change(judge)
        lasts.on_value_change(judge)
        ui.timer(0.05, judge, once=True)
        with ui.row():
            ui.button("Silence", on_click=begin)
            ui.button("Cancel", on_click=dialog.close).props("flat")
    dialog.open()


def _matchers(conditions: str) -> list[Matcher]:
    """Conditions with commas between them; one within double quotes is no end.

    Raises:
        ValueError: one is none.
    """
    parts = (part.strip() for part in _CONDITION.findall(conditions))
    return [parse_matcher(part) for part in parts if part]


def _conditions(labels: Mapping[str, str]) -> str:
    """The conditions that these labels meet, but for those that cannot be written."""
    written = []
    for name, value in sorted(labels.items()):
        for condition in (f"{name}={value}", f'{name}="{value}"'):
            with suppress(ValueError):
                if _matchers(condition) == [Matcher(name, "=", value)]:
                    written.append(condition)
                    break
    return ", ".join(written)


def _preview(made: Silence, known: Alerts) -> str:
    """What a silence would mute now, as HTML."""
    muted = [
        each.alert.title
        for each in known.firing
        if made.matchers and made.covers(each.alert.labels, made.starts_at)
    ]
    lines = "".join(f"<li>{text(title)}</li>" for title in muted[:_MUTED])
    more = f"and {len(muted) - _MUTED} more" * (len(muted) > _MUTED)
    return f"Silences {len(muted)} now:<ul>{lines}</ul>{more}"
