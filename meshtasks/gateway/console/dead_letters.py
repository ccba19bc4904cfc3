"""The page of dead letters, grouped by cause, with their actions and their export."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from http import HTTPStatus
from itertools import chain
from urllib.parse import urlencode

from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from nicegui import ui

from meshtasks.amqp.dead_letter_groups import Cause, Selection
from meshtasks.errors import MeshError
from meshtasks.gateway.console import EXPORT
from meshtasks.gateway.console.dead_letter_actions import DeadLetterActions, moment_text
from meshtasks.gateway.console.frame import (
    Cards,
    Change,
    Console,
    bad,
    framed,
    html,
    status,
    text,
)
from meshtasks.observation.dead_letters import (
    DeadLettersOfCause,
    WaitingDeadLetter,
    WaitingDeadLetters,
)
from meshtasks.text import printable

#: Causes that are shown, largest first.
_CAUSES = 100
_REFRESH_SECONDS = 0.5
#: Many dead letters are read when the page is opened, unless they were read recently.
#: A few are also read again when their number changes, at this interval at most.
_FRESH_SECONDS, _FEW, _FEW_SECONDS = 60.0, 500, 5.0


def add_dead_letters(console: Console) -> None:
    """Add the page and the export."""

    @ui.page("/dead-letters")
    def letters() -> None:
        with framed(console, "/dead-letters"):
            _DeadLettersPage(console)

    @console.routes.get(EXPORT)
    def export(kind: str = "", reason: str = "", letter: str = "") -> Response:
        """Dead letters as JSON lines: of a cause, one by its id, or all."""
        lines = console.dead_letters.lines(
            Selection(
                ids=(letter,) if letter else (),
                cause=Cause(kind, reason) if kind else None,
            )
        )
        try:
            first = next(lines)
        except MeshError as error:
            return PlainTextResponse(str(error), HTTPStatus.SERVICE_UNAVAILABLE)

        name = f"dead-letters-{datetime.now().astimezone():%Y-%m-%d-%H%M%S}.jsonl"
        return StreamingResponse(
            chain([first], lines),
            media_type="application/jsonl",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


class _DeadLettersPage(DeadLetterActions):
    """The page of one viewer."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._taken_at = 0.0
        self._opened_at = time.time()
        with ui.row().classes("items-center"):
            self._state = status()
            ui.button("Look again", icon="refresh", on_click=self._model.look).props(
                "flat"
            )
        with ui.row().classes("items-center") as self._going_on:
            self._bar = ui.linear_progress(0, show_value=False).props(
                'aria-label="Progress"'
            )
            self._bar.classes("mesh-progress")
            self._button("Stop", self._stop)
        with ui.row():
            self._button(
                "Replay what would succeed now",
                partial(self._replay, Selection(), checked=True),
            )
            _link("Export all", {})
        self._cards = Cards[DeadLettersOfCause](
            ui.element("div").classes("w-full column gap-2"), self._make
        )
        ui.timer(0.05, self._open, once=True)
        ui.timer(_REFRESH_SECONDS, self._refresh)

    async def _open(self) -> None:
        waiting = self._model.waiting
        if (
            waiting is None
            or self._comes_anew(waiting)
            or time.time() > waiting.taken_at + _FRESH_SECONDS
        ):
            await self._model.look()

    def _comes_anew(self, waiting: WaitingDeadLetters) -> bool:
        """Whether the dead letters were read before the page was opened and are so few
        that it is better to wait for the next read."""
        return waiting.total <= _FEW and waiting.taken_at < self._opened_at

    async def _refresh(self) -> None:
        model, waiting = self._model, self._model.waiting
        self._going_on.set_visibility(model.job is not None)
        if model.job is not None:
            self._state.set_content(text(model.job))
            self._bar.set_value(model.job.done / (model.job.total or 1))
        elif model.fault:
            self._state.set_content(bad(model.fault))
        elif waiting is not None:
            self._state.set_content(self._summary(waiting))
        if waiting is None or self._comes_anew(waiting):
            return
        if waiting.taken_at != self._taken_at:
            self._taken_at = waiting.taken_at
            self._cards.show(
                (cause.found.cause, cause) for cause in waiting.causes[:_CAUSES]
            )
        elif model.job is None and self._may_look_again(waiting):
            await model.look()

    def _summary(self, waiting: WaitingDeadLetters) -> str:
        clock = f"{datetime.fromtimestamp(waiting.taken_at).astimezone():%H:%M:%S}"
        now = self._now()
        changed = f"; there are {now:,} now" if now != waiting.total else ""
        more = len(waiting.causes) - _CAUSES
        return (
            f"{waiting.total:,} dead letters of {len(waiting.causes):,} causes, at "
            f"{clock}{changed}" + f" (the {_CAUSES} largest are shown)" * (more > 0)
        )

    def _now(self) -> int:
        """The current number of dead letters, from the latest snapshot."""
        snapshot, waiting = self._console.watch.snapshot, self._model.waiting
        if snapshot is None or (waiting and snapshot.taken_at < waiting.taken_at):
            return waiting.total if waiting else 0
        return snapshot.dead_letters

    def _may_look_again(self, waiting: WaitingDeadLetters) -> bool:
        return (
            self._now() != waiting.total
            and max(self._now(), waiting.total) <= _FEW
            and time.time() > waiting.taken_at + _FEW_SECONDS
        )

    def _make(self, cause: DeadLettersOfCause) -> Change[DeadLettersOfCause]:
        """Fill a card. Its content is created when it is opened, because there may be
        thousands of elements."""
        shown = cause
        expansion = ui.expansion(" ").classes("w-full")
        with expansion:
            inside = ui.element("div").classes("w-full column gap-2")
        show: Change[DeadLettersOfCause] | None = None

        def fill() -> None:
            nonlocal show
            if expansion.value and show is None:
                with inside:
                    show = self._fill(shown)
            if show is not None:
                show(shown)

        def change(cause: DeadLettersOfCause) -> None:
            nonlocal shown
            shown = cause
            again = f", {cause.found.replayed:,} replayed before"
            queues = ", ".join(
                group.example.queue or "no queue" for group in cause.found.groups[:4]
            )
            expansion.set_text(
                printable(
                    f"{cause.found.count:,} in {queues}: {cause.found.cause.kind}"
                    + again * bool(cause.found.replayed)
                )
            )
            expansion.props["caption"] = printable(cause.found.example.reason)
            fill()

        expansion.on_value_change(fill)
        return change

    def _fill(self, cause: DeadLettersOfCause) -> Change[DeadLettersOfCause]:
        """Show the actions and examples of a cause. Return the function that updates
        them."""
        count = cause.found.count
        all_of_it = Selection(cause=cause.found.cause)
        with ui.row():
            self._button("Replay all", partial(self._replay, all_of_it))
            self._button(
                "Replay those that would succeed",
                partial(self._replay, all_of_it, checked=True),
            )
            self._button("Drop all", lambda: self._drop(all_of_it, count))
            _link("Export", cause.found.cause._asdict())
        queues = html()
        lines = Cards[WaitingDeadLetter](
            ui.element("div").classes("w-full column"), self._line, classes="w-full"
        )
        rest = ui.label().classes("mesh-dim")

        def change(cause: DeadLettersOfCause) -> None:
            nonlocal count
            count = cause.found.count
            items = "".join(
                f"<li>{group.count:,} in {text(group.example.queue or 'no queue')}, "
                f"{moment_text(group.first_failed_at)} to "
                f"{moment_text(group.last_failed_at)}</li>"
                for group in cause.found.groups
            )
            queues.set_content(f"<ul class='q-pl-md q-my-none'>{items}</ul>")
            lines.show((waiting.letter.id, waiting) for waiting in cause.examples)
            more = count - len(cause.examples)
            rest.set_text(f"and {more:,} more" * (more > 0))

        return change

    def _stop(self) -> None:
        if self._console.may_operate():
            self._model.stop()


def _link(name: str, selection: dict[str, str]) -> None:
    address = f"{EXPORT}?{urlencode(selection)}" if selection else EXPORT
    ui.link(name, address).classes("mesh-link").props("download")
