"""The ledger balances: messages in = stored + dead-lettered, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import drain, has_registered, queue_depth, take
from tests.support.meshes import declared
from tests.support.readings import bad_bodies, message
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUE = "sensors.temperature"


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


def publish(env: dict[str, str], messages: list[Outgoing]) -> None:
    publisher = Publisher(env["MESH_BROKER_URL"])
    publisher.publish(messages)
    publisher.close()


@contextmanager
def publishing(env: dict[str, str], messages: list[Outgoing]) -> Iterator[None]:
    """Publish from a thread while the test goes on."""
    thread = threading.Thread(target=publish, args=(env, messages))
    thread.start()
    yield
    thread.join()


def wait_until_stored(victoria: VictoriaMetrics, count: int, within: float) -> None:
    wait_until(lambda: count_samples(victoria) >= count, within, f"{count} points")


def test_good_readings_are_stored_and_bad_ones_dead_lettered_with_a_reason(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    good = [message(number) for number in range(4_750)]
    bad = {
        f"m{number}": (words, message(number, body))
        for number, (words, body) in enumerate(islice(bad_bodies(), 250), 5_000)
    }
    with running(Worker(tmp_path, env, QUEUE, arguments=("-c", "2"))):
        for start in range(0, 250, 25):  # 25 bad ones after every 475 good
            publish(env, good[start * 19 : (start + 25) * 19])
            publish(env, [each for _, each in list(bad.values())[start : start + 25]])
        stored = len(good) + 25  # the good members of arrays with a bad one
        wait_until_stored(victoria, stored, within=60)
        letters = take(env["MESH_BROKER_URL"], "dead.letter.queue", len(bad))

    assert count_samples(victoria) == stored
    assert len(letters) == len(bad)
    for letter in letters:
        words, original = bad[letter.properties["message_id"]]
        assert words in letter.headers[headers.REASON]
        assert letter.headers[headers.ROUTING_KEY] == original.routing_key
        if headers.RECORD_INDEX in letter.headers:  # of an array, the bad member
            assert original.body.endswith(letter.body + b"]")
        else:
            assert letter.body == original.body
    assert queue_depth(env["MESH_BROKER_URL"], QUEUE) == 0


def test_a_pool_process_killed_again_and_again_loses_nothing(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    good = [message(number) for number in range(10_000)]

    with running(Worker(tmp_path, env, QUEUE, arguments=("-c", "2"))) as worker:
        with publishing(env, good):
            for stored in (1_000, 4_000):
                wait_until_stored(victoria, stored, within=30)
                os.kill(worker.pool_pids()[0], signal.SIGKILL)
        wait_until_stored(victoria, len(good), within=60)

    assert count_samples(victoria) == len(good)
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []


def test_a_worker_killed_and_started_again_loses_nothing(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    good = [message(number) for number in range(10_000)]
    publish(env, good)
    killed = Worker(tmp_path, env, QUEUE)
    killed.start()
    wait_until_stored(victoria, 500, within=30)
    killed.kill()

    with running(Worker(tmp_path, env, QUEUE)):
        wait_until_stored(victoria, len(good), within=60)

    assert count_samples(victoria) == len(good)
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []


def test_a_worker_consumes_again_after_every_restart_of_the_broker(
    mesh_env: dict[str, str],
    victoria: VictoriaMetrics,
    tmp_path: Path,
    new_rabbitmq: Callable[..., RabbitMQ],
) -> None:
    node = new_rabbitmq()
    env = declared({**mesh_env, "MESH_BROKER_URL": node.amqp_url()})
    wait_until(lambda: has_registered(node, QUEUE), 30, "the queue to be durable")

    with running(Worker(tmp_path, env, QUEUE, arguments=("-c", "2"))):
        for round_ in range(2):
            first = round_ * 1_000
            publish(env, [message(first + number) for number in range(1_000)])
            node.restart() if round_ else node.kill()
            if not node.process.running:
                node.start()
        wait_until_stored(victoria, 2_000, within=90)

    assert count_samples(victoria) == 2_000
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []


def test_nothing_is_dead_after_the_store_was_down_for_thirty_seconds(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    good = [message(number) for number in range(4_000)]
    url = env["MESH_BROKER_URL"]

    with running(Worker(tmp_path, env, QUEUE, arguments=("-c", "2"))) as worker:
        publish(env, good[:1_000])
        wait_until_stored(victoria, 1_000, within=30)
        victoria.stop()
        outage = threading.Timer(30.0, victoria.start)
        outage.start()
        publish(env, good[1_000:])
        wait_until(lambda: "Paused" in worker.log(), 20, "the queue to be paused")
        outage.join()
        wait_until_stored(victoria, len(good), within=60)

    assert count_samples(victoria) == len(good)
    assert drain(url, "dead.letter.queue") == []
