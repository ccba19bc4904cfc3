"""Targets from the Kubernetes API: pods whose annotations ask to be scraped.

The annotations are those of Prometheus's example configuration for Kubernetes:
``prometheus.io/scrape: "true"``, and optionally ``prometheus.io/port`` (default: the
pod's first port), ``prometheus.io/path`` (``/metrics``) and ``prometheus.io/scheme``
(``http``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from pydantic import ValidationError

from meshtasks.config.loader import fault_in
from meshtasks.errors import Transient
from meshtasks.producers.collecting import Guard, routing_word
from meshtasks.producers.prometheus.config import KubernetesConfig, TargetConfig

logger = logging.getLogger(__name__)

_PREFIX = "prometheus.io/"
_SERVICE_LABELS = ("app.kubernetes.io/name", "app", "k8s-app")
_SERVICE_LIMIT_CHARS = 64
_PAGE_SIZE = 500
_TIMEOUT_SECONDS = 10.0
#: Means all namespaces.
_ALL = ""

_HINTS = {
    401: "the credentials are not valid",
    403: "the service account may not list pods; give it a role that does",
}


class PodDiscovery:
    """Finds the annotated pods of one cluster.

    If the pods of a namespace cannot be listed, this is logged, and the targets last
    found there remain.

    Args:
        path: the configuration file, for error messages.

    Raises:
        ConfigError: there are neither a pod's credentials nor a usable kubeconfig.
    """

    def __init__(self, wanted: KubernetesConfig, path: Path) -> None:
        self._wanted = wanted
        settings = client.Configuration()
        # Three retries by default; the round would wait for them.
        settings.retries = False
        # The environment's proxy is for the internet; a kubeconfig may set one.
        settings.proxy = None
        inside = wanted.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
        try:
            if inside:
                config.load_incluster_config(settings)
            else:
                file = wanted.kubeconfig and str(wanted.kubeconfig)
                config.load_kube_config(file, client_configuration=settings)
        except config.ConfigException as error:
            expected = f"a pod's own credentials or a usable kubeconfig, but: {error}"
            raise fault_in(path, "kubernetes", expected) from error
        self._pods = client.CoreV1Api(client.ApiClient(settings))
        self._refused: set[str] = set()
        self._guard = Guard()
        self._found: dict[str, list[TargetConfig]] = {}

    def targets(self) -> list[TargetConfig]:
        """Return the current targets; for a namespace that fails, the last known."""
        for namespace in self._wanted.namespaces or (_ALL,):
            what = f"pods of {namespace}" if namespace else "pods"
            found = self._guard.attempt(what, partial(self._targets_in, namespace))
            if found is not None:
                self._found[namespace] = found
        return [target for found in self._found.values() for target in found]

    def _targets_in(self, namespace: str) -> list[TargetConfig]:
        """Return the current targets of one namespace, or of all."""
        try:
            pods = list(self._list(namespace))
        except client.ApiException as error:
            hint = _HINTS.get(error.status, error.reason)
            message = f"the Kubernetes API answered {error.status}: {hint}"
            raise Transient(message) from error
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            message = f"the Kubernetes API cannot be used: {error}"
            raise Transient(message) from error
        return [
            target
            for pod in pods
            for target in self._guard.gather(
                f"pod {getattr(pod.metadata, 'name', None)}",
                partial(self._targets_of, pod),
            )
        ]

    def _list(self, namespace: str) -> Iterator[Any]:
        """Yield the running pods, page by page."""
        options: dict[str, Any] = {
            "label_selector": self._wanted.label_selector,
            "field_selector": "status.phase=Running",
            "limit": _PAGE_SIZE,
            "_request_timeout": _TIMEOUT_SECONDS,
        }
        following = ""
        while True:
            if namespace == _ALL:
                page = self._pods.list_pod_for_all_namespaces(
                    _continue=following, **options
                )
            else:
                page = self._pods.list_namespaced_pod(
                    namespace, _continue=following, **options
                )
            yield from page.items
            following = page.metadata._continue  # noqa: SLF001 - the client's name for it
            if not following:
                break

    def _targets_of(self, pod: Any) -> Iterator[TargetConfig]:
        """Yield the pod's target, if its annotations ask for one."""
        meta, wanted = pod.metadata, pod.metadata.annotations or {}
        if (
            wanted.get(f"{_PREFIX}scrape") != "true"
            or meta.deletion_timestamp is not None
            or not pod.status.pod_ip
        ):
            return
        name = f"{meta.namespace}/{meta.name}"
        port = wanted.get(f"{_PREFIX}port") or _first_port(pod)
        address = pod.status.pod_ip
        host = f"[{address}]" if ":" in address else address
        path = wanted.get(f"{_PREFIX}path", "/metrics")
        scheme = wanted.get(f"{_PREFIX}scheme", "http")
        try:
            target = TargetConfig(
                service=_service(meta),
                url=f"{scheme}://{host}:{port}/{path.removeprefix('/')}",
                tags={"namespace": meta.namespace, "pod": meta.name},
            )
        except ValidationError as error:
            if name not in self._refused:
                self._refused.add(name)
                wrong = error.errors()[0]["msg"]
                logger.warning("pod %s cannot be scraped: %s", name, wrong)
            return
        self._refused.discard(name)
        yield target


def _first_port(pod: Any) -> int | None:
    ports = [port for each in pod.spec.containers for port in each.ports or ()]
    return ports[0].container_port if ports else None


def _service(meta: Any) -> str:
    """Return the pod's service: the first label that names one, else the pod's name."""
    labels: Mapping[str, str] = meta.labels or {}
    named = (labels[label] for label in _SERVICE_LABELS if labels.get(label))
    return routing_word(next(named, meta.name))[:_SERVICE_LIMIT_CHARS]
