"""The model of config/producers/prometheus.yaml."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, FilePath, model_validator

from meshtasks.config.settings import ConfigFile
from meshtasks.config.web import Auth, HttpUrl
from meshtasks.producers.configuration import Model, Seconds, Selection, Word

_Tag = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class TargetConfig(Model):
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


class KubernetesConfig(Model):
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


class PrometheusConfig(Model):
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
