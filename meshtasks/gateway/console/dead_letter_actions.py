"""The actions on dead letters for every page that shows them: open, edit, replay,
drop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nicegui import ui
from pydantic_core import from_json

from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.amqp.dead_letters import DeadLetter, history_of, requeue_targets
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.replay import Replayed
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.gateway.console.frame import (
    Change,
    Console,
    html,
    moment,
    notified,
    question,
    status,
    staying,
    text,
)
from meshtasks.gateway.console.trying import as_stored
from meshtasks.observation.dead_letters import WaitingDeadLetter
from meshtasks.text import clip

#: A larger body is shown in part, and edited with the command, because the browser
#: sends the typed text in one piece.
_EDITABLE_BYTES, _SHOWN_CHARS = 128 * 1024, 4_000
#: Typed text is checked after a pause of this many milliseconds.
_PAUSE_MS = 250
#: First bytes of compressed bodies.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


class DeadLetterActions:
    """A part of a page that shows dead letters. Its dialogs belong to the element in
    which it is created."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._model = console.dead_letters
        self._place = ui.element("div")
        self._result = status()

    def _line(self, waiting: WaitingDeadLetter) -> Change[WaitingDeadLetter]:
        letter = waiting.letter
        with ui.row().classes("items-center no-wrap w-full"):
            ui.button(
                "Open", on_click=staying(self._place, lambda: self._show(waiting))
            ).props(f'flat dense aria-label="Open {letter.id}"')
            html(
                f"{text(letter.id)} <span class='mesh-dim'>"
                f"{moment_text(letter.failed_at)}</span> "
                f"{text(letter.routing_key)} · {text(letter.reason)}"
            ).classes("mesh-wrap")

        def change(now: WaitingDeadLetter) -> None:
            nonlocal waiting
            waiting = now  # the same dead letter; its body may no longer be kept

        return change

    async def _show(self, waiting: WaitingDeadLetter) -> None:
        this = Selection(ids=(waiting.letter.id,))
        delivery = waiting.delivery
        with notified():
            if delivery is None:  # it was too large to be kept
                found = await self._model.some(this, 1)
                delivery = found[0].delivery if found else None
            if delivery is None:
                ui.notify("It is there no more.")
                return
            dialog = DeadLetterDialog(self._console, waiting.letter, delivery)
            match await dialog.answer():
                case "replay", edited:
                    await self._run(this, edited=edited)
                case "drop", _:
                    await self._drop(this, 1)
                case _:
                    pass

    def _button(self, name: str, action: Callable[[], object]) -> None:
        self._console.button(name, staying(self._place, action))

    async def _replay(self, selection: Selection, *, checked: bool = False) -> None:
        """Show what a replay would do, and replay if the viewer confirms."""
        plan = None
        with notified():
            plan = await self._model.plan(selection, checked=checked)
        if plan is None:
            return
        with question("What a replay would do", "Replay") as dialog:
            html(outcome(plan, "would be requeued"))
            rate = ui.number("Messages a second, at most", min=1, max=100_000)
            rate.props("clearable").classes("w-full")
        if await dialog:
            wanted = max(1.0, float(rate.value)) if rate.value else None
            await self._run(selection, checked=checked, rate=wanted)

    async def _run(
        self,
        selection: Selection,
        *,
        checked: bool = False,
        rate: float | None = None,
        edited: dict[str, bytes] | None = None,
    ) -> None:
        viewer = self._console.operator()
        if viewer is None:
            return
        with notified():
            result = await self._model.replay(
                selection, who=viewer.name, checked=checked, rate=rate, edited=edited
            )
            self._result.set_content(outcome(result, "requeued"))
            ui.notify(
                f"{result.requeued.total():,} requeued",
                type="warning" if result.failed_again or result.kept else "positive",
            )
            await self._changed()

    async def _drop(self, selection: Selection, count: int) -> None:
        viewer = self._console.operator()
        if viewer is None:
            return
        with question("A question", "Delete") as dialog:
            ui.label(f"Delete {count:,} dead letters for good?").classes("mesh-wrap")
        if not await dialog:
            return
        with notified():
            dropped = await self._model.drop(selection, who=viewer.name)
            ui.notify(f"{dropped:,} deleted")
            await self._changed()

    async def _changed(self) -> None:
        """Called after dead letters were removed; subclasses update the page."""


def outcome(result: Replayed, verb: str) -> str:
    """The result of a replay, or of its plan, as HTML."""
    lines = [f"{count:,} to {name}" for name, count in result.requeued.most_common()]
    lines += [f"{count:,} kept: {why}" for why, count in result.kept.most_common()]
    items = "".join(f"<li>{text(line)}</li>" for line in lines) + "".join(
        f"<li class='mesh-bad'>{count:,} failed again: {text(why)}</li>"
        for why, count in result.failed_again.most_common(10)
    )
    return (
        f"{result.requeued.total():,} of {result.looked_at:,} {verb}"
        f"<ul class='q-pl-md q-my-none mesh-wrap'>{items}</ul>"
    )


def moment_text(at: float | None) -> str:
    """The time of a failure, epoch seconds, as text."""
    return "at an unknown time" if at is None else moment(at)


class DeadLetterDialog:
    """The dialog of one dead letter."""

    def __init__(
        self, console: Console, letter: DeadLetter, delivery: Delivery
    ) -> None:
        self._console = console
        self._letter = letter
        self._delivery = delivery
        self._before = delivery.body.decode(errors="backslashreplace")
        self._judged = self._before
        with ui.dialog() as dialog, ui.card().classes("w-full"):
            dialog.props('aria-label="A dead letter"')
            self._dialog = dialog
            html(self._head())
            self._editor = self._add_body()
            self._fate = status()
            ui.timer(0.01, self._judge, once=True)
            with ui.row():
                console.button("Replay", self._replay)
                console.button("Drop", lambda: dialog.submit(("drop", None)))
                ui.button("Close", on_click=dialog.close).props("flat")

    async def answer(self) -> tuple[str, dict[str, bytes] | None] | None:
        """Show the dialog and return the viewer's choice: ``replay`` with edited bodies
        by id, or ``drop``; None if it was closed."""
        result: tuple[str, dict[str, bytes] | None] | None = await self._dialog
        return result

    def _add_body(self) -> ui.textarea | None:
        """Add the body, and return the field to edit it; None if it is too large."""
        size_bytes = len(self._delivery.body)
        if size_bytes > _EDITABLE_BYTES:
            html(
                f"<p>{size_bytes:,} bytes; edit it with <code>meshtasks dlq replay "
                f"{text(self._letter.id)} --edit</code>. It begins with</p>"
                f"<pre class='mesh-wrap'>{text(self._before[:_SHOWN_CHARS])}</pre>"
            ).classes("mesh-scroll")
            return None
        editor = ui.textarea("Body", value=self._before).classes("w-full")
        editor.props(f"outlined autogrow debounce={_PAUSE_MS}")
        editor.on_value_change(self._judge)
        return editor

    def _typed(self) -> str:
        return self._editor.value or "" if self._editor else self._before

    async def _judge(self) -> None:
        """Show what would happen to the typed body."""
        self._judged = typed = self._typed()
        verdict = await asyncio.to_thread(self._verdict, typed)
        if typed == self._judged:  # else the next check is running
            self._fate.set_content(verdict)

    def _replay(self) -> None:
        edited = None
        typed = self._typed()
        if typed != self._before:
            try:
                from_json(typed, allow_inf_nan=False)
            except ValueError as error:
                ui.notify(f"not JSON: {error}", type="negative")
                return
            edited = {self._letter.id: typed.encode()}
        self._dialog.submit(("replay", edited))

    def _head(self) -> str:
        letter, body = self._letter, self._delivery.body
        packed = next(
            (name for start, name in _COMPRESSED.items() if body.startswith(start)), ""
        )
        note = (
            f"<p>The body is compressed ({packed}); messages of the mesh are plain.</p>"
            if packed
            else ""
        )
        history = "".join(
            f"<li>{text(entry.get('kind'))}: {text(entry.get('reason'))}</li>"
            for entry in history_of(self._delivery)
        )
        before = (
            f"<p>Before its replays it died of</p><ul>{history}</ul>" if history else ""
        )
        reason = clip(f"{letter.kind}: {letter.reason}", _SHOWN_CHARS)
        return (
            f"<h2 class='mesh-h2'>{text(letter.routing_key)}</h2>"
            f"<p class='mesh-bad mesh-wrap'>{text(reason)}</p>"
            f"{note}{before * bool(history)}"
        )

    def _verdict(self, typed: str) -> str:
        letter = self._letter
        edited = None if typed == self._before else typed.encode()
        faults = self._console.context.validator.verdicts.of_replay(
            self._delivery, letter, edited
        )
        if faults:
            lines = "".join(
                f"<li>{text(clip(fault, _SHOWN_CHARS))}</li>" for fault in faults
            )
            return (
                "<div class='mesh-bad'>This would be a dead letter:"
                f"<ul>{lines}</ul></div>"
            )
        topology = self._console.settings.read(TOPOLOGY)
        queues = requeue_targets(letter, topology)
        body = self._delivery.body if edited is None else edited
        return as_stored(self._console, letter.routing_key, body, queues)
