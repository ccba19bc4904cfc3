"""The page of a sensor: its curve with causes of its gaps, its messages, its rules."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from glob import escape
from typing import NamedTuple
from urllib.parse import quote

from nicegui import ui
from typing_extensions import override

from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.errors import MeshError
from meshtasks.flows.timeseries_queries import Point, read_curve
from meshtasks.gateway.console import SENSOR
from meshtasks.gateway.console.alerts import SilenceDialog
from meshtasks.gateway.console.dead_letter_actions import DeadLetterActions
from meshtasks.gateway.console.frame import (
    Cards,
    Console,
    bad,
    framed,
    html,
    notified,
    status,
    text,
)
from meshtasks.gateway.console.watch import MeshWatch
from meshtasks.observation.causes import causes
from meshtasks.observation.dead_letters import WaitingDeadLetter
from meshtasks.observation.latest import RawMessage
from meshtasks.observation.sensor_facts import (
    Cause,
    Facts,
    Live,
    Window,
    clock,
    labels_of,
)
from meshtasks.observation.why import Answer, Why
from meshtasks.records.kinds import KINDS
from meshtasks.rules.config import RULES, Rule
from meshtasks.text import clip

#: Annotations of a curve at most: there may be thousands of gaps.
_MOST = 40
_REFRESH_SECONDS = 10.0
_SOON_SECONDS = 0.2
#: Time ranges of the curve, hours.
_RANGES = {"1 h": 1, "6 h": 6, "24 h": 24, "7 d": 168, "30 d": 720}
_SHORTEST, _USUAL, _LONGEST = 0.1, 24.0, 720.0
_WIDTH, _HEIGHT = 1000, 240
_MARGIN = 10
_MESSAGE_CHARS = 500


class Annotation(NamedTuple):
    """A part of the curve with its causes.

    Attributes:
        window: the part.
        is_hole: whether it is a gap: it has no readings.
        causes: the most relevant first.
    """

    window: Window
    is_hole: bool
    causes: tuple[Cause, ...]


class SensorView(NamedTuple):
    """The contents of the page.

    Attributes:
        key: routing key and id; None if the sensor is unknown.
        answer: the causes now.
        points: points of the curve, in order of time.
        fault: why there is no curve; empty if there is one.
        annotations: the latest first.
        rules: the rules that watch the sensor.
        labels: the labels that its alerts have.
    """

    key: tuple[str, str] | None
    answer: Answer
    points: Sequence[Point] = ()
    fault: str = ""
    annotations: Sequence[Annotation] = ()
    rules: tuple[Rule, ...] = ()
    labels: Mapping[str, str] = {}


def _view(
    console: Console, name: str, sensor_id: str, begins_at: float, now: float
) -> SensorView:
    """Find the contents of the page.

    Args:
        console: the shared objects.
        name: a name as in ``meshtasks why``.
        sensor_id: selects one of several sensors of this name; may be empty.
        begins_at: begin of the curve, epoch seconds.
        now: end of the curve, epoch seconds.

    Raises:
        MeshError: the state cannot be read.
    """
    settings, live = console.settings, _live(console.watch)
    why = Why(settings, console.flows, now=now)
    keys = why.matching(name)
    if not keys:
        return SensorView(None, why.of_unknown(name, live))
    key = next((each for each in keys if each[1] == sensor_id), keys[0])
    answer = why.answer(key, name, None, live)
    facts = answer.facts
    points: Sequence[Point] = ()
    fault = "There are no readings of it that the time-series store would have."
    quantities = settings.read(KINDS).quantities
    if facts.sensor and (quantity := quantities.get(facts.sensor.kind)):
        fault = ""
        try:
            points = read_curve(settings.env, quantity, key[1], begins_at, now)
        except MeshError as error:
            fault = f"The curve cannot be read: {error}"
    return SensorView(
        key,
        answer,
        points,
        fault,
        _annotations(facts, begins_at),
        settings.read(RULES).matching(*key),
        labels_of(key, facts.sensor),
    )


def _live(watch: MeshWatch) -> Live | None:
    """The broker and the workers as the watch last saw them; None before that."""
    snapshot = watch.snapshot
    if snapshot is None:
        return None
    if not snapshot.queues:
        return Live(None, (), "; ".join(snapshot.faults).rstrip("."))
    depths = {each.name: (each.ready, each.consumers) for each in snapshot.queues}
    return Live(depths, watch.answers)


def _annotations(facts: Facts, begins_at: float) -> list[Annotation]:
    """The gaps and the other causes since ``begins_at``; the latest first."""
    holes = [
        Window(gap.begins_at, gap.ends_at)
        for gap in facts.gaps
        if gap.ends_at >= begins_at
    ]
    if silence := facts.silence:
        holes.append(silence)
    found = [
        Annotation(hole, True, tuple(causes(facts, hole, is_hole=True)))  # noqa: FBT003 - a field
        for hole in holes[-_MOST:]
    ]
    said = {cause.sentence for each in found for cause in each.causes}
    whole = Window(begins_at, None)
    found += [
        Annotation(Window(cause.begins_at, cause.ends_at), False, (cause,))  # noqa: FBT003 - a field
        for cause in causes(facts, whole, is_hole=False)
        if cause.sentence not in said
    ]
    return sorted(found, key=lambda each: -each.window.begins_at)[:_MOST]


def add_sensor(console: Console) -> None:
    """Add the page."""

    @ui.page(SENSOR + "{key:path}")
    def sensor(key: str, id: str = "", hours: float = _USUAL) -> None:  # noqa: A002 - its name in the address
        title = f"{key}{f' ({id})' if id else ''}"
        with framed(console, "/", clip(title, 120)):
            span = hours if _SHORTEST <= hours <= _LONGEST else _USUAL
            _SensorPage(console, key, id, span)


class _SensorPage:
    """The page of one viewer."""

    def __init__(
        self, console: Console, key: str, sensor_id: str, hours: float
    ) -> None:
        self._console = console
        self._key = key
        self._id = sensor_id
        self._hours = hours
        self._labels: Mapping[str, str] = {}
        self._answer = status("Looking …")
        with ui.row().props('role="group" aria-label="Span of the curve"'):
            for name, span in _RANGES.items():
                button = ui.button(name, on_click=partial(self._show, span))
                button.props("flat dense")
        self._curve = html().classes("w-full")
        self._holes = html().classes("w-full")
        self._rules = html().classes("w-full")
        self._messages = html().classes("w-full")
        with ui.row():
            console.button(
                "Silence its alerts",
                lambda: SilenceDialog(console, self._labels, self._look),
            )
        _DeadLetters(console, key, sensor_id)
        ui.timer(_SOON_SECONDS, self._look, once=True)
        ui.timer(_REFRESH_SECONDS, self._look)

    async def _show(self, hours: float) -> None:
        self._hours = hours
        await self._look()

    async def _look(self) -> None:
        now = time.time()
        begins_at = now - self._hours * 3600
        try:
            view: SensorView = await asyncio.to_thread(
                _view, self._console, self._key, self._id, begins_at, now
            )
        except MeshError as error:
            self._answer.set_content(bad(error))
            return
        self._labels = view.labels
        self._answer.set_content(_answer(view))
        self._curve.set_content(_curve(view, begins_at, now))
        self._holes.set_content(_holes(view.annotations, now))
        self._rules.set_content(_rules(view))
        routing_key = view.key[0] if view.key else self._key
        self._messages.set_content(
            _messages(self._console.watch.latest.raw(routing_key), now)
        )


class _DeadLetters(DeadLetterActions):
    """The dead letters of a sensor. They are read on request, because others cannot
    peek the queue meanwhile."""

    def __init__(self, console: Console, key: str, sensor_id: str) -> None:
        html("<h2 class='mesh-h2'>Its dead letters</h2>")
        super().__init__(console)
        self._own = Selection(routing_key=key, sensor=escape(sensor_id))
        with ui.row():
            self._button("Look for its dead letters", self._look)
            replay = partial(self._replay, self._own, checked=True)
            self._button("Replay those that would succeed", replay)
        self._found = status()
        self._lines = Cards[WaitingDeadLetter](
            ui.element("div").classes("w-full column"), self._line, classes="w-full"
        )

    async def _look(self) -> None:
        with notified():
            found = await self._model.some(self._own)
            self._found.set_content(
                f"{len(found):,} found." if found else "None waits."
            )
            self._lines.show((waiting.letter.id, waiting) for waiting in found)

    @override
    async def _changed(self) -> None:
        await self._look()


def _answer(view: SensorView) -> str:
    answer = view.answer
    lines = [f"<p class='q-mb-xs'>{text(answer.headline)}</p>"]
    for cause in answer.causes[:1]:
        lines.append(f"<p class='mesh-bad mesh-wrap'>{text(cause.sentence)}</p>")
        if cause.next_step:
            lines.append(f"<p class='mesh-wrap'>{text(cause.next_step)}</p>")
    if answer.also and view.key is None:
        names = ", ".join(
            f'<a href="{SENSOR}{quote(name, safe="")}">{text(name)}</a>'
            for name in answer.also
        )
        lines.append(f"<p>Did you mean {names}?</p>")
    return "".join(lines)


class _Scale(NamedTuple):
    """Converts times and values to positions in the picture."""

    begins: float
    ends: float
    low: float
    high: float

    def x(self, at: float) -> float:
        share = (at - self.begins) / ((self.ends - self.begins) or 1)
        return _WIDTH * min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return _MARGIN + (_HEIGHT - 2 * _MARGIN) * (1 - share)


def _curve(view: SensorView, begins: float, ends: float) -> str:
    """The curve as SVG, with gaps and shaded annotations."""
    values = [point.value for point in view.points]
    unit = view.answer.sensor.unit if view.answer.sensor else ""
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = _Scale(begins, ends, low, high)
    shades = []
    for number, (window, is_hole, found) in enumerate(view.annotations, 1):
        left = scale.x(window.begins_at)
        width = max(scale.x(window.ends_at or ends) - left, 3.0)
        why = found[0].sentence if found else "a gap"
        shades.append(
            f'<rect class="{"hole" if is_hole else ""}" x="{left:.1f}" y="0" '
            f'width="{width:.1f}" height="{_HEIGHT}"><title>{number}: {text(why)}'
            "</title></rect>"
        )
    said = (
        f"The curve: {low:.4g} to {high:.4g} {unit}, "
        f"{len(view.annotations)} annotations below"
        if values
        else "There are no readings in this span."
    )
    known = "" if values or not view.fault else f"<p>{text(view.fault)}</p>"
    begin, end = (
        f"{datetime.fromtimestamp(at).astimezone():%d %b %H:%M}"
        for at in (begins, ends)
    )
    return (
        f'{known}<svg class="mesh-curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'preserveAspectRatio="none" aria-label="{text(said)}">{"".join(shades)}'
        f'<path d="{_path(view, scale)}" fill="none" stroke="currentColor" '
        'stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
        f"<div class='mesh-row mesh-dim'><span>{begin}</span><span>"
        + (f"{low:.4g} to {high:.4g} {text(unit)}" if values else text(said))
        + f"</span><span>{end}</span></div>"
    )


def _path(view: SensorView, scale: _Scale) -> str:
    holes = [each.window for each in view.annotations if each.is_hole]
    parts: list[str] = []
    before: float | None = None
    for at, value in view.points:
        cut = before is None or any(
            before <= hole.begins_at + 1 and at >= (hole.ends_at or scale.ends) - 1
            for hole in holes
        )
        pen = "M" if cut else "L"
        parts.append(f"{pen}{scale.x(at):.1f} {scale.y(value):.1f}")
        if cut:  # so that a single point is visible
            parts.append("h0.01")
        before = at
    return " ".join(parts)


def _holes(annotations: Iterable[Annotation], now: float) -> str:
    items = []
    for number, (window, is_hole, found) in enumerate(annotations, 1):
        end = "now" if window.ends_at is None else clock(window.ends_at, now)
        what = "a gap" if is_hole else found[0].cause
        said = "".join(
            f"<div class='mesh-wrap'>{text(cause.sentence)} "
            f"<span class='mesh-dim'>{text(cause.next_step)}</span></div>"
            for cause in found
        )
        items.append(
            f"<li value='{number}'><b>{text(clock(window.begins_at, now))} to "
            f"{text(end)}: {text(what)}</b>{said}</li>"
        )
    if not items:
        return "<p>No gap, and nothing was wrong in this span.</p>"
    return f"<h2 class='mesh-h2'>Why</h2><ol>{''.join(items)}</ol>"


def _rules(view: SensorView) -> str:
    if not view.rules:
        return "<h2 class='mesh-h2'>Rules</h2><p>No rule watches it.</p>"
    items = "".join(
        f"<li>{text(rule.name)} <span class='mesh-dim'>{text(rule.severity)}</span>"
        "</li>"
        for rule in view.rules
    )
    return f"<h2 class='mesh-h2'>Rules that watch it</h2><ul>{items}</ul>"


def _messages(messages: list[RawMessage], now: float) -> str:
    bodies = [each.body.decode(errors="backslashreplace") for each in messages]
    items = "".join(
        f"<li><span class='mesh-dim'>{text(clock(each.at, now))}</span> "
        f"<code class='mesh-wrap'>{text(clip(body, _MESSAGE_CHARS))}</code></li>"
        for each, body in zip(messages, bodies, strict=True)
    )
    said = f"<ul>{items}</ul>" if items else "<p>None since a page is open.</p>"
    return f"<h2 class='mesh-h2'>Its last messages</h2>{said}"
