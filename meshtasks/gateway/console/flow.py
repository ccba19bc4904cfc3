"""The page of exchanges, queues, workers and sinks as they are now. The picture is
drawn when the graph changes; after that only texts and classes are updated."""

from __future__ import annotations

from typing import get_args

from nicegui import ui

from meshtasks.amqp.entities import queue_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import span_text
from meshtasks.gateway.console.flow_picture import STYLE, Look, Picture
from meshtasks.gateway.console.frame import (
    Console,
    bad,
    framed,
    scrolling,
    status,
    table,
    text,
)
from meshtasks.gateway.console.house import sentence
from meshtasks.observation.collect import QueueState
from meshtasks.observation.flow_map import FlowMap, Kind, flow_map

_REFRESH_SECONDS = 3.0
#: Every tenth update sends the whole picture, for browsers that missed an update.
_WHOLE_EVERY = 10
#: If a backlog shrinks by less, messages per second, no time is estimated for it.
_LEAST_PER_SECOND = 0.05


def add_flow(console: Console) -> None:
    """Add the page."""

    @ui.page("/flow")
    def flow() -> None:
        with framed(console, "/flow"):
            _FlowPage(console)


class _FlowPage:
    """The page of one viewer."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._topology = console.settings.read(TOPOLOGY)
        self._handlers = console.flows.handlers(console.settings)
        self._graph: FlowMap | None = None
        self._picture: Picture | None = None
        self._refreshed = 0
        ui.add_css(STYLE)
        self._state = status()
        self._drawn = scrolling("The flow")
        self._queues, self._workers = scrolling("Queues"), scrolling("Workers")
        self._queues.classes("mesh-wide")  # a narrow window has the list instead
        self._refresh()
        ui.timer(_REFRESH_SECONDS, self._refresh)

    def _refresh(self) -> None:
        console = self._console
        self._refreshed += 1
        shared = console.watch.shared
        self._state.set_content(shared("sentence", lambda: sentence(console)))
        self._queues.set_content(shared("queues", lambda: _queues(console)))
        self._workers.set_content(shared("workers", lambda: _workers(console)))
        graph = flow_map(self._topology, self._handlers, console.watch.answers)
        looks = _looks(console, graph)
        if self._picture is None or graph != self._graph:
            self._graph, self._picture = graph, Picture(graph)
            kinds = [node.kind for node in graph.nodes.values()]
            counts = (f"{kinds.count(kind)} {kind}s" for kind in get_args(Kind))
            counted = ", ".join(counts)
            words = f"The flow of messages: {counted}. The tables below say the same."
            svg = self._picture.svg(looks, words)
            self._drawn.set_content(svg + self._picture.listing())
            return
        everything = self._refreshed % _WHOLE_EVERY == 0
        if script := self._picture.changes(looks, everything=everything):
            ui.run_javascript(script)


def _looks(console: Console, graph: FlowMap) -> dict[str, Look]:
    """What each box shows, by its key."""
    snapshot, answers = console.watch.snapshot, console.watch.answers
    looks: dict[str, Look] = {}
    for queue in snapshot.queues if snapshot else ():
        state = _state(console, queue)
        waiting = f"{queue.ready:,} wait" if queue.ready else "empty"
        if queue.unacked:
            waiting += f", {queue.unacked:,} in work"
        is_held_up = state.startswith(("paused", "nobody"))
        looks[f"queue:{queue.name}"] = Look(
            state if is_held_up else ", ".join(filter(None, (waiting, state))),
            is_held_up,
            queue.in_per_second,
            queue.out_per_second,
        )
    for answer in answers:
        paused = f", {len(answer.resting)} paused" if answer.resting else ""
        line = f"{len({*answer.consuming, *answer.resting})} queues{paused}"
        looks[f"worker:{answer.name}"] = Look(line, bool(answer.resting))
    faults = {sink: why for answer in answers for sink, why in answer.down.items()}
    for node in graph.nodes.values():
        if node.kind == "sink":
            fault = faults.get(node.name)
            looks[node.key] = Look(f"open: {fault}" if fault else "closed", bool(fault))
        elif node.kind == "exchange":
            bound = sum(edge.source == node.key for edge in graph.edges)
            looks[node.key] = Look(f"to {bound}" if bound else "nothing is bound")
    return looks


def _queues(console: Console) -> str:
    snapshot = console.watch.snapshot
    if snapshot is None:
        return ""
    rows = [
        (
            text(queue.name),
            f"{queue.ready:,}",
            _number(queue.unacked),
            _number(queue.in_per_second),
            _number(queue.out_per_second),
            str(queue.consumers),
            text(_state(console, queue)),
        )
        for queue in snapshot.queues
    ]
    rows += [
        (f"retry in {span_text(seconds)}", f"{ready:,}", "", "", "", "", "")
        for seconds, ready in snapshot.retry.items()
    ]
    numbers = ("waiting", "in work", "in /s", "out /s", "consumers")
    return table("Queues", ("queue", *numbers, ""), rows, numbers)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _state(console: Console, queue: QueueState) -> str:
    """Why a queue is not consumed, or when its backlog will be gone; may be empty."""
    for answer in console.watch.answers:
        if queue.name in map(queue_of, answer.resting):
            return f"paused: {answer.faults or 'its circuit is open'}"
    snapshot = console.watch.snapshot
    if snapshot and snapshot.is_waiting(queue):
        return "nobody consumes it"
    if not queue.consumers:
        return ""
    shrinks = (queue.out_per_second or 0.0) - (queue.in_per_second or 0.0)
    if queue.ready < 2 * max(queue.out_per_second or 0.0, 1.0):
        return ""
    if shrinks < _LEAST_PER_SECOND:
        return "does not shrink"
    return f"empty in {span_text(round(queue.ready / shrinks))}"


def _workers(console: Console) -> str:
    rows = [
        (text(answer.name), text(", ".join(answer.consuming)), bad(answer.faults))
        for answer in console.watch.answers
    ]
    return table("Workers", ("worker", "consumes", "open circuits"), rows)
