"""A queue in partitions: the readings of a sensor are handled in order, by several
workers, whichever of them dies."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.environment import Environment
from meshtasks.demo.rabbitmq import MANAGEMENT, PARTITIONS, RabbitMQ
from tests.conftest import ROOT
from tests.support.amqp import drain
from tests.support.command import Command, command
from tests.support.meshes import declared, reconfigured
from tests.support.topologies import shipped_document
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE = "metrics.system"
PARTS = [f"{QUEUE}.part-{index}" for index in range(4)]
SENSORS = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    directory = tmp_path_factory.mktemp("partitions")
    node = RabbitMQ(directory, plugins=(MANAGEMENT, PARTITIONS))
    node.start()
    yield node
    node.kill()


def document(partitions: int | None) -> dict[str, Any]:
    topology = shipped_document()
    for queue in topology["queues"]:
        if queue["name"] == QUEUE:
            queue["partitions"] = partitions
    return topology


@pytest.fixture
def env(
    broker: RabbitMQ, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[dict[str, str]]:
    """A mesh with that queue in four partitions."""
    vhost = request.node.name
    broker.create_vhost(vhost)
    env = {
        "MESH_BROKER_URL": broker.amqp_url(vhost),
        "MESH_MANAGEMENT_URL": broker.management_url,
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "MESH_STATE_DIR": str(tmp_path / "state"),
    }
    yield declared(reconfigured(env, tmp_path / "config", topology=document(4)))
    broker.delete_vhost(vhost)


@pytest.fixture
def run(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return command(Environment(), monkeypatch, capsys)


def metric(number: int, **more: object) -> Outgoing:
    sensor = number % SENSORS
    body = json.dumps({"id": f"{sensor}:{number:06}", **more}).encode()
    return Outgoing("metrics", f"{QUEUE}.host{sensor}.cpu", body, f"m{number}")


def publish(env: dict[str, str], messages: list[Outgoing]) -> None:
    with closing(Publisher(env["MESH_BROKER_URL"])) as publisher:
        publisher.publish(messages)


def handled(env: dict[str, str], name: str = "effects") -> list[str]:
    path = Path(env["MESH_STATE_DIR"]) / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["id"] for line in lines]


def worker(env: dict[str, str], directory: Path, name: str) -> Worker:
    directory /= name
    directory.mkdir()
    arguments = ("-c", "2", "-n", f"{name}@%h")
    return Worker(
        directory, env, QUEUE, arguments=arguments, app="tests.support.ordered"
    )


def shares(broker: RabbitMQ, vhost: str) -> list[int]:
    """How many partitions each worker has."""
    counts: dict[str, int] = defaultdict(int)
    for part in PARTS:
        found = broker.api("GET", f"/queues/{vhost}/{part}")
        for each in found.get("consumer_details", []):
            if channel := each["channel_details"]:  # not yet, of a new one
                counts[channel["connection_name"]] += bool(each["active"])
    return sorted(counts.values())


@pytest.mark.timeout(600)
def test_the_order_of_each_sensor_is_kept_while_workers_share_and_die(
    env: dict[str, str], broker: RabbitMQ, tmp_path: Path, request: Any
) -> None:
    vhost = request.node.name
    numbers = itertools.count()
    dead = set()

    def feed(many: int) -> None:
        messages = []
        for number in itertools.islice(numbers, many):
            is_bad = number % 100 == 99
            messages.append(metric(number, **({"do": "dead"} if is_bad else {})))
            dead.update([f"m{number}"] if is_bad else [])
        publish(env, messages)

    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            feed(10)

    first, second = (worker(env, tmp_path, name) for name in ("one", "two"))
    with running(first):
        feed(500)
        thread = threading.Thread(target=trickle)
        thread.start()
        second.start()
        try:
            wait_until(lambda: shares(broker, vhost) == [2, 2], 60, "fair shares")
            second.kill()
            wait_until(lambda: shares(broker, vhost) == [4], 60, "one to have all")
            second.start()
            wait_until(lambda: shares(broker, vhost) == [2, 2], 60, "fair shares")
            first.kill()
            wait_until(
                lambda: shares(broker, vhost) == [4], 60, "the other to have all"
            )
        finally:
            stop.set()
            thread.join()
        published = next(numbers)
        wait_until(
            lambda: len(set(handled(env))) == published - len(dead),
            60,
            "all to be done",
        )
        letters = drain(env["MESH_BROKER_URL"], "dead.letter.queue")
        second.stop()
    assert {each.properties["message_id"] for each in letters} == dead
    assert {each.headers["x-mesh-queue"] for each in letters} == {QUEUE}
    latest: dict[str, int] = {}
    seen = set()
    for each in handled(env):
        sensor, _, number = each.partition(":")
        if each not in seen:  # what was in hand when a worker died comes again
            assert int(number) > latest.get(sensor, -1)
            latest[sensor] = int(number)
        seen.add(each)
