"""The ledger balances: dead letters = requeued + still dead, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.amqp import Delivery, drain, queue_depth, take
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.waiting import wait_until
from tests.support.worker import ROOT, Worker, running

ORIGIN = "sensors.temperature"
COUNT = 600
MESHTASKS = Path(sys.executable).with_name("meshtasks")


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


def replay(env: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """``meshtasks dlq replay --all`` as a process of its own."""
    return subprocess.Popen(
        [MESHTASKS, "dlq", "replay", "--all", *options],
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def interrupted(env: dict[str, str], how: signal.Signals) -> int:
    """Interrupt a replay in the midst of its work; its exit code."""
    url = env["MESH_BROKER_URL"]
    process = replay(env, "--rate", "300")
    wait_until(lambda: queue_depth(url, ORIGIN) >= COUNT / 4, 30, "some to be back")
    process.send_signal(how)
    process.communicate(timeout=300)
    # of one that was killed, the broker brings back what it held
    wait_until(
        lambda: queue_depth(url, QUEUE) + queue_depth(url, ORIGIN) >= COUNT,
        30,
        "all letters to be somewhere",
    )
    assert 0 < queue_depth(url, QUEUE) < COUNT
    return process.returncode


def resumed(env: dict[str, str]) -> list[Delivery]:
    """Replay the rest; everything that is in the origin queue then."""
    process = replay(env)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert queue_depth(env["MESH_BROKER_URL"], QUEUE) == 0
    return drain(env["MESH_BROKER_URL"], ORIGIN)


def test_a_replay_that_is_killed_and_resumed_loses_nothing(
    env: dict[str, str],
) -> None:
    add_dead_letters(env["MESH_BROKER_URL"], map(dead_letter, range(COUNT)))

    interrupted(env, signal.SIGKILL)
    back = Counter(int(each.properties["message_id"]) for each in resumed(env))

    assert sorted(back) == list(range(COUNT))
    # those that were confirmed in their queue but not yet removed as dead letters
    assert back.total() - COUNT <= COUNT / 4


def test_a_replay_that_is_interrupted_repeats_nothing(env: dict[str, str]) -> None:
    add_dead_letters(env["MESH_BROKER_URL"], map(dead_letter, range(COUNT)))

    assert interrupted(env, signal.SIGINT) == 130
    back = [int(each.properties["message_id"]) for each in resumed(env)]

    assert back == list(range(COUNT))


def test_a_letter_that_fails_again_knows_what_it_died_of(
    env: dict[str, str], tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    add_dead_letters(url, [dead_letter(1, "what it died of first")])
    with running(Worker(tmp_path, env, ORIGIN)):
        replay(env).communicate(timeout=300)
        (again,) = take(url, QUEUE, 1, within_seconds=60)

    assert "expected a number" in again.headers["x-mesh-reason"]
    assert again.headers["x-mesh-replays"] == 1
    (before,) = again.headers["x-mesh-history"]
    assert before["reason"] == "what it died of first"
    assert again.headers["x-mesh-routing-key"] == "sensors.temperature.attic"
