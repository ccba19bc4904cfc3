"""A time-series store that is away holds up nothing but its points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.victoriametrics import VictoriaMetrics
from tests.support.amqp import drain, publish_raw, queue_depth, take
from tests.support.archive import lines_sent
from tests.support.liar import LIES, Liar
from tests.support.meshes import declared, reconfigured
from tests.support.readings import message, reading
from tests.support.receiver import Answer, Receiver, Request
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE, PENDING = "sensors.temperature", "pending.timeseries"


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return declared(mesh_env)


def publish(env: dict[str, str], messages: list[Outgoing]) -> None:
    publisher = Publisher(env["MESH_BROKER_URL"])
    publisher.publish(messages)
    publisher.close()


def hot(number: int) -> Outgoing:
    """A reading of a sensor of its own that gives an alert."""
    body = reading(number, sensor_id=f"hot{number}", value=60.0)
    return message(number, json.dumps(body).encode())


def alarms(env: dict[str, str], count: int) -> None:
    take(env["MESH_BROKER_URL"], "alerts.notifications", count, within_seconds=120)


def wait_until_archived(env: dict[str, str], count: int) -> None:
    ids: set[str] = set()

    def are_sent() -> bool:
        for sent in drain(env["MESH_BROKER_URL"], "archive.metrics"):
            ids.update(line["id"] for line in lines_sent(sent.body))
        return len(ids) >= count

    wait_until(are_sent, 120, f"{count} records on their way to the archive")


def test_alarms_and_archive_go_on_and_every_point_is_stored_afterwards(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    good = [message(number) for number in range(12_000)]
    worker = Worker(tmp_path, env, QUEUE)
    with running(worker):
        publish(env, good[:2_000])
        wait_until(lambda: count_samples(victoria) == 2_000, 120, "points before")
        victoria.stop()
        publish(env, [*good[2_000:6_000], hot(20_000)])
        alarms(env, 1)
        wait_until_archived(env, 6_001)
        worker.kill()
    with running(worker):
        publish(env, [*good[6_000:], hot(20_001)])
        alarms(env, 1)
        assert queue_depth(url, PENDING) > 0
        victoria.start()
        wait_until(lambda: count_samples(victoria) == 12_002, 120, "points after")
        wait_until(lambda: not queue_depth(url, PENDING), 120, "nothing to be pending")

    assert count_samples(victoria) == 12_002
    assert [queue_depth(url, queue) for queue in (QUEUE, PENDING)] == [0, 0]
    assert drain(url, "dead.letter.queue") == []


@pytest.mark.parametrize("lie", ["hanging", "login page"])
def test_alarms_do_not_wait_for_a_store_that_lies(
    env: dict[str, str], tmp_path: Path, lie: str
) -> None:
    with (
        Liar(LIES[lie]) as store,
        running(Worker(tmp_path, {**env, "MESH_INFLUX_URL": store.url}, QUEUE)) as it,
    ):
        publish(env, [hot(0)])
        alarms(env, 1)
        wait_until(lambda: "timeseries is open" in it.log(), 120, "the circuit to open")
        for number in range(1, 4):
            publish(env, [hot(number)])
            alarms(env, 1)
        pending = "Paused pending.timeseries"
        wait_until(lambda: pending in it.log(), 120, "the one queue to be paused")

        assert "Paused sensors" not in it.log()


class Choosy(Receiver):
    """A store that is away until it is told otherwise, and refuses certain lines."""

    is_away = True

    @override
    def receive(self, request: Request) -> Answer:
        bad = [line for line in request.body.decode().splitlines() if "bad" in line]
        if self.is_away:
            self.always = Answer(503)
        elif bad:
            refusals = [f"unable to parse '{line}': bad timestamp" for line in bad]
            text = "partial write: " + "\n".join(refusals) + f" dropped={len(bad)}"
            self.always = Answer(400, json.dumps({"message": text}).encode())
        else:
            self.always = Answer(204)
        return super().receive(request)

    def stored(self) -> set[bytes]:
        return {line for each in self.accepted for line in each.body.splitlines()}


def test_a_line_that_the_store_refuses_later_is_a_dead_letter_of_its_own_queue(
    env: dict[str, str], tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    one = json.dumps(reading(0, sensor_id="bad")).encode()
    member = json.dumps(reading(1, sensor_id="bad"))
    several = f"[{json.dumps(reading(2))}, {member}]".encode()
    with (
        Choosy() as store,
        running(Worker(tmp_path, {**env, "MESH_INFLUX_URL": store.url}, QUEUE)),
    ):
        key = "sensors.temperature.attic"
        table = {"x-color": b"\xff"}
        publish_raw(url, "sensors", key, one, message_id="m1", headers=table)
        publish_raw(url, "sensors", key, several)
        publish(env, [message(number) for number in range(10, 20)])
        wait_until_archived(env, 13)
        store.is_away = False
        letters = take(url, "dead.letter.queue", 2, within_seconds=120)
        wait_until(lambda: len(store.stored()) == 11, 120, "the others to be stored")

    assert {letter.body for letter in letters} == {one, member.encode()}
    of_array = next(each for each in letters if each.body == member.encode())
    alone = next(each for each in letters if each.body == one)
    assert of_array.headers[headers.RECORD_INDEX] == 1
    assert alone.properties["message_id"] == "m1"
    for letter in letters:
        assert letter.headers[headers.QUEUE] == QUEUE
        assert letter.headers[headers.ROUTING_KEY] == "sensors.temperature.attic"
        assert letter.headers[headers.EXCHANGE] == "sensors"
        assert "bad timestamp" in letter.headers[headers.REASON]
        assert letter.headers[headers.ERROR_TYPE] == "SinkRejected"


def test_once_no_more_may_be_pending_the_queue_of_readings_is_paused(
    mesh_env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    topology = Path(mesh_env["MESH_CONFIG_DIR"], "topology.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(topology)
    content["queues"].append(
        {"name": PENDING, "delivery_limit": None, "max_bytes": 20_000}
    )
    env = declared(reconfigured(mesh_env, tmp_path / "config", topology=content))
    good = [message(number) for number in range(3_000)]
    victoria.stop()
    with running(Worker(tmp_path, env, QUEUE)) as worker:
        for start in range(0, 3_000, 300):
            publish(env, good[start : start + 300])
        paused = f"Paused {QUEUE}"
        wait_until(lambda: paused in worker.log(), 120, "the queue to be paused")
        victoria.start()
        wait_until(lambda: count_samples(victoria) == 3_000, 120, "points after")
        wait_until(lambda: f"Resumed {QUEUE}" in worker.log(), 120, "it to go on")

    assert count_samples(victoria) == 3_000
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []
