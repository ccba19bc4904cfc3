"""One round after the other of the groups that are configured."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator

from typing_extensions import override

from producers.collecting import (
    LONGEST_GAP_INTERVALS,
    Collector,
    Guard,
    Measured,
    metric,
    routing_word,
)
from producers.rates import WRAP_32_BIT, Counters
from producers.system.config import Group, SystemConfig
from producers.system.groups import GROUPS, Found, Look
from producers.ticks import elapsed_seconds


class SystemCollector(Collector):
    """Measures this machine.

    A group that cannot be read is left out, and said once; the others go on.

    Args:
        config: what to measure.
        elapsed: clock of the rates.
    """

    def __init__(
        self, config: SystemConfig, *, elapsed: Callable[[], float] = elapsed_seconds
    ) -> None:
        self._config = config
        self._elapsed = elapsed
        self._host = config.host or routing_word(platform.node().partition(".")[0])
        self._counters = Counters(
            LONGEST_GAP_INTERVALS * config.interval_seconds, wraps_at=WRAP_32_BIT
        )
        self._guard = Guard()

    @override
    def collect(self) -> Iterator[Measured]:
        look = Look(self._config, self._counters, self._elapsed(), self._guard)
        timestamp = time.time()
        for group in Group:
            if group not in self._config.groups:
                continue
            for found in self._measure(group, look):
                tags = {"host": self._host, **found.tags}
                record = metric(group, found.fields, tags, timestamp)
                if record["fields"]:
                    routing_key = f"metrics.system.{self._host}.{group}"
                    yield Measured(routing_key, record)
        self._counters.forget_unread()

    def _measure(self, group: Group, look: Look) -> list[Found]:
        found: list[Found] = []
        # What was found before something failed is kept.
        self._guard.attempt(f"group {group}", lambda: found.extend(GROUPS[group](look)))
        return found
