"""Stops what the demo has started, in the opposite order, whatever happens."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from meshtasks.cli.demo_steps import Steps
from meshtasks.embedded.process import Process


class Server(Protocol):
    """What can be stopped: in its own way, or at once."""

    def stop(self) -> object:
        """End it in order."""

    def kill(self) -> None:
        """End it at once."""


class _Part(NamedTuple):
    name: str
    server: Server
    process: Process


class Shutdown:
    """Stops parts, the last one first. An interrupt meanwhile means: at once."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parts: list[_Part] = []

    def add(self, name: str, server: Server, process: Process) -> None:
        """Add a part before it is started.

        Args:
            name: what people know it by.
            server: what to stop.
            process: its process; a part that runs no more is not spoken of.
        """
        self._parts.append(_Part(name, server, process))

    def run(self, *, at_once: bool = False) -> None:
        """Stop them all."""
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
        if not part.process.running:
            part.server.stop()
            return
        with self._steps.step(f"stopping {part.name}"):
            part.server.stop()
