"""A real worker while its broker is short of memory."""

from __future__ import annotations

import json
from pathlib import Path

from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.alarm import memory_alarm
from tests.support.amqp import drain, publish_raw, take
from tests.support.waiting import wait_until
from tests.support.worker import IMPATIENT, Worker, running

QUEUE, DEAD = "sensors.temperature", "dead.letter.queue"


def publish_bad(url: str, first: int, count: int) -> None:
    numbers = range(first, first + count)
    bodies = [json.dumps({"value": "n/a", "n": n}).encode() for n in numbers]
    publish_raw(url, "sensors", "sensors.temperature.attic", *bodies)


def test_bad_messages_become_one_dead_letter_each_and_the_worker_ends_when_told(
    mesh_env: dict[str, str], rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    url = mesh_env["MESH_BROKER_URL"]
    worker = Worker(tmp_path, mesh_env, QUEUE, app=IMPATIENT)

    def held_up() -> bool:
        return worker.log().count("short of memory") > 1

    publish_bad(url, 0, 200)
    with memory_alarm(rabbitmq):
        worker.start()
        wait_until(held_up, 30, "two attempts")
    letters = take(url, DEAD, 200)
    worker.stop()
    publish_bad(url, 200, 5)
    with memory_alarm(rabbitmq), running(worker):
        wait_until(held_up, 30, "two attempts")
        assert worker.stop() == 0

    numbers = [json.loads(each.body)["n"] for each in letters + drain(url, DEAD)]
    assert sorted(n for n in numbers if n < 200) == list(range(200))
