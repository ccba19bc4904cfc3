"""Exchanges, queues, workers and sinks, as they are now."""

from __future__ import annotations

from nicegui import ui

from meshtasks.config.durations import span_text
from meshtasks.gateway.console.frame import Console, framed, scrolling, text
from meshtasks.gateway.console.house import sentence
from meshtasks.observation.snapshot import QueueState

_REFRESH_SECONDS = 2.0
#: A backlog that shrinks slower than this has no end in sight.
_LEAST_PER_SECOND = 0.05


def add_flow(console: Console) -> None:
    """Serve the page."""

    @ui.page("/flow")
    def flow() -> None:
        with framed(console, "/flow"):
            state = ui.html("", sanitize=False).props('role="status"')
            queues, workers = scrolling("Queues"), scrolling("Workers")

            def refresh() -> None:
                state.set_content(sentence(console))
                queues.set_content(_queues(console))
                workers.set_content(_workers(console))

            refresh()
            ui.timer(_REFRESH_SECONDS, refresh)


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
        f"<td>{_state(console, queue)}"
        "</td></tr>"
        for queue in snapshot.queues
    ) + "".join(
        f"<tr><th scope='row'>retry in {span_text(seconds)}</th>"
        f"<td class='n'>{ready:,}</td><td colspan='5'></td></tr>"
        for seconds, ready in snapshot.retry.items()
    )
    head = "".join(
        f"<th scope='col' class='n'>{name}</th>"
        for name in ("waiting", "in work", "in /s", "out /s", "consumers")
    )
    return (
        "<table class='mesh-table'><caption class='mesh-h2'>Queues</caption>"
        f"<tr><th scope='col'>queue</th>{head}<th scope='col'></th></tr>{rows}</table>"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _state(console: Console, queue: QueueState) -> str:
    """What holds a queue up, or when its backlog will be gone."""
    if any(queue.name in answer.resting for answer in console.watch.answers):
        return "paused: its circuit is open"
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
    return (
        "<table class='mesh-table'><caption class='mesh-h2'>Workers</caption><tr>"
        "<th scope='col'>worker</th><th scope='col'>consumes</th>"
        f"<th scope='col'>open circuits</th></tr>{rows}</table>"
    )
