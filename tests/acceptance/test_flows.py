"""From a device's message to everything the mesh makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish as mqtt

from meshtasks.config.environment import Environment
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.archive.objects import open_store
from tests.support.amqp import drain, publish_raw, queue_depth, take
from tests.support.archive import lines_in
from tests.support.meshes import declared, reconfigured
from tests.support.topologies import shipped_topology
from tests.support.victoria import Series, export
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

NOW_MS = 1_795_000_000_000
KINDS = ("temperature", "humidity")


@pytest.fixture
def env(
    mesh_env: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """A mesh on a broker that speaks MQTT; its archive does not wait long."""
    queues = {"defaults": {"batch": {"count": 50}}}
    env = reconfigured(mesh_env, tmp_path / "config", queues=queues)
    env["MESH_BROKER_URL"] = url = rabbitmq.amqp_url()
    yield declared(env)
    for queue in shipped_topology().domain_queues:
        drain(url, queue)


def wait_for_series(victoria: VictoriaMetrics, **labels: str) -> Series:
    def found() -> list[Series]:
        return [each for each in export(victoria) if each.labels == labels]

    wait_until(found, 30, f"a series with {labels}")
    return found()[0]


def test_a_bare_number_from_an_mqtt_device_is_stored_under_its_topic(
    env: dict[str, str],
    rabbitmq: RabbitMQ,
    victoria: VictoriaMetrics,
    tmp_path: Path,
) -> None:
    with running(Worker(tmp_path, env, "sensors.temperature")):
        mqtt.single(
            "sensors/temperature/living_room",
            "21.5",
            qos=1,
            hostname="127.0.0.1",
            port=rabbitmq.ports.mqtt,
            auth={"username": rabbitmq.user, "password": rabbitmq.password},
        )
        series = wait_for_series(victoria, sensor_id="living_room")

    assert series.name == "temperature_celsius"
    assert list(series.samples.values()) == [21.5]


def test_a_topic_too_long_to_be_delivered_takes_no_good_reading_along(
    env: dict[str, str],
    rabbitmq: RabbitMQ,
    victoria: VictoriaMetrics,
    tmp_path: Path,
) -> None:
    auth: Any = {"username": rabbitmq.user, "password": rabbitmq.password}
    good = [f"sensors/{kind}/good{n}" for n in range(40) for kind in KINDS]
    for topics in ([f"sensors/temperature/{'x' * 300}"], good):
        messages: list[Any] = [
            {"topic": each, "payload": "20.5", "qos": 1} for each in topics
        ]
        mqtt.multiple(messages, "127.0.0.1", rabbitmq.ports.mqtt, auth=auth)

    with running(Worker(tmp_path, env, *(f"sensors.{kind}" for kind in KINDS))):
        wait_until(lambda: len(export(victoria)) == len(good), 100, "all series")

    assert queue_depth(env["MESH_BROKER_URL"], "dead.letter.queue") == 1


def test_a_reading_is_converted_stored_and_archived_as_it_was_written(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    body = b'{"sensor_id": "oven", "value": 212, "unit": "F", "timestamp": %d}' % NOW_MS
    queues = ("sensors.temperature", "archive.events", "archive.metrics")
    with running(Worker(tmp_path, env, *queues)):
        publish_raw(
            env["MESH_BROKER_URL"], "sensors", "sensors.temperature.kitchen", body
        )
        series = wait_for_series(victoria, sensor_id="oven")
        place = Environment(archive_url=env["MESH_ARCHIVE_URL"])
        with closing(open_store(place)) as store:
            wait_until(lambda: lines_in(store), 30, "an archive object")
            (line,) = lines_in(store)

    assert series.samples == {NOW_MS: pytest.approx(100.0)}
    assert line["record"] == json.loads(body)
    assert line["routing_key"] == "sensors.temperature.kitchen"


def test_a_reading_over_a_threshold_raises_an_alert_once(
    env: dict[str, str], tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    with running(Worker(tmp_path, env, "sensors.temperature")):
        for second in range(3):
            reading = {
                "sensor_id": "server",
                "value": 63.0,
                "unit": "C",
                "location": "rack",
                "timestamp": NOW_MS + 1000 * second,
            }
            body = json.dumps(reading).encode()
            publish_raw(url, "sensors", "sensors.temperature.rack", body)
        (alert,) = take(url, "alerts.critical", 1)
        wait_until(
            lambda: queue_depth(url, "sensors.temperature") == 0, 20, "an empty queue"
        )

    said = json.loads(alert.body)
    assert said["title"] == "rack is overheating"
    assert said["severity"] == "critical"
    assert queue_depth(url, "alerts.critical") == 0
    assert queue_depth(url, "alerts.notifications") == 1
