"""A circuit per sink: open while the sink is down, so that its queues rest.

The states and who moves them::

    closed --a batch reports the sink unavailable--> open
    open   --the probe gets an answer--------------> closed
    open   --the probe gets none-------------------> open, probed later

Pure: the caller passes the time and runs the probes.
"""

from __future__ import annotations

import random
from collections.abc import Callable

_FIRST_PROBE_SECONDS = 1.0
_LONGEST_PROBE_SECONDS = 30.0


class Circuit:
    """The circuit of one sink.

    Attributes:
        is_open: the sink is down; nothing is sent to it.
        reason: what the last failure said.
    """

    def __init__(
        self, sink: str, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.sink = sink
        self.is_open = False
        self.reason = ""
        self._uniform = uniform
        self._failed_probes = 0

    def trip(self, reason: str) -> bool:
        """A batch found the sink unavailable; true when this opened it."""
        self.reason = reason
        opened = not self.is_open
        self.is_open = True
        return opened

    def probe_failed(self, reason: str) -> None:
        """A probe got no answer."""
        self.reason = reason
        self._failed_probes += 1

    def close(self) -> None:
        """A probe got an answer."""
        self.is_open = False
        self.reason = ""
        self._failed_probes = 0

    def next_probe_seconds(self, asked_seconds: float | None = None) -> float:
        """The wait before the next probe: doubling up to 30 s with a fifth of
        jitter, and never less than the sink asked for."""
        wait = float(
            min(_FIRST_PROBE_SECONDS * 2**self._failed_probes, _LONGEST_PROBE_SECONDS)
        )
        jittered = wait * self._uniform(0.8, 1.2)
        return max(jittered, asked_seconds or 0.0)
