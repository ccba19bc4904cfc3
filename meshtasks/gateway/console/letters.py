"""Dead letters: grouped by cause, looked at, edited, replayed, dropped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial

from nicegui import ui
from pydantic_core import from_json

from meshtasks.amqp.dead_letters import Selection
from meshtasks.amqp.replay import Replay, Replayed, drop
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import MeshError
from meshtasks.gateway.console.frame import Console, framed, text
from meshtasks.gateway.console.trying import stored_as
from meshtasks.observation.dead_letters import (
    LettersOfCause,
    WaitingLetter,
    WaitingLetters,
    waiting_letters,
    would_replay,
)
from meshtasks.text import printable

logger = logging.getLogger(__name__)

#: Causes that are shown.
_CAUSES = 100


def add_letters(console: Console) -> None:
    """Serve the page."""

    @ui.page("/dead-letters")
    def letters() -> None:
        with framed(console, "/dead-letters"):
            _Page(console).build()


class _Page:
    """One viewer's look at the dead letters."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._settings = console.settings
        self._topology = self._settings.read(TOPOLOGY)
        self._url = self._settings.env.amqp_url
        self._queue = self._topology.dead_letter_queue
        self._may_operate = console.may_operate()

    def build(self) -> None:
        """Fill the page."""
        with ui.row().classes("items-center"):
            self._state = ui.html("Looking …", sanitize=False).props('role="status"')
            ui.button("Look again", icon="refresh", on_click=self._look).props("flat")
        self._list = ui.column().classes("w-full gap-2")
        ui.timer(0.05, self._look, once=True)

    async def _look(self) -> None:
        try:
            waiting: WaitingLetters = await asyncio.to_thread(
                waiting_letters, self._url, self._queue
            )
        except MeshError as error:
            self._state.set_content(f'<span class="mesh-bad">{text(error)}</span>')
            return
        clock = f"{datetime.fromtimestamp(waiting.taken_at).astimezone():%H:%M:%S}"
        self._state.set_content(
            f"{waiting.total:,} dead letters of {len(waiting.causes):,} causes, "
            f"at {clock}"
        )
        self._list.clear()
        with self._list:
            for cause in waiting.causes[:_CAUSES]:
                self._show(cause)

    def _show(self, cause: LettersOfCause) -> None:
        group, queue = cause.group, cause.key.queue or "no queue"
        again = f", {group.replayed:,} replayed before" * bool(group.replayed)
        expansion = ui.expansion(
            printable(f"{group.count:,} in {queue}: {cause.key.kind}{again}"),
            caption=printable(group.example.reason),
        )
        with expansion.classes("mesh-card w-full"):
            inside = ui.column().classes("w-full")
            # thousands of elements, of which most are never looked at
            expansion.on_value_change(lambda: self._fill(inside, cause))

    def _fill(self, inside: ui.column, cause: LettersOfCause) -> None:
        """Show a few of a cause, once."""
        if inside.default_slot.children:
            return
        count = cause.group.count
        with inside:
            with ui.row():
                all_of_it = Selection(group=cause.key)
                self._button("Replay all", partial(self._replay, all_of_it))
                self._button("Drop all", partial(self._drop, all_of_it, count))
            for waiting in cause.examples:
                self._line(waiting)
            if (more := count - len(cause.examples)) > 0:
                ui.label(f"and {more:,} more").classes("mesh-dim")

    def _line(self, waiting: WaitingLetter) -> None:
        letter = waiting.letter
        failed_at = (
            f"{datetime.fromtimestamp(letter.failed_at).astimezone():%d %b %H:%M:%S}"
            if letter.failed_at is not None
            else "at an unknown time"
        )
        with ui.row().classes("items-center no-wrap w-full"):
            ui.button("Open", on_click=partial(self._open, waiting)).props(
                f'flat dense aria-label="Open {letter.id}"'
            )
            ui.html(
                f"{text(letter.id)} <span class='mesh-dim'>{failed_at}</span> "
                f"{text(letter.routing_key)} · {text(letter.reason)}",
                sanitize=False,
            ).classes("mesh-wrap")

    def _open(self, waiting: WaitingLetter) -> None:
        """Show one beside its reason, to be edited and replayed."""
        letter, body = waiting.letter, waiting.delivery.body
        before = body.decode(errors="backslashreplace")
        with ui.dialog() as dialog, ui.card().classes("w-full"):
            ui.html(
                f"<h2 class='mesh-h2'>{text(letter.routing_key)}</h2>"
                f"<p class='mesh-bad'>{text(letter.kind)}: {text(letter.reason)}</p>",
                sanitize=False,
            )
            editor = ui.textarea("Body", value=before).classes("w-full")
            editor.props("outlined autogrow")
            fate = ui.html("", sanitize=False).props('role="status"')

            def judge() -> None:
                """Say what would become of what is typed."""
                fate.set_content(
                    stored_as(
                        self._console,
                        letter.exchange,
                        letter.routing_key,
                        editor.value.encode(),
                    )
                )

            async def replay() -> None:
                edited = None
                if editor.value != before:
                    try:
                        from_json(editor.value, allow_inf_nan=False)
                    except ValueError as error:
                        ui.notify(f"not JSON: {error}", type="negative")
                        return
                    edited = {letter.id: editor.value.encode()}
                dialog.close()
                await self._run(Selection(ids=(letter.id,)), edited)

            async def drop_it() -> None:
                dialog.close()
                await self._drop(Selection(ids=(letter.id,)), 1)

            editor.on_value_change(judge)
            judge()
            with ui.row():
                self._button("Replay", replay)
                self._button("Drop", drop_it)
                ui.button("Close", on_click=dialog.close).props("flat")
        dialog.open()

    def _button(self, name: str, action: Callable[[], object]) -> None:
        button = ui.button(name, on_click=action)
        if not self._may_operate:
            button.disable()
            button.tooltip("needs a token with the scope operate")

    async def _replay(self, selection: Selection) -> None:
        """Show what a replay would do, and do it if that is wanted."""
        try:
            plan: Replayed = await asyncio.to_thread(
                would_replay, self._url, self._queue, selection, self._topology
            )
        except MeshError as error:
            ui.notify(str(error), type="negative")
            return
        if await _confirmed(_outcome(plan, "would be requeued"), "Replay"):
            await self._run(selection, None)

    async def _run(self, selection: Selection, edited: dict[str, bytes] | None) -> None:
        if not self._console.may_operate():
            return
        replay = Replay(
            self._url, self._queue, selection, self._topology, edited=edited
        )
        try:
            result: Replayed = await asyncio.to_thread(replay.run)
        except MeshError as error:
            done = replay.result.requeued.total()
            ui.notify(f"{error}; {done:,} were requeued", type="negative")
            return
        self._log("replayed", result.requeued.total())
        ui.notify(_outcome(result, "requeued"), multi_line=True)
        await self._look()

    async def _drop(self, selection: Selection, count: int) -> None:
        question = f"Delete {count:,} dead letters for good?"
        if not await _confirmed(question, "Delete") or not self._console.may_operate():
            return
        try:
            dropped: int = await asyncio.to_thread(
                drop, self._url, self._queue, selection.matches, threading.Event()
            )
        except MeshError as error:
            ui.notify(str(error), type="negative")
            return
        self._log("dropped", dropped)
        ui.notify(f"{dropped:,} deleted")
        await self._look()

    def _log(self, action: str, count: int) -> None:
        viewer = self._console.viewer()
        who = viewer.name if viewer else "?"
        logger.info("%s %s %d dead letters on the console", who, action, count)


def _outcome(result: Replayed, verb: str) -> str:
    lines = [f"{result.requeued.total():,} of {result.looked_at:,} {verb}"]
    lines += [f"{count:,} to {name}" for name, count in result.requeued.most_common()]
    lines += [f"{count:,} kept: {why}" for why, count in result.kept.most_common()]
    return "; ".join(lines)


async def _confirmed(question: str, action: str) -> bool:
    with ui.dialog() as dialog, ui.card():
        ui.label(question).classes("mesh-wrap")
        with ui.row():
            ui.button(action, on_click=lambda: dialog.submit(result=True))
            ui.button("Cancel", on_click=dialog.close).props("flat")
    return bool(await dialog)
