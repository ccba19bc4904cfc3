"""The first page: the headline, and the values of every room."""

from __future__ import annotations

import time

from nicegui import ui

from meshtasks.gateway.console.frame import (
    Cards,
    Change,
    Console,
    framed,
    html,
    status,
    text,
)
from meshtasks.gateway.console.rooms import RoomCard, Rooms, alert_link, sensor_link
from meshtasks.observation.headline import Line, ledger_sentence

_REFRESH_SECONDS, _BEGINNING_SECONDS = 3.0, 0.1
#: Shows ages in the words of ``span_text``. Changes of the page are observed, so that a
#: new value never stands beside the age of the old one.
_COUNTING = """<script>(() => {
  const ahead = Date.now() / 1000 - %.3f
  const units = [[172800, 86400, "d"], [7200, 3600, "h"], [60, 60, "min"], [1, 1, "s"]]
  const said = seconds => {
    for (const [least, size, unit] of units)
      if (seconds >= least) return `${Math.floor(seconds / size)} ${unit}`
  }
  const count = () => {
    const now = Date.now() / 1000 - ahead
    for (const each of document.querySelectorAll("time[data-at]")) {
      const age = now - each.dataset.at
      const text = age < -5 ? `${said(-age)} ahead`
        : age < 1 ? "just now" : `${said(age)} ago`
      if (each.textContent !== text) {
        each.textContent = text
        each.title = new Date(1000 * each.dataset.at).toLocaleString()
      }
    }
    seen.takeRecords()
  }
  const seen = new MutationObserver(count)
  document.addEventListener("DOMContentLoaded", () => {
    seen.observe(document.body, {subtree: true, childList: true})
    setInterval(count, 1000)
  })
})()</script>"""


def add_house(console: Console) -> None:
    """Add the page."""
    rooms = Rooms(console.watch)

    @ui.page("/")
    def house() -> None:
        with framed(console, "/"):
            _HousePage(console, rooms)


class _HousePage:
    """The page of one viewer."""

    def __init__(self, console: Console, rooms: Rooms) -> None:
        self._console = console
        self._rooms = rooms
        self._seen = 0
        ui.add_head_html(_COUNTING % time.time())
        self._state = status()
        self._counts = html().classes("mesh-dim")
        self._cards = Cards[RoomCard](
            ui.element("div").classes("mesh-grid"), _make, classes="mesh-card"
        )
        self._refresh()
        if console.watch.snapshot is None:
            self._beginning = ui.timer(_BEGINNING_SECONDS, self._begin)
        ui.timer(_REFRESH_SECONDS, self._refresh)

    def _refresh(self) -> None:
        console, shared = self._console, self._console.watch.shared
        self._state.set_content(shared("sentence", lambda: sentence(console)))
        self._counts.set_content(shared("counts", lambda: _counts(console)))
        look = shared("rooms", self._rooms.look)
        self._cards.show(look.cards)
        if self._seen and (script := look.changes(since=self._seen)):
            ui.run_javascript(script)
        self._seen = look.number

    def _begin(self) -> None:
        """Update the page as soon as there is a first snapshot."""
        if self._console.watch.snapshot is not None:
            self._beginning.cancel()
            self._refresh()


def _make(card: RoomCard) -> Change[RoomCard]:
    content = html(card.html)
    whole = content.parent_slot.parent if content.parent_slot else content
    shown, was_alerting = card.shape, False

    def change(card: RoomCard) -> None:
        nonlocal shown, was_alerting
        if card.shape != shown:
            shown = card.shape
            content.set_content(card.html)
        if bool(card.alerts) is not was_alerting:
            was_alerting = bool(card.alerts)
            whole.classes(toggle="mesh-alerting")

    return change


def sentence(console: Console) -> str:
    """The headline as HTML."""
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
    """The ledger of the day and the current rate, as HTML."""
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
