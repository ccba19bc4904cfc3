"""A worker resumes consuming after every trouble with its broker."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import amqp
import pytest

from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support import scripted
from tests.support.amqp import open_channel, publish_raw
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE = "sensors.motion"
APP = "tests.support.scripted"


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


def publish(env: dict[str, str], *records: dict[str, object]) -> None:
    bodies = [json.dumps(record).encode() for record in records]
    publish_raw(env["MESH_BROKER_URL"], "sensors", "sensors.motion.hall", *bodies)


def wait_for_effect(env: dict[str, str], name: str) -> None:
    def done() -> bool:
        effects = scripted.read(Path(env["MESH_STATE_DIR"]), "effects")
        return Counter(each["id"] for each in effects)[name] > 0

    wait_until(done, 40, f"the effect of {name}")


def test_after_its_connections_were_closed(
    env: dict[str, str], rabbitmq: RabbitMQ, mesh_vhost: str, tmp_path: Path
) -> None:
    with running(Worker(tmp_path, env, QUEUE, app=APP)) as worker:
        wait_until(lambda: connections(rabbitmq, mesh_vhost), 20, "connections")
        for name in connections(rabbitmq, mesh_vhost):
            with suppress(loopback.HTTPFailed):  # it may have ended by itself
                rabbitmq.api("DELETE", f"/connections/{quote(name, safe='')}")
        wait_until(lambda: "Connection to broker lost" in worker.log(), 20, "the loss")
        publish(env, {"id": "after"})

        wait_for_effect(env, "after")


def connections(rabbitmq: RabbitMQ, vhost: str) -> list[str]:
    return [
        each["name"]
        for each in rabbitmq.api("GET", "/connections")
        if each.get("vhost") == vhost
    ]


def test_after_its_queue_was_deleted(env: dict[str, str], tmp_path: Path) -> None:
    with running(Worker(tmp_path, env, QUEUE, app=APP)):
        with open_channel(env["MESH_BROKER_URL"]) as channel:
            channel.queue_delete(QUEUE)
        wait_until(lambda: is_consumed(env), 20, "the queue to be consumed again")
        publish(env, {"id": "after"})

        wait_for_effect(env, "after")


def is_consumed(env: dict[str, str]) -> bool:
    with open_channel(env["MESH_BROKER_URL"]) as channel:
        try:
            answer = channel.queue_declare(QUEUE, passive=True)
        except amqp.NotFound:
            return False
    return bool(answer.consumer_count)
