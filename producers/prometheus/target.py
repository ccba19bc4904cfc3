"""One target: scraped again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from producers.collecting import LONGEST_GAP_INTERVALS, SCRAPE, Guard, Measured
from producers.configuration import Selection
from producers.health import Health
from producers.http import Client
from producers.prometheus.config import PrometheusConfig, TargetConfig
from producers.prometheus.exposition import ACCEPT, families
from producers.prometheus.translation import LeftOut, Moment, Translated, Translator
from producers.rates import Counters
from producers.ticks import elapsed_seconds

#: Far more than a page within any sensible limit of series has.
_PAGE_LIMIT_BYTES = 64 * 1024 * 1024


class Target:
    """A page of metrics; for one thread at a time.

    Attributes:
        name: in the log.

    Args:
        target: where it is, and whose.
        config: what all targets have in common.
        headers: with its secret, if it wants one.
        elapsed: clock of the rates.
    """

    def __init__(
        self,
        target: TargetConfig,
        config: PrometheusConfig,
        headers: Mapping[str, str],
        *,
        elapsed: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._url = target.url
        self._series_limit = config.series_limit
        self._selection: Selection = config.metrics
        self._elapsed = elapsed
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
        self._last: Translated | None = None
        self.name = f"{target.service} {target.url}"
        self._guard, self._completeness = Guard(), Health(self.name)

    def scrape(self) -> list[Measured]:
        """Read the page; its metrics, and last the one that says how that went.

        When it cannot be read, that one is all there is: its ``up`` is false, and
        the series that vanished with it are counted.
        """
        wall_seconds, began = time.time(), time.monotonic()
        read = self._guard.attempt(self.name, lambda: self._read(wall_seconds))
        translated = Translated() if read is None else read
        if read is not None:
            self._counters.forget_unread()
            if read.example:
                self._completeness.failed(f"left out: {read.example}")
            else:
                self._completeness.recovered()
        vanished = (
            0 if self._last is None else len(self._last.series - translated.series)
        )
        self._last = translated
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
        moment = Moment(self._elapsed(), wall_seconds)
        found = [
            each
            for each in families(page, self._series_limit)
            if self._selection.wants(each.name)
        ]
        return self._translator.translate(found, moment)
