"""Prints the books of a demo."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from meshtasks.demo.books import (
    ALERT_QUEUES,
    ALERTS,
    REQUESTS,
    RESULTS,
    Books,
    Row,
)
from meshtasks.demo.flows import Flow
from meshtasks.demo.view.render import size
from meshtasks.text import clip

#: So that a line of the summary fits a terminal.
_REASON_CHARS = 50
_CALLED = frozenset(
    {"sensors.motion", "home.events.state_changes", "home.events.automations"}
)
_ARCHIVE = frozenset({"archive.events", "archive.metrics"})


def print_summary(
    books: Books, console: Console, dead_letter_queue: str, no_triton: str | None
) -> None:
    """The tables, what came of the records besides, and whether it balances.

    Args:
        books: what to print.
        console: where to.
        dead_letter_queue: its name.
        no_triton: why there was none; None if there was.
    """
    console.print()
    console.print(_queues(books, dead_letter_queue, no_triton))
    console.print()
    console.print(_records(books))
    console.print()
    for label, text in _details(books):
        console.print(f"{label:<13} {text}", markup=False, soft_wrap=True)
    console.print()
    faults = books.faults()
    for fault in faults:
        console.print(f"[bold red]✗[/] {fault}", soft_wrap=True)
    if not faults:
        total = books.total()
        console.print(
            f"[bold green]✓[/] It balances: {total.published:,} records published = "
            f"{total.stored:,} stored + {total.dead:,} dead-lettered; every message "
            f"of all {len(books.flows) + 1} queues is accounted for.",
            soft_wrap=True,
        )


def _queues(books: Books, dead_letter_queue: str, no_triton: str | None) -> Table:
    """Every queue of the mesh: what came in, and where it went."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), header_style="bright_black", pad_edge=False
    )
    table.add_column("queue (messages)", no_wrap=True)
    for head in ("in", "done", "dead"):
        table.add_column(head, justify="right")
    table.add_column("where the records went")
    for flow in books.flows:
        where = _where(flow, books)
        if flow.queue == REQUESTS and no_triton:
            where = "nobody asks: no Triton here"
        if flow.left:
            where = f"[bold red]{flow.left:,} messages left;[/] {where}"
        numbers = (flow.came_in, flow.done, flow.dead)
        wrong = flow.left or flow.difference
        cells = (f"{number:,}" for number in numbers)
        table.add_row(flow.queue, *cells, where, style="bold red" if wrong else "")
    letters = books.seen.dead_letters + books.seen.repeated_dead_letters
    kept = f"{books.dead_in_queue:,}"
    where = "kept: meshtasks dlq list"
    table.add_row(dead_letter_queue, f"{letters:,}", "0", kept, where)
    return table


def _where(flow: Flow, books: Books) -> str:
    """Where the records of a queue went, as those have it who took them."""
    queue, archived = flow.queue, books.archived
    if queue in _ARCHIVE:
        objects = archived.objects.get(queue, 0)
        noun = "object" if objects == 1 else "objects"
        size_bytes = size(archived.size_bytes.get(queue, 0))
        return (
            f"{archived.by_queue.get(queue, 0):,} in {objects:,} {noun}, {size_bytes}"
        )
    if queue == REQUESTS:
        return f"{books.seen.answers:,} answered, {books.seen.refusals:,} refused"
    if queue == ALERT_QUEUES[0]:
        return f"{archived.critical:,} critical ones taken in"
    if queue == ALERT_QUEUES[1]:
        return f"{books.alert_book.taken_in - archived.critical:,} others taken in"
    count = books.points.by_kind.get(queue, 0)
    stored = f"{count:,} points"
    if queue in _CALLED:
        stored = f"{books.calls.get(queue, 0):,} calls*"
    return f"{stored}, {archived.by_kind.get(queue, 0):,} archived"


def _records(books: Books) -> Table:
    """Every kind of record: what was published, and what the stores have of it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
    table.add_column("records")
    for head in ("published", "good", "bad", "stored", "dead", "difference"):
        table.add_column(head, justify="right")
    for row in books.rows():
        _add(table, row)
    _add(table, books.total(), "bold")
    return table


def _add(table: Table, row: Row, style: str = "") -> None:
    numbers = (row.published, row.good, row.bad, row.stored, row.dead, row.difference)
    cells = (f"{number:,}" for number in numbers)
    name = row.kind or "(no queue)"
    table.add_row(name, *cells, style="bold red" if row.is_wrong else style)


def _details(books: Books) -> Iterator[tuple[str, str]]:
    published, seen = books.published, books.seen
    yield "messages", f"{published.messages:,} published and confirmed"
    label = "dead letters"
    for name, count in sorted(seen.dead_by_type.items(), key=lambda item: -item[1]):
        example = clip(seen.reasons[name], _REASON_CHARS)
        yield label, f"{count:>5,} {name}, e.g. {example}"
        label = ""
    simulated = published.good_records_by_kind.get(ALERTS, 0)
    sent = f"{books.alert_book.sent:,} notifications sent, {books.notifications:,} on"
    origins = f"{simulated:,} of devices, {seen.alerts_of_rules:,} of rules"
    yield "alerts", f"{origins}; {sent} the phone*"
    camera = published.good_records_by_kind.get(RESULTS, 0)
    answered = seen.answers + seen.refusals
    yield "results", f"{camera:,} of a camera's own model, {answered:,} of Triton"
    repeats = {
        "messages published twice": published.resent_messages,
        "messages retried": sum(seen.retried.values()),
        "points written twice": books.points.repeated,
        "dead letters twice": seen.repeated_dead_letters,
        "records archived twice": books.archived.repeated,
    }
    found = ", ".join(f"{count:,} {what}" for what, count in repeats.items() if count)
    yield "duplicates", found or "none"
    yield "*", "n8n and the phone: both are stood in for by a part of the demo"
