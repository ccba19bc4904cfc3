"""The HTTP page of a worker's metrics."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import create_server

import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge

from meshtasks.config.environment import Environment
from meshtasks.worker import metrics
from meshtasks.worker.metrics import Exposition
from tests.conftest import ROOT
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running


def page_at(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read(), "utf-8")


@pytest.fixture
def exposed(
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Callable[[str, str], int]]:
    """Exposes a metric of that name at one of these ports; gives the port."""
    caplog.set_level("INFO", logger=metrics.__name__)
    with ExitStack() as stack:

        def expose(name: str, ports: str) -> int:
            registry = CollectorRegistry()
            Gauge(name, "A metric.", registry=registry)
            served = Exposition(registry, Environment(metrics_port=ports))
            caplog.clear()
            served.start()
            stack.callback(served.stop)
            wait_until(lambda: "Metrics at" in caplog.text, 30, "a page")
            found = re.search(r"Metrics at http://127.0.0.1:(\d+)/", caplog.text)
            assert found
            return int(found[1])

        yield expose


def test_metrics_are_served_in_prometheus_text(
    exposed: Callable[[str, str], int],
) -> None:
    assert "\nclimate 0.0\n" in page_at(exposed("climate", "0"))


def test_workers_of_one_host_share_a_range_of_ports(
    exposed: Callable[[str, str], int],
) -> None:
    first = exposed("climate", "0")
    second = exposed("archive", f"{first}-{first + 20}")

    assert second > first
    assert "archive" in page_at(second)
    assert "climate" in page_at(first)


def test_a_port_that_is_taken_is_taken_over_once_it_is_free(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_AGAIN_SECONDS", 0.01)
    caplog.set_level("INFO", logger=metrics.__name__)
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = Exposition(CollectorRegistry(), Environment(metrics_port=str(port)))
        served.start()
        wait_until(lambda: "MESH_METRICS_PORT" in caplog.text, 30, "the complaint")
    wait_until(lambda: "Metrics at" in caplog.text, 30, "the page")
    served.stop()

    assert caplog.text.count("No metrics yet") == 1
    with create_server(("127.0.0.1", port)):
        pass  # stopped, it leaves the port to others


def readiness(port: int) -> int:
    """What the readiness probe of a worker on Kubernetes answers; 0 is ready."""
    path = ROOT / "deploy/kubernetes/base/worker-commands.yaml"
    (container,) = yaml.safe_load(path.read_text())["spec"]["template"]["spec"][
        "containers"
    ]
    *_, code = container["readinessProbe"]["exec"]["command"]
    probe = [sys.executable, "-c", code.replace(":9151/", f":{port}/")]
    return subprocess.run(probe, check=False).returncode


def port_of(worker: Worker) -> int:
    wait_until(lambda: "Metrics at" in worker.log(), 60, "the page")
    found = re.search(r"Metrics at http://127.0.0.1:(\d+)/", worker.log())
    assert found
    return int(found[1])


def test_a_worker_of_commands_alone_is_ready(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    env = {**mesh_env, "MESH_METRICS_PORT": "0"}

    with running(Worker(tmp_path, env, "commands")) as worker:
        port = port_of(worker)
        wait_until(lambda: readiness(port) == 0, 60, "it to be ready")


def test_a_worker_without_broker_has_a_page_and_is_not_ready(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    with create_server(("127.0.0.1", 0)) as nobody:
        url = f"amqp://nobody:x@127.0.0.1:{nobody.getsockname()[1]}//"
    env = {**mesh_env, "MESH_BROKER_URL": url, "MESH_METRICS_PORT": "0"}
    worker = Worker(tmp_path, env, "commands")
    worker.process.start()
    try:
        port = port_of(worker)
        assert "meshtasks_worker_connected 0.0" in page_at(port)
        assert readiness(port) == 1
    finally:
        worker.stop()
