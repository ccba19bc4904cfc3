"""Output of the demo: the live view of the mesh, and the summary after the run."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.table import Table

from meshtasks.demo import loopback
from meshtasks.demo.reconciliation import (
    ALERT_QUEUES,
    ALERTS,
    REQUESTS,
    RESULTS,
    QueueCount,
    Reconciliation,
    Row,
    published_so_far,
)
from meshtasks.demo.render import draw, line, size
from meshtasks.demo.stack import Stack
from meshtasks.observation.collect import Collector
from meshtasks.text import clip

_REDRAW_SECONDS = 0.5
#: Interval of lines without a terminal.
_LINE_SECONDS = 5.0


class Screen:
    """Shows the mesh: redrawn in place on a terminal, else as a line at intervals.

    Args:
        for_seconds: length of the run; None for no limit.
    """

    def __init__(
        self,
        console: Console,
        stack: Stack,
        collector: Collector,
        for_seconds: float | None,
    ) -> None:
        self._console = console
        self._stack = stack
        self._collector = collector
        self._for_seconds = for_seconds

    def print_hints(self) -> None:
        """Print how to publish a reading; as unwrapped lines, to be copied."""
        stack = self._stack
        broker = stack.rabbitmq
        by_amqp = (
            f". {shown_path(stack.env_file)}; {_program()} publish "
            "sensors sensors.temperature.balcony '{\"value\": 21.5}'"
        )
        by_http = (
            f"curl {stack.gateway_url}/v1/events/sensors/sensors.temperature.balcony "
            f"-H 'Authorization: Bearer {stack.gateway_token}' -d '{{\"value\": 21.5}}'"
        )
        by_mqtt = (
            f"mosquitto_pub -h {loopback.HOST} -p {broker.ports.mqtt} "
            f"-u {broker.user} -P {broker.password} "
            "-t sensors/temperature/balcony -m 21.5"
        )
        self._console.print("\nLook at the house:")
        address = self._stack.console_address
        self._console.print(f"  {address}", markup=False, soft_wrap=True)
        self._console.print("\nPublish a reading of your own, in another terminal:")
        for command in (by_amqp, by_mqtt, by_http):
            self._console.print(f"  {command}", markup=False, soft_wrap=True)
        self._console.print()

    def show_while(self, goes_on: Callable[[], bool]) -> None:
        """Show the mesh as long as ``goes_on`` returns true."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._redraw_while(goes_on)
        else:
            self._print_lines_while(goes_on)

    def _redraw_while(self, goes_on: Callable[[], bool]) -> None:
        began = time.monotonic()
        footer = self._footer()
        with Live(
            console=self._console, auto_refresh=False, vertical_overflow="crop"
        ) as live:
            while goes_on():
                width, height = self._console.size
                picture = draw(
                    self._collector.snapshot(),
                    title=self._title(time.monotonic() - began),
                    published=self._published(),
                    footer=footer,
                    terminal=ConsoleDimensions(width, height - 1),
                )
                live.update(picture, refresh=True)
                time.sleep(_REDRAW_SECONDS)

    def _print_lines_while(self, goes_on: Callable[[], bool]) -> None:
        began = next_at = time.monotonic()
        while goes_on():
            if (now := time.monotonic()) >= next_at:
                next_at = now + _LINE_SECONDS
                totals = line(self._collector.snapshot(), self._published())
                text = f"{_clock(now - began)}  {totals}"
                self._console.print(text, markup=False, soft_wrap=True)
            time.sleep(_REDRAW_SECONDS)

    def _published(self) -> str:
        balance = published_so_far(self._stack.stats_file)
        return f"published {balance.messages:,} messages"

    def _title(self, seconds: float) -> str:
        if self._for_seconds is None:
            return f"meshtasks demo   {_clock(seconds)}   Ctrl-C stops it"
        return f"meshtasks demo   {_clock(seconds)} of {_clock(self._for_seconds)}"

    def _footer(self) -> list[tuple[str, str]]:
        stack = self._stack
        broker = stack.rabbitmq
        flower = f"{stack.flower_user} / {stack.flower_password}"
        account = f"{broker.user} / {broker.password}"
        # Debian builds VictoriaMetrics without its web pages.
        page = f". {shown_path(stack.env_file)}; {_program()} report"
        return [
            ("house", stack.console_address),
            ("readings", f"{page}   draws the rooms"),
            ("Flower", f"{stack.flower_url}   {flower}"),
            ("RabbitMQ", f"{broker.management_url}   {account}"),
            ("gateway", f"{stack.gateway_url}/docs   {stack.gateway_token}"),
            ("phone, n8n", f"{stack.receiver.url}   stands in for both"),
        ]


def shown_path(path: Path) -> str:
    """Return the path as the user can type it in the current directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _program() -> str:
    """Return the command as the user can type it in the current directory."""
    installed = Path(sys.executable).with_name("meshtasks")
    found = shutil.which("meshtasks")
    if found and Path(found).resolve() == installed.resolve():
        return "meshtasks"
    return shown_path(installed)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


#: Longest reason in the summary, so that its line fits a terminal.
_REASON_CHARS = 50
_CALLED = frozenset(
    {"sensors.motion", "home.events.state_changes", "home.events.automations"}
)
_ARCHIVE = frozenset({"archive.events", "archive.metrics"})


def print_summary(
    balance: Reconciliation,
    console: Console,
    dead_letter_queue: str,
    no_triton: str | None,
) -> None:
    """Print the summary: counts of queues and records, details, and differences.

    Args:
        no_triton: why Triton did not run; None if it ran.
    """
    console.print()
    console.print(_queues(balance, dead_letter_queue, no_triton))
    console.print()
    console.print(_records(balance))
    console.print()
    for label, text in _details(balance):
        console.print(f"{label:<13} {text}", markup=False, soft_wrap=True)
    console.print()
    faults = balance.faults()
    for fault in faults:
        console.print(f"[bold red]✗[/] {fault}", soft_wrap=True)
    if not faults:
        total = balance.total()
        console.print(
            f"[bold green]✓[/] It balances: {total.published:,} records published = "
            f"{total.stored:,} stored + {total.dead:,} dead-lettered; every message "
            f"of all {len(balance.flows) + 1} queues is accounted for.",
            soft_wrap=True,
        )


def _queues(
    balance: Reconciliation, dead_letter_queue: str, no_triton: str | None
) -> Table:
    """Return the table of queues: what came in, and where it went."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), header_style="bright_black", pad_edge=False
    )
    table.add_column("queue (messages)", no_wrap=True)
    for head in ("in", "done", "dead"):
        table.add_column(head, justify="right")
    table.add_column("where the records went")
    for flow in balance.flows:
        where = _where(flow, balance)
        if flow.queue == REQUESTS and no_triton:
            where = "nobody asks: no Triton here"
        if flow.left:
            where = f"[bold red]{flow.left:,} messages left;[/] {where}"
        numbers = (flow.came_in, flow.done, flow.dead)
        wrong = flow.left or flow.difference
        cells = (f"{number:,}" for number in numbers)
        table.add_row(flow.queue, *cells, where, style="bold red" if wrong else "")
    dead_letters = balance.seen.dead_letters + balance.seen.repeated_dead_letters
    kept = f"{balance.dead_in_queue:,}"
    where = "kept: meshtasks dlq list"
    table.add_row(dead_letter_queue, f"{dead_letters:,}", "0", kept, where)
    return table


def _where(flow: QueueCount, balance: Reconciliation) -> str:
    """Return where the records of a queue went, according to their stores."""
    queue, archived = flow.queue, balance.archived
    if queue in _ARCHIVE:
        objects = archived.objects.get(queue, 0)
        noun = "object" if objects == 1 else "objects"
        size_bytes = size(archived.size_bytes.get(queue, 0))
        return (
            f"{archived.by_queue.get(queue, 0):,} in {objects:,} {noun}, {size_bytes}"
        )
    if queue == REQUESTS:
        return f"{balance.seen.answers:,} answered, {balance.seen.refusals:,} refused"
    if queue == ALERT_QUEUES[0]:
        return f"{archived.critical:,} critical ones taken in"
    if queue == ALERT_QUEUES[1]:
        return f"{balance.alert_counts.taken_in - archived.critical:,} others taken in"
    count = balance.points.by_kind.get(queue, 0)
    stored = f"{count:,} points"
    if queue in _CALLED:
        stored = f"{balance.calls.get(queue, 0):,} calls*"
    return f"{stored}, {archived.by_kind.get(queue, 0):,} archived"


def _records(balance: Reconciliation) -> Table:
    """Return the table of kinds of records: what was published and stored."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    table.add_column("records")
    for head in ("published", "good", "bad", "stored", "dead", "difference"):
        table.add_column(head, justify="right")
    for row in balance.rows():
        _add(table, row)
    _add(table, balance.total(), "bold")
    return table


def _add(table: Table, row: Row, style: str = "") -> None:
    numbers = (row.published, row.good, row.bad, row.stored, row.dead, row.difference)
    cells = (f"{number:,}" for number in numbers)
    name = row.kind or "(no queue)"
    table.add_row(name, *cells, style="bold red" if row.is_wrong else style)


def _details(balance: Reconciliation) -> Iterator[tuple[str, str]]:
    published, seen = balance.published, balance.seen
    yield "messages", f"{published.messages:,} published and confirmed"
    label = "dead letters"
    for name, count in sorted(seen.dead_by_type.items(), key=lambda item: -item[1]):
        example = clip(seen.reasons[name], _REASON_CHARS)
        yield label, f"{count:>5,} {name}, e.g. {example}"
        label = ""
    simulated = published.good_records_by_kind.get(ALERTS, 0)
    counts = balance.alert_counts
    sent = f"{counts.sent:,} notifications sent, {balance.notifications:,} on"
    origins = f"{simulated:,} of devices, {seen.alerts_of_rules:,} of rules"
    yield "alerts", f"{origins}; {sent} the phone*"
    camera = published.good_records_by_kind.get(RESULTS, 0)
    answered = seen.answers + seen.refusals
    yield "results", f"{camera:,} of a camera's own model, {answered:,} of Triton"
    repeats = {
        "messages published twice": published.resent_messages,
        "messages retried": sum(seen.retried.values()),
        "points written twice": balance.points.repeated,
        "dead letters twice": seen.repeated_dead_letters,
        "records archived twice": balance.archived.repeated,
    }
    found = ", ".join(f"{count:,} {what}" for what, count in repeats.items() if count)
    yield "duplicates", found or "none"
    yield "*", "n8n and the phone: both are stood in for by a part of the demo"
