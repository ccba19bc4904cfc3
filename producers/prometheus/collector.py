"""All targets of a round, known and found, side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from typing_extensions import override

from producers.collecting import Collector, Guard, Measured
from producers.prometheus.config import PrometheusConfig, TargetConfig
from producers.prometheus.target import Target
from producers.ticks import elapsed_seconds

logger = logging.getLogger(__name__)

#: Most of a scrape is waiting.
_THREADS = 32


class Discovery(Protocol):
    """Finds targets."""

    def targets(self) -> Sequence[TargetConfig]:
        """Those that there are now; as far as there is no telling, those that were
        there last."""


class PrometheusCollector(Collector):
    """Scrapes targets.

    Args:
        config: what all targets have in common.
        targets: those that are known.
        discovery: finds more, every so many seconds.
    """

    def __init__(
        self,
        config: PrometheusConfig,
        targets: Sequence[Target],
        discovery: tuple[Discovery, float] | None = None,
        *,
        elapsed: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._config = config
        self._targets = targets
        self._discovery = discovery
        self._elapsed = elapsed
        self._looked_at = -math.inf
        self._guard = Guard()
        self._found: dict[str, Target] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="scrape")

    @override
    def collect(self) -> Iterator[Measured]:
        if self._discovery is not None:
            discovery, refresh_seconds = self._discovery
            if self._elapsed() >= self._looked_at + refresh_seconds:
                self._looked_at = self._elapsed()
                self._look(discovery)
        targets = [*self._targets, *self._found.values()]
        for metrics in self._threads.map(self._scrape, targets):
            yield from metrics

    def _scrape(self, target: Target) -> Sequence[Measured]:
        return self._guard.attempt(target.name, target.scrape) or ()

    def _look(self, discovery: Discovery) -> None:
        """Take up the targets that are new, and drop those that are gone."""
        found = self._guard.attempt("looking for targets", discovery.targets)
        if found is None:
            return
        there = {f"{each.service} {each.url}": each for each in found}
        for gone in self._found.keys() - there.keys():
            self._found.pop(gone).close()
            logger.info("target %s is gone", gone)
        for name in there.keys() - self._found.keys():
            make = partial(Target, there[name], self._config, {})
            if target := self._guard.attempt(f"target {name}", make):
                self._found[name] = target
                logger.info("target %s is new", name)
