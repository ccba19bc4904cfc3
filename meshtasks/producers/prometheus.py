"""``python -m meshtasks.producers prometheus``: metrics of services, by scraping."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Self
from urllib.parse import urlsplit

import typer
from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field, FilePath, model_validator

from meshtasks.config.environment import auth_headers
from meshtasks.config.extras import require
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings, load_settings
from meshtasks.config.urls import Auth, HttpUrl
from meshtasks.errors import MeshError
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import (
    LONGEST_GAP_INTERVALS,
    SCRAPE,
    Counters,
    DryRun,
    Guard,
    Measured,
    Unforeseen,
    contained,
    elapsed_seconds,
    run_collector,
)
from meshtasks.producers.configuration import (
    Seconds,
    Selection,
    Word,
)
from meshtasks.producers.exposition import (
    LeftOut,
    Moment,
    Translated,
    Translator,
)
from meshtasks.producers.http import Client, Page
from meshtasks.text import clip

_Tag = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class TargetConfig(ConfigModel):
    """A service's page of metrics.

    Attributes:
        service: name of the service in routing keys and the tag ``service``.
        instance: tag that distinguishes instances of a service; by default host and
            port of the URL.
        tags: added to all metrics of the page.
        ca_file: PEM certificates that verify the server; by default the system's.
    """

    service: Word
    url: HttpUrl
    instance: Annotated[str, Field(min_length=1)] = ""
    tags: dict[_Tag, str] = Field(default_factory=dict)
    auth: Auth | None = None
    ca_file: FilePath | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_instance(cls, data: object) -> object:
        if isinstance(data, dict) and "instance" not in data and "url" in data:
            return {**data, "instance": urlsplit(str(data["url"])).netloc or "-"}
        return data


class KubernetesConfig(ConfigModel):
    """Where to find pods with the annotation ``prometheus.io/scrape: "true"``.

    Attributes:
        namespaces: namespaces to search; all if empty.
        label_selector: as in ``kubectl -l``; all pods if empty.
        kubeconfig: file with the cluster's address and credentials. By default the
            pod's own credentials are used, or outside of a pod those of ``kubectl``.
        refresh_seconds: interval between searches.
    """

    namespaces: tuple[str, ...] = ()
    label_selector: str = ""
    kubeconfig: FilePath | None = None
    refresh_seconds: Seconds = 60.0


class PrometheusConfig(ConfigModel):
    """The pages to scrape, and the metrics to publish.

    Attributes:
        interval_seconds: between two scrapes of a page.
        timeout_seconds: for the response of a page.
        series_limit: a page with more series is refused as a whole.
        metrics: families to publish, by their names in Prometheus.
        quantiles: quantiles of histograms, over the interval; each is a field.
        buckets: whether to publish the buckets of histograms.
        targets: pages with a fixed URL.
        kubernetes: where to find more targets.
    """

    interval_seconds: Seconds = 30.0
    timeout_seconds: Seconds = 10.0
    series_limit: Annotated[int, Field(ge=1)] = 20_000
    metrics: Selection = Selection()
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.9, 0.99)
    buckets: bool = True
    targets: tuple[TargetConfig, ...] = ()
    kubernetes: KubernetesConfig | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.timeout_seconds > self.interval_seconds:
            message = "expected timeout_seconds to be at most interval_seconds"
            raise ValueError(message)
        if not self.targets and self.kubernetes is None:
            message = "expected targets, or kubernetes to find some"
            raise ValueError(message)
        seen = set()
        for target in self.targets:
            name = f"{target.service} {target.instance}"
            if name in seen:
                message = (
                    f"expected each instance of a service once, got {name} twice; "
                    "give one another instance"
                )
                raise ValueError(message)
            seen.add(name)
        return self


CONFIG = ConfigFile("producers/prometheus.yaml", PrometheusConfig)


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


def prometheus(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of services that have a page for Prometheus or OpenMetrics.

    Services and interval are in config/producers/prometheus.yaml; Kubernetes pods can
    be discovered by their annotations. Metrics go to the exchange metrics, with the
    routing keys metrics.application.<service>.<metric>.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 75 some not confirmed,
    they are on disk; 78 bad configuration.
    """
    settings = load_settings()
    config, path = settings.read(CONFIG), settings.path(CONFIG)
    targets = [
        Target(
            target,
            config,
            auth_headers(target.auth, settings.env, path, f"targets.{index}.auth"),
        )
        for index, target in enumerate(config.targets)
    ]
    discovery = _discovery(settings, config.kubernetes)
    collector = PrometheusCollector(config, targets, discovery)
    run_collector(context, collector.collect, config.interval_seconds, dry_run=dry_run)


def _discovery(
    settings: Settings, wanted: KubernetesConfig | None
) -> tuple[Discovery, float] | None:
    if wanted is None:
        return None
    require("kubernetes", "looking for pods (`kubernetes` of prometheus.yaml)")
    from meshtasks.producers.pods import PodDiscovery  # noqa: PLC0415

    return PodDiscovery(wanted, settings.path(CONFIG)).targets, wanted.refresh_seconds


if __name__ == "__main__":
    main("prometheus")
