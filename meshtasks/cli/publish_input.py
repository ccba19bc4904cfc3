"""Reading lines for ``meshtasks publish``, and showing how far it is."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_READ_BYTES = 256 * 1024
#: Input that takes longer than this gets a progress bar, on a terminal.
_PROGRESS_AFTER_SECONDS = 1.0


def lines_as_they_come(source: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are there already, again and again: a fast source is read
    in large parts, and a slow one's line is not kept waiting for the next."""
    rest = b""
    read: Any = getattr(source, "read1", source.read)
    while part := read(_READ_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


class ReadingProgress:
    """A progress bar on standard error, for long input on a terminal."""

    def __init__(self, source: BinaryIO) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("publishing"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=_size_bytes(source), done="")
        self._began = time.monotonic()
        self._shown = False

    def update(self, read_bytes: int, done: str) -> None:
        """Move on by so many bytes; ``done`` says what is published."""
        self._bar.update(self._task, advance=read_bytes, done=done)
        if not self._shown and time.monotonic() - self._began > _PROGRESS_AFTER_SECONDS:
            self._shown = True
            self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._bar.stop()


def _size_bytes(source: BinaryIO) -> int | None:
    """Length of a file; None for a pipe or terminal, which has no known end."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
