"""Exchanges, queues, workers and sinks, as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nicegui import ui

from meshtasks.amqp.entities import queue_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import span_text
from meshtasks.gateway.console.flow_picture import STYLE, Look, Picture
from meshtasks.gateway.console.frame import Console, framed, scrolling, table, text
from meshtasks.gateway.console.house import sentence
from meshtasks.observation.flow_map import FlowMap, flow_map
from meshtasks.observation.snapshot import QueueState
from meshtasks.observation.workers import WorkerAnswer

_REFRESH_SECONDS = 3.0
#: All of the picture is sent so often, for a browser that missed something.
_WHOLE_EVERY = 10
#: A backlog that shrinks slower than this has no end in sight.
_LEAST_PER_SECOND = 0.05


def add_flow(console: Console) -> None:
    """Serve the page."""

    @ui.page("/flow")
    def flow() -> None:
        with framed(console, "/flow"):
            _FlowPage(console).build()


class _FlowPage:
    """One viewer's look at the flow."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._topology = console.settings.read(TOPOLOGY)
        self._handlers = console.flows.handlers(console.settings)
        self._graph: FlowMap | None = None
        self._picture: Picture | None = None
        self._refreshed = 0

    def build(self) -> None:
        """Fill the page."""
        ui.add_css(STYLE)
        self._state = ui.html("", sanitize=False).props('role="status"')
        self._drawn = scrolling("The flow")
        self._queues, self._workers = scrolling("Queues"), scrolling("Workers")
        self._queues.classes("mesh-wide")  # the list of a narrow window says the same
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
            svg = self._picture.svg(looks, _in_words(graph))
            self._drawn.set_content(svg + self._picture.listing())
            return
        everything = self._refreshed % _WHOLE_EVERY == 0
        if script := self._picture.changes(looks, everything=everything):
            ui.run_javascript(script)


def _in_words(graph: FlowMap) -> str:
    kinds = [node.kind for node in graph.nodes.values()]
    counted = ", ".join(
        f"{kinds.count(kind)} {kind}s"
        for kind in ("exchange", "queue", "worker", "sink")
    )
    return f"The flow of messages: {counted}. The tables below say the same."


def _looks(console: Console, graph: FlowMap) -> dict[str, Look]:
    """What is to be seen of every box."""
    snapshot, answers = console.watch.snapshot, console.watch.answers
    looks: dict[str, Look] = {}
    for queue in snapshot.queues if snapshot else ():
        state = _state(console, queue)
        waiting = f"{queue.ready:,} wait" if queue.ready else "empty"
        if queue.unacked:
            waiting += f", {queue.unacked:,} in work"
        looks[f"queue:{queue.name}"] = Look(
            state if _holds_up(state) else ", ".join(filter(None, (waiting, state))),
            _holds_up(state),
            queue.in_per_second,
            queue.out_per_second,
        )
    for answer in answers:
        paused = f", {len(answer.resting)} paused" if answer.resting else ""
        line = f"{len({*answer.consuming, *answer.resting})} queues{paused}"
        looks[f"worker:{answer.name}"] = Look(line, bool(answer.resting))
    faults = _faults(answers)
    for node in graph.nodes.values():
        if node.kind == "sink":
            fault = faults.get(node.name)
            looks[node.key] = Look(f"open: {fault}" if fault else "closed", bool(fault))
        elif node.kind == "exchange":
            bound = sum(edge.source == node.key for edge in graph.edges)
            looks[node.key] = Look(f"to {bound}" if bound else "nothing is bound")
    return looks


def _faults(answers: Iterable[WorkerAnswer]) -> Mapping[str, str]:
    """Of the sinks whose circuit is open, or tried, somewhere."""
    return {sink: why for answer in answers for sink, why in answer.down.items()}


def _holds_up(state: str) -> bool:
    return state.startswith(("paused", "nobody"))


def _queues(console: Console) -> str:
    snapshot = console.watch.snapshot
    if snapshot is None:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{text(queue.name)}</th>"
        f"<td class='n'>{queue.ready:,}</td>"
        f"<td class='n'>{_number(queue.unacked)}</td>"
        f"<td class='n'>{_number(queue.in_per_second)}</td>"
        f"<td class='n'>{_number(queue.out_per_second)}</td>"
        f"<td class='n'>{queue.consumers}</td>"
        f"<td>{text(_state(console, queue))}"
        "</td></tr>"
        for queue in snapshot.queues
    ) + "".join(
        f"<tr><th scope='row'>retry in {span_text(seconds)}</th>"
        f"<td class='n'>{ready:,}</td><td colspan='5'></td></tr>"
        for seconds, ready in snapshot.retry.items()
    )
    numbers = ("waiting", "in work", "in /s", "out /s", "consumers")
    return table("Queues", ("queue", *numbers, ""), rows, numbers)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _state(console: Console, queue: QueueState) -> str:
    """What holds a queue up, or when its backlog will be gone."""
    for answer in console.watch.answers:
        if queue.name in map(queue_of, answer.resting):
            why = "; ".join(f"{sink}: {fault}" for sink, fault in answer.down.items())
            return f"paused: {why or 'its circuit is open'}"
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
    answers = console.watch.answers
    rows = "".join(
        f"<tr><th scope='row'>{text(answer.name)}</th>"
        f"<td>{text(', '.join(answer.consuming))}</td>"
        "<td class='mesh-bad'>"
        + text("; ".join(f"{sink}: {why}" for sink, why in answer.down.items()))
        + "</td></tr>"
        for answer in answers
    )
    return table("Workers", ("worker", "consumes", "open circuits"), rows)
