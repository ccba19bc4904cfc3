"""``meshtasks status``: the state of a running mesh, live or once."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from meshtasks.amqp.connecting import connected, unopened
from meshtasks.amqp.peek import QueueBusy
from meshtasks.cli.terminal import ManagementUrl, say
from meshtasks.config.settings import Settings, load_settings
from meshtasks.demo.render import draw
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.collect import (
    Collector,
    Snapshot,
    WorkerAnswer,
    WorkerPoll,
    ask_workers,
    attention,
)
from meshtasks.observation.dead_letters import waiting_dead_letters

_REDRAW_SECONDS = 1.0
#: Most dead letters that are read; `meshtasks dlq list` reads all.
_LETTERS = 10_000
_GROUPS = 5
_ONCE_SIZE = ConsoleDimensions(160, 100)


def status(
    *,
    once: Annotated[
        bool,
        typer.Option("--once", help="Show the state once, and end with an exit code."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the state once, as JSON.")
    ] = False,
    management_url: ManagementUrl = None,
) -> None:
    """Show queues, retries, dead letters, circuits, alerts and workers.

    No message is removed from a queue. On a terminal, the view is updated until Ctrl-C,
    and shows the dead letters, alerts and workers observed since its start. With --once
    or --json, or without a terminal, it shows the dead letters in the queue, counted by
    reason.

    Exit codes with --once and --json: 0 everything works; 1 something needs attention:
    a circuit is open, a queue has messages and no consumer, or a service does not
    answer; 69 the broker cannot be reached; 78 bad configuration.
    """
    settings = load_settings()
    console = Console()
    with connected(settings.env.amqp_url):
        pass  # an unavailable broker sets the exit code, and opens no live view
    with Collector(settings, management_url=management_url) as collector:
        if once or as_json or not console.is_terminal:
            _once(settings, collector, as_json=as_json)
        else:
            _live(settings, collector, console)


def _once(settings: Settings, collector: Collector, *, as_json: bool) -> None:
    url = settings.env.amqp_url
    answers = ask_workers(url)
    snapshot = collector.snapshot()
    dead = _dead_letters(settings, snapshot)
    wanting = attention(snapshot, answers)
    if as_json:
        document = {
            **{key: value for key, value in asdict(snapshot).items() if key != "seen"},
            "workers": [answer._asdict() for answer in answers],
            "dead_letters": dead,
            "attention": wanting,
        }
        say(json.dumps(document, indent=2))
    else:
        footer = [("dead letters", line) for line in _dead_lines(snapshot, dead)]
        footer += [("alerts", line) for line in _alert_lines(settings)]
        footer += [("workers", line) for line in _worker_lines(answers)]
        picture = draw(
            snapshot,
            title=_title(settings),
            verdict=wanting,
            watched=False,
            footer=footer,
            terminal=_ONCE_SIZE,
        )
        Console(width=_ONCE_SIZE.width, highlight=False).print(picture)
    if wanting:
        raise typer.Exit(1)


def _live(settings: Settings, collector: Collector, console: Console) -> None:
    with (
        WorkerPoll(settings.env.amqp_url) as poll,
        Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        try:
            while True:
                width, height = console.size
                snapshot = collector.snapshot()
                picture = draw(
                    snapshot,
                    title=f"{_title(settings)}   Ctrl-C ends it",
                    verdict=attention(snapshot, poll.answers),
                    terminal=ConsoleDimensions(width, height - 1),
                )
                live.update(picture, refresh=True)
                time.sleep(_REDRAW_SECONDS)
        except KeyboardInterrupt:
            return


def _dead_letters(settings: Settings, snapshot: Snapshot) -> list[dict[str, Any]]:
    """The largest groups of dead letters in the queue."""
    name = snapshot.dead_letter_queue
    if not snapshot.dead_letters:
        return []
    try:
        waiting = waiting_dead_letters(settings.env.amqp_url, name, most=_LETTERS)
    except (QueueBusy, ConfigError):
        return []  # another client holds them, so they cannot be counted now
    return [
        {
            "count": group.count,
            "queue": group.example.queue,
            "error_type": group.example.kind,
            "reason": group.example.reason,
        }
        for group in waiting.groups[:_GROUPS]
    ]


def _dead_lines(snapshot: Snapshot, groups: list[dict[str, Any]]) -> list[str]:
    """Lines with the number of dead letters, and the largest groups."""
    waiting = snapshot.dead_letters
    return [f"{waiting:,} wait (meshtasks dlq list)"] * bool(waiting) + [
        f"{group['count']:,} in {group['queue'] or 'no queue'}: "
        f"{group['error_type']}: {group['reason']}"
        for group in groups
    ]


def _alert_lines(settings: Settings) -> list[str]:
    """Lines about active alerts in the state; none if there is no state."""
    with closing(Sinks(settings)) as sinks:
        if not sinks[ALERT_STATE].exists():
            return []
        try:
            with sinks[ALERT_STATE].tables() as tables:
                firing = tables.firing()
        except Transient as error:
            return [f"not known: {error}"]
    counts = Counter(alert.severity for alert in firing)
    by_severity = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return [f"{by_severity} (meshtasks alerts list)" if firing else "none"]


def _worker_lines(answers: list[WorkerAnswer]) -> list[str]:
    return [
        f"{answer.name}  consumes {', '.join(answer.consuming) or 'nothing'}"
        for answer in answers
    ] or ["no worker answers"]


def _title(settings: Settings) -> str:
    broker = unopened(settings.env.amqp_url)
    hosts = ", ".join(dict.fromkeys(node.host for node in broker.nodes))
    return f"meshtasks status   {hosts}   {broker.virtual_host}"
