"""A time-series store that is away holds up nothing but its points."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from typing_extensions import override

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.archive.objects import open_store
from tests.support.amqp import drain, publish_raw, queue_depth, take
from tests.support.archive import lines_in, lines_sent
from tests.support.command import command_in
from tests.support.handling import settings_of
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
    return mesh_env


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


class Load(threading.Thread):
    """Publishes readings, every tenth an alarm, until it is stopped.

    Attributes:
        published: readings so far.
    """

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.published = 0
        self._env = env
        self._stopping = threading.Event()

    @override
    def run(self) -> None:
        with closing(Publisher(self._env["MESH_BROKER_URL"])) as publisher:
            while not self._stopping.wait(0.05):
                first = self.published
                numbers = range(first + 1, first + 10)
                publisher.publish([hot(first), *map(message, numbers)])
                self.published += 10

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_alarms_and_archive_go_on_and_every_point_is_there_afterwards(
    mesh_env: dict[str, str],
    victoria: VictoriaMetrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    """Of a store that is killed, what it had taken and not yet on disk comes back from
    the archive."""
    text = Path(mesh_env["MESH_CONFIG_DIR"], "queues.yaml").read_text("utf-8")
    assert "30_000" in text
    queues = yaml.safe_load(text.replace("30_000", "200"))
    env = reconfigured(mesh_env, tmp_path / "config", queues=queues)
    url = env["MESH_BROKER_URL"]

    def archived() -> int:
        with closing(open_store(settings_of(env).env)) as store:
            return len(lines_in(store))

    worker = Worker(tmp_path, env, QUEUE, "archive.metrics")
    with running(worker):
        with Load(env) as load:
            wait_until(lambda: count_samples(victoria) > 100, 120, "points before")
            victoria.stop() if end == "stopped" else victoria.kill()
            pending = partial(queue_depth, url, PENDING)
            wait_until(lambda: pending() > 0, 120, "points to be pending")
            drain(url, "alerts.notifications")
            alarms(env, 5)
            before = archived()
            wait_until(lambda: archived() > before, 120, "the archive to go on")
            worker.kill()
            worker.start()
            drain(url, "alerts.notifications")
            alarms(env, 5)
            victoria.start()
        wait_until(lambda: archived() == load.published, 120, "the archive")
        if end == "killed":
            meshtasks = command_in(env, monkeypatch, capsys)
            assert meshtasks("archive", "replay", "--from", "30d").exit_code == 0
        there = partial(count_samples, victoria)
        wait_until(lambda: there() == load.published, 120, "points after")
        depths = partial(map, partial(queue_depth, url), (QUEUE, PENDING))
        wait_until(lambda: not any(depths()), 120, "nothing to wait")

    assert there() == load.published
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
    new_mesh_env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    topology = Path(new_mesh_env["MESH_CONFIG_DIR"], "topology.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(topology)
    content["queues"].append(
        {"name": PENDING, "delivery_limit": None, "max_bytes": 20_000}
    )
    env = declared(reconfigured(new_mesh_env, tmp_path / "config", topology=content))
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
