"""Looking at a queue changes nothing that matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meshtasks.amqp.peek import QueueBusy, peek
from meshtasks.errors import ConfigError
from tests.support.amqp import drain, open_channel, publish_raw, queue_depth
from tests.support.dead_letters import QUEUE, add_dead_letters, dead_letter
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

#: Looks at half of the queue's messages, says so, and is killed.
_LOOKER = """
import sys, threading
from meshtasks.amqp.peek import peek
with peek(sys.argv[1], sys.argv[2], prefetch=40) as held:
    for delivery in held:
        if held.seen == held.total // 2:
            print("half", flush=True)
            threading.Event().wait()
"""


def fill(url: str, count: int) -> None:
    add_dead_letters(url, map(dead_letter, range(count)))


def seen(url: str, **options: int) -> list[int]:
    with peek(url, QUEUE, **options) as held:  # type: ignore[arg-type]
        return [int(each.properties["message_id"]) for each in held]


def ids_left(url: str) -> list[int]:
    return [int(each.properties["message_id"]) for each in drain(url, QUEUE)]


def test_all_messages_are_seen_in_their_order(mesh_url: str) -> None:
    fill(mesh_url, 200)
    assert seen(mesh_url, prefetch=40) == list(range(200))


def test_they_keep_their_order_however_often_they_are_looked_at(mesh_url: str) -> None:
    fill(mesh_url, 200)
    for _ in range(22):  # other queues allow 20 deliveries
        seen(mesh_url, prefetch=40)
    assert ids_left(mesh_url) == list(range(200))


def test_they_keep_their_order_if_not_all_are_looked_at(mesh_url: str) -> None:
    fill(mesh_url, 200)
    for count in (7, 150, 60):
        stopping = threading.Event()
        with peek(mesh_url, QUEUE, stopping=stopping, prefetch=40) as held:
            for _ in held:
                if held.seen == count:
                    stopping.set()
        assert seen(mesh_url) == list(range(200))
    assert ids_left(mesh_url) == list(range(200))


def test_they_keep_their_order_if_the_looker_is_killed(mesh_url: str) -> None:
    fill(mesh_url, 200)
    looker = subprocess.Popen(
        [sys.executable, "-c", _LOOKER, mesh_url, QUEUE],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert looker.stdout
    assert looker.stdout.readline() == b"half\n"
    looker.send_signal(signal.SIGKILL)
    looker.communicate()

    wait_until(lambda: queue_depth(mesh_url, QUEUE) == 200, 30, "all to be back")
    assert ids_left(mesh_url) == list(range(200))


def test_what_is_removed_is_gone_and_the_rest_is_in_order(mesh_url: str) -> None:
    fill(mesh_url, 1_000)
    with peek(mesh_url, QUEUE, prefetch=40) as held:
        for each in held:
            if int(each.properties["message_id"]) % 10:
                held.remove([each.tag])
    assert ids_left(mesh_url) == list(range(0, 1_000, 10))


def test_messages_that_somebody_else_has_are_missing(
    mesh_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtasks.amqp.peek._PATIENCE_SECONDS", 0.5)
    fill(mesh_url, 30)
    with peek(mesh_url, QUEUE, prefetch=10) as held, open_channel(mesh_url) as channel:
        channel.basic_get(QUEUE)
        assert len(list(held)) == 29
        assert held.missing == 1


def test_messages_that_come_meanwhile_are_left_for_the_next_look(
    mesh_url: str,
) -> None:
    fill(mesh_url, 3)
    with peek(mesh_url, QUEUE) as held:
        add_dead_letters(mesh_url, [dead_letter(3)])
        assert [int(each.properties["message_id"]) for each in held] == [0, 1, 2]
    assert ids_left(mesh_url) == [0, 1, 2, 3]


def test_nobody_else_can_look_meanwhile(mesh_url: str) -> None:
    with peek(mesh_url, QUEUE), pytest.raises(QueueBusy, match="another process"):
        seen(mesh_url)
    assert seen(mesh_url) == []


def test_any_bytes_may_be_in_a_message(mesh_url: str) -> None:
    publish_raw(mesh_url, "dead.letter", "#", b"\xff\x00")
    with peek(mesh_url, QUEUE) as held:
        assert [each.body for each in held] == [b"\xff\x00"]


def test_a_queue_that_is_not_there_is_named(amqp_url: str) -> None:
    with pytest.raises(ConfigError, match=r"nobody.*topology apply"):
        seen_in(amqp_url, "nobody")


def seen_in(url: str, queue: str) -> int:
    with peek(url, queue) as held:
        return held.seen
