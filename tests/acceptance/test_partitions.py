"""A queue in partitions: the readings of a sensor are handled in order, by several
workers, whichever of them dies."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtasks.amqp import headers, repartition
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import peek
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.loopback import free_port
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError
from tests.conftest import ROOT
from tests.support.amqp import drain, publish_raw, queue_depth
from tests.support.command import Command, command_in
from tests.support.control import answer, asking
from tests.support.meshes import declared, reconfigured
from tests.support.topologies import shipped_document
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE = "metrics.system"
PARTS = [f"{QUEUE}.part-{index}" for index in range(4)]
SENSORS = 20


def document(partitions: int | None) -> dict[str, Any]:
    topology = shipped_document()
    for queue in topology["queues"]:
        if queue["name"] == QUEUE:
            queue["partitions"] = partitions
    return topology


@pytest.fixture
def env(amqp_url: str, rabbitmq: RabbitMQ, tmp_path: Path) -> dict[str, str]:
    """A mesh with that queue in four partitions."""
    env = {
        "MESH_BROKER_URL": amqp_url,
        "MESH_MANAGEMENT_URL": rabbitmq.management_url,
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "MESH_STATE_DIR": str(tmp_path / "state"),
    }
    return declared(reconfigured(env, tmp_path / "config", topology=document(4)))


@pytest.fixture
def run(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    return command_in(env, monkeypatch, capsys)


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


def shares(rabbitmq: RabbitMQ, vhost: str) -> list[int]:
    """How many partitions each worker has."""
    counts: dict[str, int] = defaultdict(int)
    for part in PARTS:
        found = rabbitmq.api("GET", f"/queues/{vhost}/{part}")
        for each in found.get("consumer_details", []):
            if channel := each["channel_details"]:  # not yet, of a new one
                counts[channel["connection_name"]] += bool(each["active"])
    return sorted(counts.values())


@pytest.mark.timeout(600)
def test_the_order_of_each_sensor_is_kept_while_workers_share_and_die(
    env: dict[str, str], rabbitmq: RabbitMQ, vhost: str, tmp_path: Path
) -> None:
    numbers = itertools.count()
    dead = set()

    def feed(many: int) -> None:
        messages = []
        for number in itertools.islice(numbers, many):
            is_bad = number % 50 == 49
            messages.append(metric(number, **({"do": "dead"} if is_bad else {})))
            dead.update([f"m{number}"] if is_bad else [])
        publish(env, messages)

    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            feed(5)

    first, second = (worker(env, tmp_path, name) for name in ("one", "two"))
    with running(first):
        feed(500)
        thread = threading.Thread(target=trickle)
        thread.start()
        second.start()
        try:
            wait_until(lambda: shares(rabbitmq, vhost) == [2, 2], 60, "fair shares")
            second.kill()
            wait_until(lambda: shares(rabbitmq, vhost) == [4], 60, "one to have all")
            second.start()
            wait_until(lambda: shares(rabbitmq, vhost) == [2, 2], 60, "fair shares")
            first.kill()
            wait_until(
                lambda: shares(rabbitmq, vhost) == [4], 60, "the other to have all"
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


def taken(url: str, queue: str) -> list[Delivery]:
    """Take what is in a partition: it can only be consumed, and not fetched."""
    with peek(url, queue) as held:
        found = list(held)
        held.remove([each.tag for each in found])
    return found


def part_of(url: str, message: Outgoing) -> str:
    """The partition that a message comes to; it is taken from there."""
    with closing(Publisher(url)) as publisher:
        publisher.publish([message])
    found = [part for part in PARTS if taken(url, part)]
    assert len(found) == 1
    return found[0]


def test_a_dead_letter_is_replayed_to_the_partition_of_its_routing_key(
    env: dict[str, str], run: Command
) -> None:
    url, messages = env["MESH_BROKER_URL"], [metric(number) for number in range(6)]
    parts = [part_of(url, message) for message in messages]
    for message in messages:
        origin = {
            headers.QUEUE: QUEUE,
            headers.EXCHANGE: "metrics",
            headers.ROUTING_KEY: message.routing_key,
            headers.REASON: "it was told to die",
        }
        publish_raw(url, "dead.letter", "#", message.body, headers=origin)

    assert run("dlq", "replay", "--queue", QUEUE).exit_code == 0

    for part in PARTS:
        deliveries = taken(url, part)
        mine = [m for m, where in zip(messages, parts, strict=True) if where == part]
        assert [each.body for each in deliveries] == [each.body for each in mine]
        assert all(headers.REPLAYS in each.headers for each in deliveries)


def test_a_retry_is_for_its_partition_and_consumers_come_and_go(
    env: dict[str, str], tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    patient = {"retry_backoff": 600, "retry_backoff_max": 600, "retry_jitter": False}
    queues = {"defaults": {"retry": patient}}
    env = reconfigured(env, tmp_path / "patient", queues=queues)
    failing = metric(5, do="retry")
    part = part_of(url, failing)

    with running(worker(env, tmp_path, "one")), asking(env) as app:
        publish(env, [failing])
        wait_until(lambda: queue_depth(url, "retry.600"), 60, "the retry")
        (waiting,) = drain(url, "retry.600")
        assert waiting.routing_key == part

        assert "ok" in answer(app, "cancel_consumer", queue=QUEUE)
        assert answer(app, "mesh_state")["consuming"] == []
        publish(env, [metric(number) for number in range(100, 140)])
        assert "ok" in answer(app, "add_consumer", queue=QUEUE)
        wait_until(lambda: len(set(handled(env))) == 40, 60, "all to be done")


def test_a_change_of_their_number_strands_nothing(
    env: dict[str, str], run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, file = env["MESH_BROKER_URL"], Path(env["MESH_CONFIG_DIR"]) / "topology.yaml"
    monkeypatch.setattr(repartition, "_EMPTY_SECONDS", 0.0)
    of_last = next(m for n in range(100) if part_of(url, m := metric(n)) == PARTS[3])
    publish(env, [of_last])
    assert run("topology", "check").exit_code == 0

    file.write_text(yaml.safe_dump(document(2)))

    refused = run("topology", "apply", "--within", "1")
    assert refused.exit_code == 69
    assert "1 messages wait; nothing was changed" in refused.stderr
    with pytest.raises(ConfigError, match="4 partitions on the broker"):
        declared(env)
    assert f"queue {PARTS[3]}" in run("topology", "check").stdout
    assert len(taken(url, PARTS[3])) == 1
    changed = run("topology", "apply", "--within", "60")
    assert changed.exit_code == 0, changed.stderr
    assert f"{PARTS[3]} was empty and is deleted" in changed.stdout
    assert run("topology", "check").exit_code == 0
    publish(env, [of_last])
    assert sum(len(taken(url, part)) for part in PARTS[:2]) == 1

    file.write_text(yaml.safe_dump(document(None)))
    assert run("topology", "apply", "--within", "60").exit_code == 0
    assert run("topology", "check").exit_code == 0
    publish(env, [of_last])
    assert len(taken(url, QUEUE)) == 1

    file.write_text(yaml.safe_dump(document(3)))
    assert run("topology", "apply", "--within", "60").exit_code == 0
    assert run("topology", "check").exit_code == 0
    publish(env, [of_last])
    assert sum(len(taken(url, part)) for part in PARTS[:3]) == 1


def test_their_number_is_not_changed_if_the_management_api_is_away(
    env: dict[str, str], run: Command
) -> None:
    file = Path(env["MESH_CONFIG_DIR"]) / "topology.yaml"
    file.write_text(yaml.safe_dump(document(2)))
    away = f"http://127.0.0.1:{free_port()}"

    failed = run("topology", "apply", "--management-url", away)

    assert failed.exit_code == 69, failed.stderr
    file.write_text(yaml.safe_dump(document(4)))
    assert run("topology", "check").exit_code == 0
