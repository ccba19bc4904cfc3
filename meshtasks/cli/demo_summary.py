"""Prints the books of a demo."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from meshtasks.cli.demo_books import Books, Row
from meshtasks.cli.view.render import size
from meshtasks.domain.text import clip

#: So that a line of the summary fits a terminal.
_REASON_CHARS = 50


def print_summary(books: Books, console: Console) -> None:
    """The table, what came of the records besides, and whether it balances."""
    console.print()
    console.print(_table(books))
    console.print()
    for label, text in _details(books):
        console.print(f"{label:<13} {text}", markup=False, soft_wrap=True)
    console.print()
    faults = books.faults()
    for fault in faults:
        console.print(f"[bold red]✗[/] {fault}", soft_wrap=True)
    if not faults:
        records = books.published.records
        console.print(
            f"[bold green]✓[/] It balances: {records:,} records published = "
            f"{books.total().stored:,} stored + {books.total().dead:,} dead-lettered."
        )


def _table(books: Books) -> Table:
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
    table.add_row(row.kind, *cells, style="bold red" if row.is_wrong else style)


def _details(books: Books) -> Iterator[tuple[str, str]]:
    published, seen, archived = books.published, books.seen, books.archived
    yield "messages", f"{published.messages:,} published and confirmed"
    label = "dead letters"
    for name, count in sorted(seen.dead_by_type.items(), key=lambda item: -item[1]):
        example = clip(seen.reasons[name], _REASON_CHARS)
        yield label, f"{count:>5,} {name}, e.g. {example}"
        label = ""
    noun = "object" if archived.objects == 1 else "objects"
    kept = f"{archived.objects:,} {noun}, {size(archived.size_bytes)}"
    domains = [f"{count:,} {domain}" for domain, count in archived.by_domain.items()]
    yield "archive", f"{', '.join(domains) or 'no'} records in {kept}"
    titles = ", ".join(dict.fromkeys(alert.title for alert in seen.last_alerts))
    yield "alerts", f"{seen.alerts:,}" + (f": {titles}" if titles else "")
    repeats = {
        "messages published twice": published.resent_messages,
        "points written twice": books.stored.repeated,
        "dead letters twice": seen.repeated_dead_letters,
        "records archived twice": archived.repeated,
    }
    found = ", ".join(f"{count:,} {what}" for what, count in repeats.items() if count)
    yield "duplicates", found or "none"
