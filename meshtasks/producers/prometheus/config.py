"""config/producers/prometheus.yaml: the pages to scrape, and where to find more."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, FilePath, model_validator

from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile
from meshtasks.config.urls import Auth, HttpUrl
from meshtasks.producers.configuration import Seconds, Selection, Word

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
