"""Stops what the demo has started, in the opposite order, whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console

from meshtasks.demo.process import Process


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


class Server(Protocol):
    """What can be stopped: in its own way, or at once."""

    def stop(self) -> object:
        """End it in order."""

    def kill(self) -> None:
        """End it at once."""


class _Part(NamedTuple):
    name: str
    server: Server
    processes: tuple[Process, ...]


class Together:
    """Processes that stop at the same time, because each takes its time.

    Args:
        within_seconds: how long each may take before it is killed.
    """

    def __init__(self, processes: Sequence[Process], within_seconds: float) -> None:
        self._processes = processes
        self._within_seconds = within_seconds

    def stop(self) -> None:
        """End them in order."""
        threads = [
            threading.Thread(target=each.stop, args=(self._within_seconds,))
            for each in self._processes
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def kill(self) -> None:
        """End them at once."""
        for process in self._processes:
            process.kill()


class AtOnce:
    """A server that has nothing to lose, and takes its time to end in order."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def stop(self) -> None:
        """End it at once."""
        self._server.kill()

    def kill(self) -> None:
        """The same."""
        self._server.kill()


class Shutdown:
    """Stops parts, the last one first. An interrupt meanwhile means: at once."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parts: list[_Part] = []

    def add(self, name: str, server: Server, *processes: Process) -> None:
        """Add something before it is started.

        Args:
            name: what people know it by.
            server: what to stop.
            processes: it is not spoken of when none of them runs.
        """
        self._parts.append(_Part(name, server, processes))

    def run(self, *, at_once: bool = False) -> None:
        """Stop everything."""
        while self._parts:
            part = self._parts.pop()
            try:
                if not at_once:
                    self._stop(part)
            except KeyboardInterrupt:
                at_once = True
            finally:
                part.server.kill()  # nothing is left to kill if it was stopped

    def _stop(self, part: _Part) -> None:
        if not any(process.running for process in part.processes):
            part.server.stop()  # what it may have left behind
            return
        with self._steps.step(f"stopping {part.name}"):
            part.server.stop()
