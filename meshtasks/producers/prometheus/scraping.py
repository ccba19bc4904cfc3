"""Scrapes pages of metrics, and makes metrics of the mesh of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from meshtasks.errors import MeshError
from meshtasks.producers.collecting import (
    LONGEST_GAP_INTERVALS,
    SCRAPE,
    Counters,
    Guard,
    Measured,
    Unforeseen,
    contained,
    elapsed_seconds,
)
from meshtasks.producers.http import Client, Page
from meshtasks.producers.prometheus.config import PrometheusConfig, TargetConfig
from meshtasks.producers.prometheus.exposition import (
    LeftOut,
    Moment,
    Translated,
    Translator,
)
from meshtasks.text import clip

logger = logging.getLogger(__name__)

#: The text format has priority: most services that offer OpenMetrics also offer it, and
#: a few break the stricter rules of OpenMetrics.
ACCEPT = (
    "text/plain;version=0.0.4;charset=utf-8,"
    "application/openmetrics-text;version=1.0.0;charset=utf-8;q=0.5"
)

_OPENMETRICS = "application/openmetrics-text"
#: Far more than a page with a sensible number of series needs.
_PAGE_LIMIT_BYTES = 64 * 1024 * 1024
#: Scrapes at the same time; they mostly wait for responses.
_THREADS = 32


class Unreadable(MeshError):
    """A page cannot be used."""


def families(page: Page, series_limit: int) -> list[Family]:
    """Return all metric families of a page.

    Raises:
        Unreadable: the page is in neither format, is incomplete, or has more series
            than ``series_limit``.
    """
    # Counted before parsing, which takes seconds for a page that is far too long.
    series = sum(
        bool(line) and not line.startswith(b"#") for line in page.body.splitlines()
    )
    if series > series_limit:
        message = (
            f"shows {series:,} series, more than series_limit ({series_limit:,}); let "
            "it show fewer, or raise the limit"
        )
        raise Unreadable(message)
    strict = page.content_type.partition(";")[0].strip().lower() == _OPENMETRICS
    parse = (
        openmetrics.text_string_to_metric_families
        if strict
        else text_string_to_metric_families
    )
    try:
        with contained():  # prometheus_client's parsers raise any exception
            return list(parse(page.body.decode()))
    except Unforeseen as error:
        kind = "OpenMetrics" if strict else "Prometheus's text format"
        shown = clip(page.content_type or "no type")
        message = f"shows what is not {kind} ({shown}): {error}"
        raise Unreadable(message) from error


class Target:
    """A page of metrics to scrape; not thread-safe.

    Args:
        headers: sent with each request; they contain the target's secret.

    Attributes:
        name: identifies the target in the log.
    """

    def __init__(
        self,
        target: TargetConfig,
        config: PrometheusConfig,
        headers: Mapping[str, str],
    ) -> None:
        self._url = target.url
        self._config = config
        self._counters = Counters(LONGEST_GAP_INTERVALS * config.interval_seconds)
        self._translator = Translator(
            target.service,
            {**target.tags, "instance": target.instance},
            self._counters,
            quantiles=config.quantiles,
            buckets=config.buckets,
        )
        self._client = Client(
            config.timeout_seconds,
            _PAGE_LIMIT_BYTES,
            headers={"Accept": ACCEPT, **headers},
            ca_file=target.ca_file,
        )
        self._last_series: AbstractSet[object] = frozenset()
        self.name = f"{target.service} {target.url}"
        self._guard, self._completeness = Guard(), Guard()

    def scrape(self) -> list[Measured]:
        """Return the metrics of the page, followed by the metric ``scrape``.

        If the page cannot be read, ``scrape`` is the only one: its ``up`` is false, and
        it counts all series of the last page as vanished.
        """
        wall_seconds, began = time.time(), time.monotonic()
        read = self._guard.attempt(self.name, lambda: self._read(wall_seconds))
        translated = Translated() if read is None else read
        if read is not None:
            self._counters.forget_unread()
            if read.example:
                self._completeness.failed(self.name, f"left out: {read.example}")
            else:
                self._completeness.recovered(self.name)
        vanished = len(self._last_series - translated.series)
        self._last_series = translated.series
        how = {
            "up": read is not None,
            "duration_seconds": round(time.monotonic() - began, 6),
            "series": len(translated.series),
            "vanished_series": vanished,
            **{each.value: translated.left_out[each] for each in LeftOut},
        }
        scrape = self._translator.record(SCRAPE, how, wall_seconds)
        return [*translated.metrics, scrape]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read(self, wall_seconds: float) -> Translated:
        page = self._client.get(self._url)
        moment = Moment(elapsed_seconds(), wall_seconds)
        found = families(page, self._config.series_limit)
        wanted = [each for each in found if self._config.metrics.wants(each.name)]
        return self._translator.translate(wanted, moment)


#: Returns the current targets, or the last known ones where a search fails.
Discovery = Callable[[], Sequence[TargetConfig]]


class PrometheusCollector:
    """Scrapes fixed targets, and those of a discovery.

    Args:
        targets: the fixed targets.
        discovery: finds more targets; with the interval in seconds.
    """

    def __init__(
        self,
        config: PrometheusConfig,
        targets: Sequence[Target],
        discovery: tuple[Discovery, float] | None = None,
    ) -> None:
        self._config = config
        self._targets = targets
        self._discovery = discovery
        self._looked_at = -math.inf
        self._guard = Guard()
        self._found: dict[str, Target] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="scrape")

    def collect(self) -> Iterator[Measured]:
        """Scrape all targets once."""
        if self._discovery is not None:
            discovery, refresh_seconds = self._discovery
            if elapsed_seconds() >= self._looked_at + refresh_seconds:
                self._looked_at = elapsed_seconds()
                self._look(discovery)
        targets = [*self._targets, *self._found.values()]
        for metrics in self._threads.map(self._scrape, targets):
            yield from metrics

    def _scrape(self, target: Target) -> Sequence[Measured]:
        return self._guard.attempt(target.name, target.scrape) or ()

    def _look(self, discovery: Discovery) -> None:
        """Add new targets and remove those that no longer exist."""
        found = self._guard.attempt("looking for targets", discovery)
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
