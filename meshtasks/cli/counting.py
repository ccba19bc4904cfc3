"""A progress bar for work that is counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Remaining


class Counting:
    """Shows how much of it is done."""

    def __init__(self, bar: Progress, what: str) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=None, said="")

    def update(self, done: int, total: int, said: str = "") -> None:
        """So much is done; ``said`` stands beside it."""
        self._bar.update(self._task, completed=done, total=total, said=said)


@contextmanager
def counting(what: str) -> Iterator[Counting]:
    """A bar on standard error, if that is a terminal; gone when it ends."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        Remaining(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        yield Counting(bar, what)
