"""The one answer of the Kubernetes API that the mesh asks for: a list of pods.

No cluster can run in these tests. The shape is that of the API's reference
(https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/), and
the client that reads it is the official one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.receiver import Answer


def pod(
    name: str,
    *,
    ip: str | None = "10.1.2.3",
    container_port: int | None = 8080,
    labels: dict[str, str] | None = None,
    deleted_at: str | None = None,
    **asked: str,
) -> dict[str, Any]:
    """A pod that runs; ``asked`` are its annotations ``prometheus.io/…``."""
    ports = [] if container_port is None else [{"containerPort": container_port}]
    annotations = {f"prometheus.io/{key}": value for key, value in asked.items()}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"00000000-0000-0000-0000-{len(name):012}",
            "creationTimestamp": "2026-11-23T12:00:00Z",
            "deletionTimestamp": deleted_at,
            "labels": labels,
            "annotations": annotations or None,
        },
        "spec": {"containers": [{"name": "main", "image": "x", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ip},
    }


def pod_list(*pods: dict[str, Any], following: str = "") -> Answer:
    """The answer to a request for pods.

    Args:
        pods: on this page of the list.
        following: token of the next page.
    """
    body = {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "4711", "continue": following},
        "items": list(pods),
    }
    return Answer(
        body=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )


def refusal(status: int, reason: str) -> Answer:
    """What the API answers when it will not."""
    body = {"kind": "Status", "apiVersion": "v1", "code": status, "reason": reason}
    headers = {"Content-Type": "application/json"}
    return Answer(status, json.dumps(body).encode(), headers)


def write_kubeconfig(directory: Path, url: str) -> Path:
    """A kubeconfig that leads to the API at a URL."""
    named = {"cluster": {"server": url}, "user": {"token": "secret-token"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": named["cluster"]}],
        "users": [{"name": "lab", "user": named["user"]}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
