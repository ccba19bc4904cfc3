"""The first page: is all well, and what every room is like."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote

from nicegui import ui

from meshtasks.flows.alerts.current import CurrentAlert
from meshtasks.gateway.console import SENSOR
from meshtasks.gateway.console.ages import age, count_ages
from meshtasks.gateway.console.cards import Cards, Change
from meshtasks.gateway.console.frame import Console, framed, text
from meshtasks.observation.facts import Curve
from meshtasks.observation.headline import Line
from meshtasks.observation.latest import LatestValue, SensorKey
from meshtasks.observation.today import ledger_sentence
from meshtasks.state.sensor_activity import BATTERIES, BATTERY
from meshtasks.text import clip

_REFRESH_SECONDS, _BEGINNING_SECONDS = 2.0, 0.1
_WIDTH, _HEIGHT = 240, 36
#: A battery below is marked, percent.
_LOW_PERCENT = 15.0
#: Labels of alerts that name no room and no device.
_OF_RULES = frozenset({"kind", "field", "rule"})


class Card(NamedTuple):
    """A card as HTML.

    Attributes:
        content: of it.
        is_alerting: an alert of its room or of one of its devices goes on.
    """

    content: str
    is_alerting: bool


def add_house(console: Console) -> None:
    """Serve the page."""

    @ui.page("/")
    def house() -> None:
        with framed(console, "/"):
            count_ages()
            state = ui.html("", sanitize=False).props('role="status"')
            counts = ui.html("", sanitize=False).classes("mesh-dim")
            cards = Cards[Card](
                ui.element("div").classes("mesh-grid"), _make, classes="mesh-card"
            )

            def refresh() -> None:
                shared = console.watch.shared
                state.set_content(shared("sentence", lambda: sentence(console)))
                counts.set_content(shared("counts", lambda: _counts(console)))
                cards.show(shared("cards", lambda: list(_cards(console))))

            def begin() -> None:
                """Show what is there as soon as the mesh was looked at."""
                if console.watch.snapshot is not None:
                    beginning.cancel()
                    refresh()

            refresh()
            if console.watch.snapshot is None:
                beginning = ui.timer(_BEGINNING_SECONDS, begin)
            ui.timer(_REFRESH_SECONDS, refresh)


def _make(card: Card) -> Change[Card]:
    content = ui.html(card.content, sanitize=False)
    whole = content.parent_slot.parent if content.parent_slot else content
    was_alerting = False

    def change(card: Card) -> None:
        nonlocal was_alerting
        content.set_content(card.content)
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
        return _alert_link(line.text, line.alert)
    return _linked(line.text, line.sensor) if line.sensor else text(line.text)


def _linked(what: str, routing_key: str, sensor_id: str = "") -> str:
    """A link to the page of a sensor, as HTML."""
    chosen = f"?id={quote(sensor_id, safe='')}" if sensor_id else ""
    address = f"{SENSOR}{quote(routing_key, safe='')}{chosen}"
    return f'<a class="mesh-plain" href="{text(address)}">{text(what)}</a>'


def _alert_link(what: str, fingerprint: str) -> str:
    """A link to an alert, as HTML."""
    address = f"/alerts?alert={quote(fingerprint, safe='')}"
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


def _cards(console: Console) -> Iterator[tuple[str, Card]]:
    """The card of each room, or of a device without one."""
    now = time.time()
    curves = {
        (room.name, curve.kind): curve
        for room in console.watch.rooms
        for curve in room.curves
    }
    latest = console.watch.latest.values()
    for room, kind in curves.keys() - {key[:2] for key in latest}:
        curve = curves[room, kind]
        mean = next(mean for mean in reversed(curve.means) if mean is not None)
        at = curve.times[-1].timestamp()
        latest[SensorKey(room, kind, "")] = LatestValue(mean, curve.unit, at, "")
    rows = sorted(
        latest.items(), key=lambda row: (row[0].room, _is_battery(row[0]), row[0])
    )
    alerts = _by_name(console.watch.today.alerts)
    for room, of_room in groupby(rows, key=lambda row: row[0].room):
        lines, names = "", {room: None}
        for kind, of_kind in groupby(of_room, key=lambda row: row[0].kind):
            for key, value in of_kind:
                names[key.sensor_id] = None
                lines += _row(key, value, is_silent=value.is_silent(now))
            if known := curves.get((room, kind)):
                lines += _sparkline(known, kind)
        own = {
            each.alert.fingerprint: each
            for name in names
            for each in alerts.get(name, ())
        }
        said = "".join(map(_alert_row, own.values()))
        yield room, Card(f"<h2>{text(_spoken(room))}</h2>{said}{lines}", bool(own))


def _by_name(alerts: Iterable[CurrentAlert]) -> dict[str, list[CurrentAlert]]:
    """Alerts by what their labels name."""
    found: dict[str, list[CurrentAlert]] = {}
    for each in alerts:
        labels = each.alert.own_labels
        for name in {labels[label] for label in labels.keys() - _OF_RULES}:
            found.setdefault(name, []).append(each)
    return found


def _alert_row(current: CurrentAlert) -> str:
    alert = current.alert
    what = f"{alert.severity} alert: {clip(alert.title, 200)}"
    state = "" if current.state == "firing" else f" ({current.state})"
    return f'<div class="mesh-bad">{_alert_link(what + state, alert.fingerprint)}</div>'


def _is_battery(key: SensorKey) -> bool:
    return key.kind in BATTERIES


@lru_cache(maxsize=10_000)
def _row(key: SensorKey, value: LatestValue, *, is_silent: bool) -> str:
    sensor = f" {text(_short(key))}"
    kind = _spoken(BATTERY if _is_battery(key) else key.kind)
    if value.routing_key:
        sensor_id = "" if _is_battery(key) else key.sensor_id
        named = _linked(kind, value.routing_key, sensor_id)
    else:
        named = text(kind)
    said = _battery(value) if _is_battery(key) else _measured(value)
    return (
        f'<div class="mesh-row {"mesh-dim" * is_silent}"><span>{named}'
        f'<span class="mesh-dim">{sensor}</span></span>'
        f"<span>{said} {age(value.at)}</span></div>"
    )


def _measured(value: LatestValue) -> str:
    return f'<span class="mesh-value">{value.value:.4g}</span> {text(value.unit)}'


def _battery(value: LatestValue) -> str:
    """A level, or whether it is low."""
    if value.unit:
        level, is_low = f"{value.value:.4g} {value.unit}", value.value < _LOW_PERCENT
    else:
        level, is_low = "", bool(value.value)
    said = f"{level} low" if is_low else level or "not low"
    return f'<span class="{"mesh-bad" * is_low}">{text(said.strip())}</span>'


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
