"""Stores that look well and are not: nothing is lost, and they are left in peace."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from typing_extensions import override

from tests.support.amqp import drain, publish_raw, queue_depth
from tests.support.receiver import Answer, Receiver, Request
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUES = ("sensors.temperature", "sensors.humidity", "metrics.system")
#: More than a message has attempts.
TRIES = 7
LOGGED = re.compile(r"\[[^]]*(WARNING|ERROR|CRITICAL)|.*retry=[1-9]")


#: What it says then, one after the other.
TROUBLES = itertools.cycle(
    [
        Answer(500, b'{"code":"internal error","message":"no space left on device"}'),
        Answer(200, b"<!DOCTYPE html><html>Please log in</html>"),
        Answer(400, b'{"message":"Please provide either orgID or org"}'),
        Answer(400, b"Client sent an HTTP request to an HTTPS server."),
        Answer(302, headers={"Location": "/login"}),
    ]
)


class TroubledStore(Receiver):
    """Takes an empty write, and refuses every other one while it is in trouble."""

    full = False
    refused = 0

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[tuple[Request, int]] = []

    @override
    def receive(self, request: Request) -> Answer:
        self.always = Answer(204)
        if self.full and request.body:
            self.always = next(TROUBLES)
            self.refused += 1
        answer = super().receive(request)
        self.answered.append((request, answer.status))
        return answer

    def stored(self) -> set[bytes]:
        taken = [each for each, status in self.answered if status == 204]
        return {line for each in taken for line in each.body.splitlines()}


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


def publish(env: dict[str, str], first: int, count: int) -> None:
    numbers = range(first, first + count)
    bodies = [b'{"value": 20, "timestamp": %d}' % (1_795_440_000 + n) for n in numbers]
    for kind in ("temperature", "humidity"):
        publish_raw(env["MESH_BROKER_URL"], "sensors", f"sensors.{kind}.attic", *bodies)


def test_a_store_that_refuses_writes_and_passes_its_probe_loses_nothing(
    env: dict[str, str], tmp_path: Path
) -> None:
    with (
        TroubledStore() as store,
        running(
            Worker(tmp_path, {**env, "MESH_INFLUX_URL": store.url}, *QUEUES)
        ) as worker,
    ):
        publish(env, 0, 100)
        wait_until(lambda: len(store.stored()) == 200, 30, "points before")
        store.full = True
        publish(env, 100, 100)
        wait_until(lambda: store.refused >= TRIES, 30, "tries that fail")
        publish(env, 200, 100)
        store.full = False
        wait_until(lambda: len(store.stored()) == 600, 10, "points after")
        wait_until(lambda: "Resumed pending.timeseries" in worker.log(), 10, "the end")
        said = [line for line in worker.log().splitlines() if LOGGED.match(line)]

    assert sum("is open, its queues" in line for line in said) == 1
    assert len(said) < 30
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []
    assert [queue_depth(env["MESH_BROKER_URL"], queue) for queue in QUEUES] == [0, 0, 0]
