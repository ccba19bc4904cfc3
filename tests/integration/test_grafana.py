"""The dashboards: each of their queries finds what the mesh has written."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import yaml

from meshtasks.config.environment import Environment
from meshtasks.demo import loopback
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.metrics import WorkerMetrics
from tests.support.influx import Influx, InfluxTarget
from tests.support.victoria import force_flush

GRAFANA = Path(__file__).parents[2] / "config" / "grafana"
DASHBOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}
DATASOURCES = {
    each["uid"]: each["type"]
    for each in yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "mesh.yaml").read_text()
    )["datasources"]
}

#: One point of each measurement that a dashboard asks for, as handlers write them.
POINTS = (
    "temperature,location=attic,sensor_id=attic celsius=21.5",
    "humidity,sensor_id=attic percent=50.0",
    "cpu,cpu=total,host=nas used_percent=12.5",
    "mem,host=nas used_percent=40.0",
    "system,host=nas load5=0.5",
    "disk,device=/dev/sda1,host=nas,path=/ used_percent=70.0",
    "net,host=nas,interface=eth0 received_bytes_per_second=1.0",
    "net,host=nas,interface=eth0 sent_bytes_per_second=2.0",
    "temp,chip=k10temp,host=nas,sensor=0 celsius=45.0",
    "diskio,device=sda,host=nas busy_percent=3.0",
)
#: What the mesh and the broker show to Prometheus.
METRICS = (
    'meshtasks_messages_done_total{queue="alerts.critical"}',
    'meshtasks_messages_dead_total{queue="sensors.humidity",error_type="X"}',
    'meshtasks_messages_retried_total{queue="sensors.humidity",error_type="X"}',
    'meshtasks_batches_lost_total{queue="sensors.humidity"}',
    'meshtasks_batch_messages_sum{queue="sensors.humidity"}',
    'meshtasks_batch_messages_count{queue="sensors.humidity"}',
    'meshtasks_handler_seconds_bucket{queue="sensors.humidity",le="0.1"}',
    'meshtasks_handler_seconds_bucket{queue="sensors.humidity",le="+Inf"}',
    'meshtasks_sink_call_seconds_bucket{sink="timeseries",result="ok",le="0.1"}',
    'meshtasks_sink_call_seconds_bucket{sink="timeseries",result="ok",le="+Inf"}',
    'meshtasks_sink_call_seconds_count{sink="notifier",result="ok"}',
    'meshtasks_circuit_open{sink="timeseries"}',
    'meshtasks_queue_consuming{queue="sensors.humidity"}',
    'meshtasks_last_success_timestamp_seconds{queue="sensors.humidity"}',
    'rabbitmq_detailed_queue_messages_ready{queue="dead.letter.queue"}',
)


class Question(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    text: str


def questions(datasource: str) -> list[Question]:
    """Every query for a kind of datasource, Grafana's variables filled in."""
    return [
        Question(name, panel["title"], filled(target.get("expr") or target["query"]))
        for name, dashboard in DASHBOARDS.items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
        if DATASOURCES[target["datasource"]["uid"]] == datasource
    ]


def filled(query: str) -> str:
    """A query as Grafana sends it: everything chosen, the last hour, by minutes."""
    known = {
        "$timeFilter": "time > now() - 1h",
        "$__interval": "1m",
        "$__rate_interval": "5m",
    }
    for name, value in known.items():
        query = query.replace(name, value)
    return re.sub(r"\$(sensor|host|queue)\b", ".*", query)


def named(question: Question) -> str:
    return f"{question.dashboard}: {question.panel}"


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    """The store of the embedded mesh, with points and with the mesh's own metrics."""
    server = VictoriaMetrics(tmp_path_factory.mktemp("victoria"))
    server.start()
    try:
        loopback.request("POST", server.port, "/write", body=lines())
        # Rates need two samples, and a count that grows.
        for value, seconds_ago in ((1, 120), (5, 60), (9, 1)):
            text = "".join(f"{metric} {value}\n" for metric in METRICS).encode()
            stamp = f"/api/v1/import/prometheus?timestamp={_ago_ms(seconds_ago)}"
            loopback.request("POST", server.port, stamp, body=text)
        force_flush(server)
        yield server
    finally:
        server.kill()


def lines() -> bytes:
    """The points, a minute old: the store does not show its newest to graphs."""
    return "".join(f"{each} {_ago_ms(60)}000000\n" for each in POINTS).encode()


def _ago_ms(seconds: int) -> int:
    return int((time.time() - seconds) * 1000)


@pytest.fixture(scope="module")
def bucket(influx_engine: Influx) -> InfluxTarget:
    """A bucket with points."""
    target = influx_engine.create_bucket("dashboards")
    path = f"/write?{urlencode({'db': 'dashboards'})}"
    loopback.request("POST", influx_engine.engine_port, path, body=lines())
    return target


@pytest.mark.parametrize("question", questions("prometheus"), ids=named)
def test_a_promql_query_finds_what_was_written(
    victoria: VictoriaMetrics, question: Question
) -> None:
    path = f"/api/v1/query?{urlencode({'query': question.text})}"
    answer = json.loads(loopback.request("GET", victoria.port, path))
    assert answer["data"]["result"]


@pytest.mark.parametrize("question", questions("influxdb"), ids=named)
def test_an_influxql_query_finds_what_was_written(
    bucket: InfluxTarget, question: Question
) -> None:
    assert bucket.select(question.text)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_a_dashboard_is_complete(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {each["datasource"]["uid"] for each in panel["targets"]} <= set(
            DATASOURCES
        )
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(sensor|host|queue)\b", json.dumps(panels)))
    assert used == variables


def test_a_dashboard_is_found_by_its_file_name() -> None:
    assert {each["uid"] for each in DASHBOARDS.values()} == set(DASHBOARDS)


def test_the_mesh_has_every_metric_that_is_asked_for() -> None:
    breaker = Breaker(lambda: None, lambda _seconds, _change: None)
    metrics = WorkerMetrics("w", breaker, Environment())
    known = {family.name for family in metrics.registry.collect()}
    asked = {
        name
        for question in questions("prometheus")
        for name in re.findall(r"meshtasks_\w+", question.text)
    }
    assert asked
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in asked} <= known
