"""What is done with dead letters, wherever they are shown: looked at, edited,
replayed, dropped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from nicegui import ui

from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.amqp.replay import Replayed
from meshtasks.errors import MeshError
from meshtasks.gateway.console.cards import Change, staying
from meshtasks.gateway.console.dead_letter_dialog import DeadLetterDialog, confirmed
from meshtasks.gateway.console.frame import Console, text
from meshtasks.observation.dead_letters import WaitingDeadLetter


class DeadLetterActions:
    """A part of a page that shows dead letters; made where its dialogs are to be."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._model = console.dead_letters
        self._place = ui.element("div")
        self._result = ui.html("", sanitize=False).props('role="status"')

    def _line(self, waiting: WaitingDeadLetter) -> Change[WaitingDeadLetter]:
        letter = waiting.letter
        with ui.row().classes("items-center no-wrap w-full"):
            ui.button(
                "Open", on_click=staying(self._place, lambda: self._show(waiting))
            ).props(f'flat dense aria-label="Open {letter.id}"')
            ui.html(
                f"{text(letter.id)} <span class='mesh-dim'>"
                f"{moment_text(letter.failed_at)}</span> "
                f"{text(letter.routing_key)} · {text(letter.reason)}",
                sanitize=False,
            ).classes("mesh-wrap")

        def change(now: WaitingDeadLetter) -> None:
            nonlocal waiting
            waiting = now  # the same letter; its body may be kept no more

        return change

    async def _show(self, waiting: WaitingDeadLetter) -> None:
        """Open one."""
        found: WaitingDeadLetter | None = waiting
        if waiting.delivery is None:
            try:
                found = await self._model.letter(waiting.letter.id)
            except MeshError as error:
                ui.notify(str(error), type="negative")
                return
        if found is None or found.delivery is None:
            ui.notify("It is there no more.")
            return
        dialog = DeadLetterDialog(self._console, found.letter, found.delivery)
        match await dialog.answer():
            case "replay", edited:
                await self._run(Selection(ids=(found.letter.id,)), edited=edited)
            case "drop", _:
                await self._drop(Selection(ids=(found.letter.id,)), 1)
            case _:
                pass

    def _button(self, name: str, action: Callable[[], object]) -> None:
        button = ui.button(name, on_click=staying(self._place, action))
        if not self._console.may_operate():
            button.disable()
            button.tooltip("needs a token with the scope operate")

    async def _replay(self, selection: Selection, *, checked: bool = False) -> None:
        """Show what a replay would do, and do it if that is wanted."""
        try:
            plan = await self._model.plan(selection, checked=checked)
        except MeshError as error:
            ui.notify(str(error), type="negative")
            return
        with ui.dialog() as dialog, ui.card():
            dialog.props('aria-label="What a replay would do"')
            ui.html(outcome(plan, "would be requeued"), sanitize=False)
            rate = ui.number("Messages a second, at most", min=1, max=100_000)
            rate.props("clearable").classes("w-full")
            with ui.row():
                ui.button("Replay", on_click=lambda: dialog.submit(result=True))
                ui.button("Cancel", on_click=dialog.close).props("flat")
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
        try:
            result = await self._model.replay(
                selection, who=viewer.name, checked=checked, rate=rate, edited=edited
            )
        except MeshError as error:
            ui.notify(str(error), type="negative", multi_line=True)
            return
        self._result.set_content(outcome(result, "requeued"))
        ui.notify(
            f"{result.requeued.total():,} requeued",
            type="warning" if result.failed_again or result.kept else "positive",
        )
        await self._changed()

    async def _drop(self, selection: Selection, count: int) -> None:
        question = f"Delete {count:,} dead letters for good?"
        viewer = self._console.operator()
        if viewer is None or not await confirmed(question, "Delete"):
            return
        try:
            dropped = await self._model.drop(selection, who=viewer.name)
        except MeshError as error:
            ui.notify(str(error), type="negative")
            return
        ui.notify(f"{dropped:,} deleted")
        await self._changed()

    async def _changed(self) -> None:
        """Called when dead letters were taken away."""


def outcome(result: Replayed, verb: str) -> str:
    """What a replay did, or would do, as HTML."""
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
    """When a message failed, epoch seconds, as people write it."""
    if at is None:
        return "at an unknown time"
    return f"{datetime.fromtimestamp(at).astimezone():%d %b %H:%M:%S}"
