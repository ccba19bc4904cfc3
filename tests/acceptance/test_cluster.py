"""A cluster of three brokers, of which one after the other is away."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.errors import Transient
from meshtasks.flows.sinks import Sinks
from meshtasks.producers.base import Producer
from tests.support.analytics import archive
from tests.support.cluster import Cluster, Node
from tests.support.command import Command, command_in
from tests.support.flower import Flower
from tests.support.gateway import Gateway
from tests.support.handling import settings_of
from tests.support.meshes import declared, reconfigured
from tests.support.readings import START_MS, message, reading
from tests.support.receiver import Answer, Receiver
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

VHOST = "mesh"
QUEUE = "sensors.temperature"
PER_SECOND = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.nodes[0].create_vhost(VHOST)
        yield cluster


@pytest.fixture
def env(
    cluster: Cluster, victoria: VictoriaMetrics, receiver: Receiver, tmp_path: Path
) -> dict[str, str]:
    """A mesh on the cluster, with one workflow; each event is tried often."""
    workflow = {
        "name": "motion",
        "routing_key": "sensors.motion.#",
        "webhook": {"url": "/webhook/motion"},
    }
    retry = {"max_retries": 50, "retry_backoff_max": 1}
    env = reconfigured(
        {
            "MESH_BROKER_URL": cluster.urls(VHOST),
            "MESH_MANAGEMENT_URL": cluster.management_urls,
            "MESH_CONFIG_DIR": "config",
            "MESH_STATE_DIR": str(tmp_path / "state"),
            "MESH_INFLUX_URL": victoria.url,
            "MESH_ARCHIVE_URL": f"file://{tmp_path / 'archive'}",
            "MESH_N8N_URL": receiver.url,
        },
        tmp_path / "config",
        workflows={"workflows": [workflow]},
        queues={"defaults": {"batch": {"count": 500, "age_ms": 50}, "retry": retry}},
    )
    return declared(env)


class Load:
    """Readings, every tenth a bad one, and an event for every fifth, at a steady rate.

    Attributes:
        readings: good ones that were submitted.
        dead: bad ones.
        events: events.
        pause_seconds: the longest time between two confirmations.
    """

    def __init__(self, urls: str) -> None:
        self.readings = self.dead = self.events = 0
        self.pause_seconds = 0.0
        self._confirmed_at = time.monotonic()
        self.producer = Producer(Publisher(urls), on_confirmed=self._on_confirmed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number, began = 0, time.monotonic()
        while not self._stop.wait(0.02):
            due = int((time.monotonic() - began) * PER_SECOND)
            while number < due:
                self._submit(number)
                number += 1

    def _submit(self, number: int) -> None:
        if number % 10 == 9:
            self.dead += 1
            self.producer.submit_message(message(number, b"{"))
            return
        self.readings += 1
        self.producer.submit_message(message(number))
        if number % 5 == 0:
            self.events += 1
            body = json.dumps({"motion": True, "n": number}).encode()
            event = Outgoing("sensors", "sensors.motion.hall", body, f"e{number}")
            self.producer.submit_message(event)

    def _on_confirmed(self, _messages: object) -> None:
        now = time.monotonic()
        self.pause_seconds = max(self.pause_seconds, now - self._confirmed_at)
        self._confirmed_at = now

    def stop(self) -> None:
        """Submit no more, and wait until all is confirmed."""
        self._stop.set()
        self._thread.join()
        assert not self.producer.stop(60)
        counts = self.producer.counts()
        assert (counts.dropped, counts.unroutable) == (0, 0)

    def __enter__(self) -> Self:
        self.producer.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.producer.stop(0.0)


class DeadLetters(set[str]):
    """The ids of those that were taken from their queue so far."""

    def take(self, urls: str) -> int:
        """Take what is there; how many they are by now. (The length that a node tells
        of a queue may be old after an election.)"""
        with suppress(Transient), connected(urls) as connection:
            channel = connection.channel()
            while (letter := channel.basic_get("dead.letter.queue")) is not None:
                self.add(letter.properties["message_id"])
                channel.basic_ack(letter.delivery_tag)
        return len(self)


@pytest.fixture
def run(
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks …`` on the cluster."""
    return command_in(env, monkeypatch, capsys)


def published(gateway: Gateway, number: int) -> bool:
    """Whether the gateway could publish the reading of that number."""
    answer = gateway.post(f"/v1/events/sensors/{QUEUE}.attic", reading(number))
    return answer.ok


def checks(run: Command) -> dict[str, Any]:
    """What doctor finds, by check."""
    found = json.loads(run("doctor", "--json").stdout)
    return {each["check"]: each for each in found}


@pytest.mark.timeout(600)
def test_nothing_is_lost_while_nodes_are_stopped_killed_and_cut_off(
    cluster: Cluster,
    env: dict[str, str],
    victoria: VictoriaMetrics,
    receiver: Receiver,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    urls = env["MESH_BROKER_URL"]
    letters = DeadLetters()
    worker = Worker(tmp_path, env, QUEUE, "sensors.motion", arguments=("-c", "1"))

    def moved() -> Counter[str]:
        return Counter(
            stored=victoria.rows_inserted(),
            dead=letters.take(urls),
            taken=len(receiver.accepted),
            refused=len(receiver.requests) - len(receiver.accepted),
        )

    def everything_moves(when: str) -> None:
        """Readings, dead letters and events that were refused once go on."""
        enough = moved() + Counter(stored=50, dead=3, taken=6, refused=4)
        receiver.script(*[Answer(500)] * 5)
        wait_until(lambda: enough <= moved(), 120, f"everything to move, {when}")

    with running(worker), Load(urls) as load:
        everything_moves("all nodes are there")
        for end, come_back, how in (
            (Node.stop, Node.start, "stopped"),
            (Node.kill, Node.start, "killed"),
            (Node.kill, Node.start, "killed after that"),
            (Node.cut_off, Node.join_again, "cut off from the others"),
        ):
            leader = cluster.leader_of(VHOST, QUEUE)
            load.pause_seconds = 0.0
            end(leader)
            everything_moves(f"the leader was {how}")
            with capsys.disabled():
                pause = f"{load.pause_seconds:.1f} s without a confirmation"
                sys.stdout.write(f"\nthe leader was {how}: {pause}")
            come_back(leader)
            wait_until(cluster.all_run, 120, "all nodes to run")
        load.stop()
        wait_until(lambda: count_samples(victoria) >= load.readings, 60, "all points")
        wait_until(
            lambda: len(receiver.accepted) >= load.events, 60, "all events to be taken"
        )
        wait_until(lambda: letters.take(urls) >= load.dead, 60, "all dead letters")

    assert count_samples(victoria) == load.readings
    assert len(letters) == load.dead


@pytest.mark.timeout(600)
def test_an_archive_is_replayed_whole_while_the_leader_is_killed(
    cluster: Cluster,
    env: dict[str, str],
    victoria: VictoriaMetrics,
    tmp_path: Path,
    run: Command,
) -> None:
    records = [reading(number) for number in range(3_000)]
    settings = settings_of(env)
    with closing(Sinks(settings)) as sinks:
        for first in range(0, len(records), 250):
            some, start = records[first : first + 250], START_MS / 1000 + first
            archive(sinks, f"{QUEUE}.attic", *some, start=start, name=f"m{first}")
    worker = Worker(tmp_path, env, QUEUE, arguments=("-c", "1"))
    killed: list[Node] = []

    def kill_the_leader() -> None:
        wait_until(lambda: count_samples(victoria) > 0, 120, "the first points")
        leader = cluster.leader_of(VHOST, QUEUE)
        leader.kill()
        killed.append(leader)

    with running(worker):
        killer = threading.Thread(target=kill_the_leader)
        killer.start()
        options = "--from", "2020-01-01", "--rate", 500
        replayed = run("archive", "replay", *options)
        killer.join()
        for node in killed:
            node.start()
        wait_until(lambda: count_samples(victoria) == len(records), 120, "all points")

    assert killed
    assert replayed.exit_code == 0, replayed.stderr
    assert "3,000 sent to sensors" in replayed.stdout


@pytest.mark.timeout(600)
def test_everything_goes_on_without_the_first_node_and_after_none_was_there(
    cluster: Cluster,
    env: dict[str, str],
    victoria: VictoriaMetrics,
    tmp_path: Path,
    run: Command,
) -> None:
    gateway, flower = Gateway(tmp_path, env), Flower(tmp_path, env)
    worker = Worker(tmp_path, env, QUEUE, arguments=("-c", "1"))
    first, other, last = cluster.nodes
    members: list[dict[str, Any]] = []

    def goes_on(number: int) -> None:
        wait_until(lambda: published(gateway, number), 120, "the gateway to publish")
        # what doctor stores is a series of its own
        stored = partial(count_samples, victoria, "temperature_celsius")
        wait_until(lambda: stored() == number, 120, "the worker to store")

    def doctor_calls_members(state: str) -> bool:
        """Each node's management API is some seconds behind, and not as the others."""
        members.append(checks(run)["queue members"])
        return bool(members[-1]["state"] == state)

    with ExitStack() as stack, running(worker):
        for process in (gateway, flower):
            process.start()
            stack.callback(process.process.kill)
        goes_on(1)

        first.run("rabbitmq-upgrade", "drain")  # maintenance: no client gets in
        goes_on(2)
        wait_until(
            lambda: "celery@" in flower.request("GET", "workers?refresh=1").text,
            60,
            "Flower to hear the worker",
        )
        assert run("topology", "check").exit_code == 0
        assert run("dlq", "list").exit_code == 0
        assert json.loads(run("status", "--json").stdout)["workers"]
        found = checks(run)
        assert "1 of 3 nodes" in found["broker"]["text"]
        assert found["queue members"]["state"] == "ok"

        # Of two members one runs: what the node in maintenance has does not.
        other.run("rabbitmq-queues", "shrink", last.name)
        wait_until(
            lambda: doctor_calls_members("failed"), 60, "doctor to miss a majority"
        )
        assert "no message comes in or goes out" in members[-1]["text"]
        assert "rabbitmq-upgrade revive" in members[-1]["remedy"]

        for node in cluster.nodes:
            node.kill()
        cluster.come_back()
        goes_on(3)

    wait_until(lambda: doctor_calls_members("warning"), 60, "doctor to miss a member")
    assert "2 of 3 members" in members[-1]["text"]
    remedy = f"rabbitmq-queues grow {last.name} all --vhost-pattern"
    assert members[-1]["remedy"].startswith(remedy)
