"""The rooms with their values, curves and alerts, as HTML and as changes of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import count, groupby
from typing import NamedTuple
from urllib.parse import quote

from meshtasks.flows.alerts.current import CurrentAlert
from meshtasks.gateway.console import SENSOR
from meshtasks.gateway.console.frame import text
from meshtasks.gateway.console.watch import MeshWatch
from meshtasks.observation.facts import Curve
from meshtasks.observation.latest import LatestValue, SensorKey
from meshtasks.state.sensor_activity import BATTERIES, BATTERY
from meshtasks.text import clip

_WIDTH, _HEIGHT = 240, 36
#: A battery level below this is marked as low, percent.
_LOW_PERCENT = 15.0
#: Labels of alerts whose values name neither a room nor a device.
_OF_RULES = frozenset({"kind", "field", "rule"})
_TITLE_CHARS, _NAME_CHARS = 200, 120
#: Updates values and their times, by the number of their row.
_SCRIPT = """
(() => { for (const [row, [value, at]] of Object.entries(%s)) {
  const element = document.getElementById(`row-${row}`); if (!element) continue
  element.querySelector("time").dataset.at = at
  element.querySelector(".mesh-value").textContent = value
} })()
"""


def _age(at: float) -> str:
    """The age of a moment, epoch seconds, as HTML."""
    try:
        clock = f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # from a wrong clock
        clock = ""
    return f'<time class="mesh-dim mesh-age" data-at="{at:.3f}">{clock}</time>'


class CardRow(NamedTuple):
    """A value in a card.

    Attributes:
        number: number of its row on all pages; unique.
        key: room, kind and sensor.
        value: the latest value.
        is_silent: whether the sensor is silent for longer than usual.
    """

    number: int
    key: SensorKey
    value: LatestValue
    is_silent: bool

    @property
    def shape(self) -> tuple[object, ...]:
        """What the HTML of the row depends on, without the value and its time."""
        if _is_battery(self.key):
            return self
        return self.number, self.is_silent, self.value.unit, self.value.routing_key

    @property
    def shown(self) -> tuple[str, float]:
        """The value as text, and its time in epoch seconds."""
        return f"{self.value.value:.4g}", round(self.value.at, 3)


@dataclass(frozen=True)
class RoomCard:
    """The card of a room.

    Attributes:
        room: name of the room, or of a device without one.
        rows: its values, by kind.
        curves: its curves, by kind.
        alerts: active alerts of the room or of one of its devices.
    """

    room: str
    rows: Sequence[CardRow]
    curves: Mapping[str, Curve]
    alerts: Sequence[CurrentAlert]

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """What the HTML of the card depends on, without values and their times."""
        alerts = [(each.alert.fingerprint, *_said_of(each)) for each in self.alerts]
        curves = [*map(id, self.curves.values())]  # a new read makes new objects
        return tuple(row.shape for row in self.rows), tuple(alerts), tuple(curves)

    @cached_property
    def html(self) -> str:
        """The card as HTML."""
        lines = f"<h2>{text(clip(_spoken(self.room), _NAME_CHARS))}</h2>"
        lines += "".join(map(_alert_row, self.alerts))
        for kind, rows in groupby(self.rows, key=lambda row: row.key.kind):
            lines += "".join(map(_row, rows))
            if curve := self.curves.get(kind):
                lines += _sparkline(curve, kind)
        return lines


@dataclass(frozen=True)
class RoomsNow:
    """The rooms at one moment.

    Attributes:
        number: counts the updates.
        cards: by room.
        values: text and time of all rows, by the number of the row.
        before: the values of the previous update.
    """

    number: int
    cards: Sequence[tuple[str, RoomCard]]
    values: Mapping[int, tuple[str, float]]
    before: Mapping[int, tuple[str, float]]

    def changes(self, *, since: int) -> str:
        """A script that updates a page that has the values of update ``since``."""
        if since == self.number:
            return ""
        return self._latest if since == self.number - 1 else _script(self.values)

    @cached_property
    def _latest(self) -> str:
        return _script(dict(self.values.items() - self.before.items()))


class Rooms:
    """The rooms, computed once for all pages."""

    def __init__(self, watch: MeshWatch) -> None:
        self._watch = watch
        self._numbers: dict[SensorKey, int] = {}
        self._counter = count(1)
        self._last = RoomsNow(0, (), {}, {})

    def look(self) -> RoomsNow:
        """The rooms now."""
        cards = list(self._cards())
        rows = [row for _, card in cards for row in card.rows]
        self._numbers = {row.key: row.number for row in rows}
        values = {row.number: row.shown for row in rows if not _is_battery(row.key)}
        self._last = RoomsNow(self._last.number + 1, cards, values, self._last.values)
        return self._last

    def _cards(self) -> Iterator[tuple[str, RoomCard]]:
        now = time.time()
        curves: dict[str, dict[str, Curve]] = {
            room.name: {curve.kind: curve for curve in room.curves}
            for room in self._watch.rooms
        }
        latest = self._watch.latest.values()
        known = {key[:2] for key in latest}
        for room, of_room in curves.items():
            for kind, curve in of_room.items():
                if (room, kind) not in known:
                    latest[SensorKey(room, kind, "")] = _end_of(curve)
        rows = sorted(
            latest.items(), key=lambda row: (row[0].room, _is_battery(row[0]), row[0])
        )
        rooms = {
            room: list(items) for room, items in groupby(rows, lambda row: row[0].room)
        }
        rooms |= {
            room: [] for room in _rooms_of_alerts(self._watch.today.alerts, latest)
        }
        alerts = _by_name(self._watch.today.alerts)
        for room, items in sorted(rooms.items()):
            own = [
                CardRow(
                    self._numbers.get(key) or next(self._counter),
                    key,
                    value,
                    value.is_silent(now),
                )
                for key, value in items
            ]
            names = dict.fromkeys([room, *(row.key.sensor_id for row in own)])
            found = {
                each.alert.fingerprint: each
                for name in names
                for each in alerts.get(name, ())
            }
            yield room, RoomCard(room, own, curves.get(room, {}), [*found.values()])


def sensor_link(what: str, routing_key: str, sensor_id: str = "") -> str:
    """A link to the page of a sensor, as HTML."""
    chosen = f"?id={quote(sensor_id, safe='')}" if sensor_id else ""
    address = f"{SENSOR}{quote(routing_key, safe='')}{chosen}"
    return f'<a class="mesh-plain" href="{text(address)}">{text(what)}</a>'


def alert_link(what: str, fingerprint: str) -> str:
    """A link to an alert, as HTML."""
    address = f"/alerts?alert={quote(fingerprint, safe='')}"
    return f'<a class="mesh-plain" href="{text(address)}">{text(what)}</a>'


def _script(values: Mapping[int, tuple[str, float]]) -> str:
    return _SCRIPT % json.dumps(values) if values else ""


def _end_of(curve: Curve) -> LatestValue:
    mean = next(mean for mean in reversed(curve.means) if mean is not None)
    return LatestValue(mean, curve.unit, curve.times[-1].timestamp(), "")


def _by_name(alerts: Iterable[CurrentAlert]) -> dict[str, list[CurrentAlert]]:
    """Alerts by the values of their labels."""
    found: dict[str, list[CurrentAlert]] = {}
    for each in alerts:
        for name in _names_in(each):
            found.setdefault(name, []).append(each)
    return found


def _names_in(current: CurrentAlert) -> set[str]:
    """The values of its labels that may name a room or a device."""
    labels = current.alert.own_labels
    return {labels[label] for label in labels.keys() - _OF_RULES}


def _rooms_of_alerts(
    alerts: Iterable[CurrentAlert], latest: Iterable[SensorKey]
) -> set[str]:
    """Locations of alerts that name no room and no sensor with a value."""
    known = {name for key in latest for name in (key.room, key.sensor_id)}
    return {
        each.alert.own_labels["location"]
        for each in alerts
        if "location" in each.alert.own_labels and known.isdisjoint(_names_in(each))
    }


def _said_of(current: CurrentAlert) -> tuple[str, str]:
    """The text of an alert, and its state."""
    alert = current.alert
    return f"{alert.severity} alert: {clip(alert.title, _TITLE_CHARS)}", current.state


def _alert_row(current: CurrentAlert) -> str:
    what, state = _said_of(current)
    said = what if state == "firing" else f"{what} ({state})"
    return f'<div class="mesh-bad">{alert_link(said, current.alert.fingerprint)}</div>'


def _is_battery(key: SensorKey) -> bool:
    return key.kind in BATTERIES


def _row(row: CardRow) -> str:
    key, value = row.key, row.value
    kind = _spoken(BATTERY if _is_battery(key) else key.kind)
    if value.routing_key:
        sensor_id = "" if _is_battery(key) else key.sensor_id
        named = sensor_link(kind, value.routing_key, sensor_id)
    else:
        named = text(kind)
    said = f'<span class="mesh-value">{row.shown[0]}</span> {text(value.unit)}'
    if _is_battery(key):
        said = _battery(value)
    return (
        f'<div class="mesh-row mesh-sensor {"mesh-dim" * row.is_silent}" '
        f'id="row-{row.number}">'
        f'<span>{named} <span class="mesh-dim">{text(_short(key))}</span></span>'
        f"<span>{said} {_age(value.at)}</span></div>"
    )


def _battery(value: LatestValue) -> str:
    """A battery level, or whether it is low, as HTML."""
    if value.unit:
        level, is_low = f"{value.value:.4g} {value.unit}", value.value < _LOW_PERCENT
    else:
        level, is_low = "", bool(value.value)
    said = f"{level} low" if is_low else level or "not low"
    return f'<span class="{"mesh-bad" * is_low}">{text(said.strip())}</span>'


def _sparkline(curve: Curve, kind: str) -> str:
    """A curve of the last 24 hours as SVG, with its gaps."""
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
    """The sensor id without words that the row shows anyway."""
    words = re.split(r"[-_. ]", key.sensor_id)
    beside = {*re.split(r"[-_. ]", key.room), key.kind}
    return clip(" ".join(word for word in words if word not in beside), _NAME_CHARS)


def _spoken(name: str) -> str:
    return name.replace("_", " ")
