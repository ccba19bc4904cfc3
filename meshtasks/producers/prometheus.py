"""``python -m meshtasks.producers prometheus``: metrics of services that show them."""

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
        service: its name, in routing keys and the tag ``service``.
        instance: the tag that tells it from others of its service; host and port of
            the URL when not given.
        tags: given to all of its metrics.
        ca_file: certificates (PEM) that its own is signed by, if it is not one that
            everybody knows.
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
    """Where to look for pods with the annotation ``prometheus.io/scrape: "true"``.

    Attributes:
        namespaces: those that are looked at; all when empty.
        label_selector: as ``kubectl -l`` takes it; all pods when empty.
        kubeconfig: file with the cluster's address and credentials. When not given,
            those that Kubernetes gives every pod, or ``kubectl``'s own outside.
    """

    namespaces: tuple[str, ...] = ()
    label_selector: str = ""
    kubeconfig: FilePath | None = None
    refresh_seconds: Seconds = 60.0


class PrometheusConfig(ConfigModel):
    """Which pages are scraped, and what is made of them.

    Attributes:
        timeout_seconds: longest wait for a page.
        series_limit: a page with more of them is refused whole.
        metrics: those that are published, by Prometheus's name of their family.
        quantiles: of histograms, over the interval; each becomes a field.
        buckets: whether the buckets of histograms are published too.
        kubernetes: where to look for more targets.
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

#: The older format first: most services that offer OpenMetrics have it, and a
#: few break its stricter rules.
ACCEPT = (
    "text/plain;version=0.0.4;charset=utf-8,"
    "application/openmetrics-text;version=1.0.0;charset=utf-8;q=0.5"
)

_OPENMETRICS = "application/openmetrics-text"
#: Far more than a page within any sensible limit of series has.
_PAGE_LIMIT_BYTES = 64 * 1024 * 1024
#: Most of a scrape is waiting.
_THREADS = 32


class Unreadable(MeshError):
    """A page cannot be used."""


def families(page: Page, series_limit: int) -> list[Family]:
    """The metric families of a page; all of them, or none.

    Raises:
        Unreadable: it is in neither format, breaks off, or has more series than
            ``series_limit``.
    """
    # Counted first, since a page that is far too long takes seconds to parse.
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
        with contained():  # prometheus_client's parsers raise whatever they meet
            return list(parse(page.body.decode()))
    except Unforeseen as error:
        kind = "OpenMetrics" if strict else "Prometheus's text format"
        shown = clip(page.content_type or "no type")
        message = f"shows what is not {kind} ({shown}): {error}"
        raise Unreadable(message) from error


class Target:
    """A page of metrics, and the headers that hold its secret; for one thread at a
    time.

    Attributes:
        name: in the log.
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
        """Read the page; its metrics, and last the one of the scrape itself.

        When it cannot be read, that one is all there is: its ``up`` is false, and
        the series that vanished with it are counted.
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


#: Finds the targets that there are now; where that is not known, those that there were
#: last.
Discovery = Callable[[], Sequence[TargetConfig]]


class PrometheusCollector:
    """Scrapes the targets that are known, and those that the discovery finds every
    so many seconds."""

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
        """One round."""
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
        """Take up the targets that are new, and drop those that are gone."""
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
