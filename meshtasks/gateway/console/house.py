"""The first page: is all well, and what every room is like."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from urllib.parse import quote

from nicegui import ui

from meshtasks.gateway.console import SENSOR
from meshtasks.gateway.console.frame import Console, framed, text
from meshtasks.observation.facts import Curve
from meshtasks.observation.latest import LatestValue, SensorKey
from meshtasks.observation.ledger import ledger_sentence

_REFRESH_SECONDS, _BEGINNING_SECONDS = 2.0, 0.1
#: A sensor that was silent for so long is shown grey.
_STALE_SECONDS = 3 * 3600.0
_WIDTH, _HEIGHT = 240, 36


def add_house(console: Console) -> None:
    """Serve the page."""

    @ui.page("/")
    def house() -> None:
        with framed(console, "/"):
            state = ui.html("", sanitize=False).props('role="status"')
            counts = ui.html("", sanitize=False).classes("mesh-dim")
            grid = ui.element("div").classes("mesh-grid")
            cards: dict[str, ui.html] = {}

            def refresh() -> None:
                state.set_content(sentence(console))
                counts.set_content(_counts(console))
                for room, content in console.watch.shared(
                    "cards", lambda: list(_cards(console))
                ):
                    if room not in cards:
                        with grid:
                            card = ui.html("", sanitize=False).classes("mesh-card")
                        cards[room] = card
                    cards[room].set_content(content)

            def begin() -> None:
                """Show what is there as soon as the mesh was looked at."""
                if console.watch.snapshot is not None:
                    beginning.cancel()
                    refresh()

            refresh()
            if console.watch.snapshot is None:
                beginning = ui.timer(_BEGINNING_SECONDS, begin)
            ui.timer(_REFRESH_SECONDS, refresh)


def sentence(console: Console) -> str:
    """Whether all is well, as HTML."""
    if console.watch.snapshot is None:
        return "Looking at the mesh …"
    lines = console.watch.headline()
    if not lines:
        return '<span class="mesh-good">All is well.</span>'
    items = [
        _linked(line.text, line.sensor) if line.sensor else text(line.text)
        for line in lines
    ]
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="mesh-bad q-pl-md q-my-none">{listed}</ul>'


def _linked(what: str, routing_key: str, sensor_id: str = "") -> str:
    """A link to the page of a sensor, as HTML."""
    chosen = f"?id={quote(sensor_id)}" if sensor_id else ""
    address = f"{SENSOR}{quote(routing_key)}{chosen}"
    return f'<a class="mesh-plain" href="{text(address)}">{text(what)}</a>'


def _counts(console: Console) -> str:
    """The ledger of the day, and how much comes now."""
    snapshot = console.watch.snapshot
    if snapshot is None:
        return ""
    rate = sum(
        queue.in_per_second or 0.0
        for queue in snapshot.queues
        if queue.name != snapshot.dead_letter_queue
    )
    ledger = console.watch.today.ledger(snapshot)
    return (
        f'<span class="mesh-badge">{ledger_sentence(ledger)}</span> '
        f"{rate:,.1f} a second now · {snapshot.dead_letters:,} dead letters"
    )


def _cards(console: Console) -> Iterator[tuple[str, str]]:
    """Each room's card as HTML."""
    now = time.time()
    curves = {
        (room.name, curve.kind): curve
        for room in console.watch.rooms
        for curve in room.curves
    }
    latest = console.watch.latest.values()
    for (room, kind), curve in curves.items():
        if not any(key[:2] == (room, kind) for key in latest):
            value = next(v for v in reversed(curve.means) if v is not None)
            at = curve.times[-1].timestamp()
            key = SensorKey(room, kind, "")
            latest[key] = LatestValue(value, curve.unit, at, "")
    rows = sorted(latest.items())
    for room, of_room in groupby(rows, key=lambda row: row[0].room):
        lines = ""
        for kind, of_kind in groupby(of_room, key=lambda row: row[0].kind):
            lines += "".join(_row(key, value, now) for key, value in of_kind)
            if known := curves.get((room, kind)):
                lines += _sparkline(known, kind)
        yield room, f"<h2>{text(_spoken(room))}</h2>{lines}"


def _row(key: SensorKey, value: LatestValue, now: float) -> str:
    stale = "mesh-dim" if now - value.at > _STALE_SECONDS else ""
    clock = f"{datetime.fromtimestamp(value.at).astimezone():%H:%M:%S}"
    sensor = f" {text(_short(key))}"
    kind = _spoken(key.kind)
    if value.routing_key:
        named = _linked(kind, value.routing_key, key.sensor_id)
    else:
        named = text(kind)
    return (
        f'<div class="mesh-row {stale}"><span>{named}'
        f'<span class="mesh-dim">{sensor}</span></span>'
        f'<span><span class="mesh-value">{value.value:.4g}</span> {text(value.unit)} '
        f'<span class="mesh-dim">{clock}</span></span></div>'
    )


def _sparkline(curve: Curve, kind: str) -> str:
    """The last 24 hours; gaps stay gaps."""
    known = [mean for mean in curve.means if mean is not None]
    low, high = min(known), max(known)
    start, end = curve.times[0].timestamp(), curve.times[-1].timestamp()
    points: list[str] = []
    pen = "M"
    for moment, mean in zip(curve.times, curve.means, strict=True):
        if mean is None:
            pen = "M"
            continue
        x = _WIDTH * (moment.timestamp() - start) / ((end - start) or 1)
        y = 2 + (_HEIGHT - 4) * (1 - (mean - low) / ((high - low) or 1))
        points.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    label = f"{_spoken(kind)}, the last 24 hours: {low:.4g} to {high:.4g} {curve.unit}"
    return (
        f'<svg class="mesh-line" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'preserveAspectRatio="none" aria-label="{text(label)}">'
        f'<path d="{" ".join(points)}" fill="none" stroke="currentColor" '
        'stroke-width="1.5" vector-effect="non-scaling-stroke"/></svg>'
    )


def _short(key: SensorKey) -> str:
    """The sensor, less what stands beside it."""
    words = re.split(r"[-_. ]", key.sensor_id)
    beside = {*re.split(r"[-_. ]", key.room), key.kind}
    return " ".join(word for word in words if word not in beside)


def _spoken(name: str) -> str:
    return name.replace("_", " ")
