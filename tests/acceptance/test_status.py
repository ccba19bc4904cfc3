"""``meshtasks status`` of a mesh that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.settings import load_settings
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import publish_raw
from tests.support.command import Command, command
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE, PENDING = "sensors.temperature", "pending.timeseries"


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


@pytest.fixture
def status(
    env: dict[str, str],
    rabbitmq: RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks status`` on the test's mesh."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    run = command(load_settings().env, monkeypatch, capsys)
    url = rabbitmq.management_url
    return lambda *arguments: run("status", "--management-url", url, *arguments)


def publish(env: dict[str, str], body: bytes) -> None:
    publish_raw(env["MESH_BROKER_URL"], "sensors", f"{QUEUE}.attic", body)


def test_a_sink_that_is_down_is_told_and_wants_attention(
    env: dict[str, str], status: Command, victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    found: dict[str, Any] = {}

    def look() -> dict[str, Any]:
        result = status("--json")
        found.update(json.loads(result.stdout), exit_code=result.exit_code)
        return found

    with running(Worker(tmp_path, env, QUEUE)) as worker:
        publish(env, b'{"value": "warm"}')
        wait_until(lambda: look()["dead_letters"], 60, "the dead letter")
        wait_until(lambda: look()["workers"], 60, "the worker's answer")
        assert found["exit_code"] == 0
        assert found["workers"][0]["consuming"] == [QUEUE, PENDING]
        assert found["dead_letters"][0]["error_type"] == "SchemaMismatch"
        assert found["dead_letters"][0]["queue"] == QUEUE

        victoria.kill()
        publish(env, b'{"value": 21}')
        wait_until(lambda: "is open" in worker.log(), 60, "the open circuit")
        circuit = "timeseries: circuit open"  # it is half-open now and then
        wait_until(lambda: circuit in " ".join(look()["attention"]), 60, circuit)

        assert found["exit_code"] == 1
        assert found["workers"][0]["resting"] == [PENDING]


def test_messages_that_nobody_consumes_want_attention(
    env: dict[str, str], status: Command
) -> None:
    publish(env, b'{"value": 21}')

    result = status("--once")

    assert result.exit_code == 1
    assert f"1 messages wait in {QUEUE} and nobody consumes it" in result.stdout
    assert "no worker answers" in result.stdout
