"""Stops what the demo has started, in the opposite order, whatever happens."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from meshtasks.cli.demo_steps import Steps
from meshtasks.embedded.process import Process


class _Server(Protocol):
    def stop(self) -> object: ...

    def kill(self) -> None: ...


class _Part(NamedTuple):
    name: str
    server: _Server
    process: Process


class Shutdown:
    """What is to be stopped.

    An interrupt (Ctrl-C) while stopping means: at once.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parts: list[_Part] = []
        self._at_once = False

    def add(self, name: str, server: _Server, process: Process | None = None) -> None:
        """Add something before it is started.

        Args:
            name: what people know it by.
            process: tells whether it runs; ``server`` itself by default.
        """
        if process is None:
            if not isinstance(server, Process):
                message = f"{name}: which process?"
                raise TypeError(message)
            process = server
        self._parts.append(_Part(name, server, process))
