"""The first page: is all well, and what every room is like."""

from __future__ import annotations

from nicegui import ui

from meshtasks.gateway.console.ages import count_ages
from meshtasks.gateway.console.cards import Cards, Change
from meshtasks.gateway.console.frame import Console, framed, text
from meshtasks.gateway.console.rooms import RoomCard, Rooms, alert_link, sensor_link
from meshtasks.observation.headline import Line
from meshtasks.observation.today import ledger_sentence

_REFRESH_SECONDS, _BEGINNING_SECONDS = 3.0, 0.1


def add_house(console: Console) -> None:
    """Serve the page."""
    rooms = Rooms(console.watch)

    @ui.page("/")
    def house() -> None:
        with framed(console, "/"):
            count_ages()
            state = ui.html("", sanitize=False).props('role="status"')
            counts = ui.html("", sanitize=False).classes("mesh-dim")
            cards = Cards[RoomCard](
                ui.element("div").classes("mesh-grid"), _make, classes="mesh-card"
            )

            seen = 0

            def refresh() -> None:
                nonlocal seen
                shared = console.watch.shared
                state.set_content(shared("sentence", lambda: sentence(console)))
                counts.set_content(shared("counts", lambda: _counts(console)))
                look = shared("rooms", rooms.look)
                cards.show(look.cards)
                if seen and (script := look.changes(since=seen)):
                    ui.run_javascript(script)
                seen = look.number

            def begin() -> None:
                """Show what is there as soon as the mesh was looked at."""
                if console.watch.snapshot is not None:
                    beginning.cancel()
                    refresh()

            refresh()
            if console.watch.snapshot is None:
                beginning = ui.timer(_BEGINNING_SECONDS, begin)
            ui.timer(_REFRESH_SECONDS, refresh)


def _make(card: RoomCard) -> Change[RoomCard]:
    content = ui.html(card.html, sanitize=False)
    whole = content.parent_slot.parent if content.parent_slot else content
    shown, was_alerting = card.shape, False

    def change(card: RoomCard) -> None:
        nonlocal shown, was_alerting
        if card.shape != shown:
            shown = card.shape
            content.set_content(card.html)
        if card.is_alerting is not was_alerting:
            was_alerting = card.is_alerting
            whole.classes(toggle="mesh-alerting")

    return change


def sentence(console: Console) -> str:
    """Whether all is well, as HTML."""
    if console.watch.snapshot is None:
        return "Looking at the mesh …"
    lines = console.watch.headline()
    if not lines:
        return '<span class="mesh-good">All is well.</span>'
    listed = "".join(f"<li>{_line(line)}</li>" for line in lines)
    return f'<ul class="mesh-bad q-pl-md q-my-none">{listed}</ul>'


def _line(line: Line) -> str:
    if line.alert:
        return alert_link(line.text, line.alert)
    return sensor_link(line.text, line.sensor) if line.sensor else text(line.text)


def _counts(console: Console) -> str:
    """The ledger of the day, and how much comes now."""
    snapshot = console.watch.snapshot
    if snapshot is None:
        return ""
    ledger = console.watch.today.ledger(snapshot)
    if not snapshot.queues:
        return (
            f'<span class="mesh-badge">today {ledger.stored:,} stored + '
            f"{ledger.dead:,} dead; what waits is not known now</span>"
        )
    rate = sum(
        queue.in_per_second or 0.0
        for queue in snapshot.queues
        if queue.name != snapshot.dead_letter_queue
    )
    return (
        f'<span class="mesh-badge">{ledger_sentence(ledger)}</span> '
        f"{rate:,.1f} a second now · {snapshot.dead_letters:,} dead letters"
    )
