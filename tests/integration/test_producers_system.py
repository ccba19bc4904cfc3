"""``python -m meshtasks.producers system`` as a process, against a real broker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.support.collectors import Record, metrics_until, running, write_config

QUEUE = "metrics.system"


def test_metrics_of_this_machine_are_in_the_queue_with_their_rates(
    mesh_url: str, tmp_path: Path
) -> None:
    config = {"interval_seconds": 1.0, "host": "lab", "groups": ["mem", "net"]}
    env = {"MESH_BROKER_URL": mesh_url, **write_config(tmp_path, "system", config)}
    with running("system", env) as producer:
        taken = metrics_until(mesh_url, QUEUE, with_rates, "rates")
        producer.send_signal(signal.SIGTERM)
        _, errors = producer.communicate(timeout=300)

    assert producer.returncode == 0, errors
    assert {each["name"] for each in taken} == {"mem", "net"}
    assert {each["tags"]["host"] for each in taken} == {"lab"}
    assert with_rates(taken)[0]["fields"]["sent_bytes_per_second"] >= 0


def with_rates(metrics: list[Record]) -> list[Record]:
    return [each for each in metrics if "sent_bytes_per_second" in each["fields"]]


def test_a_dry_run_prints_two_rounds_without_a_broker(tmp_path: Path) -> None:
    env = write_config(tmp_path, "system", {"interval_seconds": 0.1, "host": "lab"})
    with running("system", env, "--dry-run") as producer:
        output, errors = producer.communicate(timeout=300)

    assert producer.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    memory = [each for each in lines if each["record"]["name"] == "mem"]
    assert [each["routing_key"] for each in memory] == ["metrics.system.lab.mem"] * 2


def test_a_bad_file_stops_the_start_with_78(tmp_path: Path) -> None:
    env = write_config(tmp_path, "system", {"interval_seconds": "soon"})
    with running("system", env) as producer:
        _, errors = producer.communicate(timeout=300)

    assert producer.returncode == os.EX_CONFIG
    assert f"{tmp_path}/producers/system.yaml:1: interval_seconds: " in errors
