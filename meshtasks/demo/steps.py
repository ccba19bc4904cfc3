"""Says what the demo is doing while nothing else is to be seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Steps:
    """Steps that take a while: a spinner meanwhile, then a tick and the time taken."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show that ``what`` goes on; tick it off unless it fails."""
        began = time.monotonic()
        # Without a terminal rich shows no spinner.
        with self._console.status(f"{what} …"):
            yield
        spent_seconds = time.monotonic() - began
        self._console.print(f" [green]✓[/] {what:<44} {spent_seconds:5.1f} s")
