"""A worker that is asked, told what to do, or started beside another of its name."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from amqp import NotFound

from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support import scripted
from tests.support.amqp import drain, open_channel, publish_raw
from tests.support.control import answer, asking
from tests.support.meshes import reconfigured
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

MOTION, NOTIFICATIONS = "sensors.motion", "alerts.notifications"


@pytest.fixture
def env(mesh_env: dict[str, str]) -> dict[str, str]:
    return mesh_env


def scripted_worker(
    env: dict[str, str], directory: Path, *queues: str, pool: str = "solo"
) -> Worker:
    directory.mkdir(exist_ok=True)
    arguments = ("-P", pool, "-c", "1")
    app = "tests.support.scripted"
    return Worker(directory, env, *queues, arguments=arguments, app=app)


def publish(env: dict[str, str], queue: str, name: str, **more: Any) -> None:
    body = json.dumps({"id": name, **more}).encode()
    publish_raw(env["MESH_BROKER_URL"], "", queue, body)


def wait_for_effects(env: dict[str, str], *names: str) -> None:
    def done() -> bool:
        effects = scripted.read(Path(env["MESH_STATE_DIR"]), "effects")
        return set(names) <= {each["id"] for each in effects}

    wait_until(done, 40, f"the effects of {names}")


def close_connections(rabbitmq: RabbitMQ, vhost: str) -> None:
    """Close what is connected to the virtual host, once there is anything."""

    def names() -> list[str]:
        found = rabbitmq.api("GET", "/connections")
        return [each["name"] for each in found if each.get("vhost") == vhost]

    wait_until(names, 20, "connections")
    for name in names():
        with suppress(loopback.HTTPFailed):  # it may have ended by itself
            rabbitmq.api("DELETE", f"/connections/{quote(name, safe='')}")


def test_what_was_added_and_cancelled_stays_so_after_a_reconnect(
    env: dict[str, str], rabbitmq: RabbitMQ, mesh_vhost: str, tmp_path: Path
) -> None:
    with running(scripted_worker(env, tmp_path, MOTION, "commands")) as worker:
        with asking(env) as app:
            assert "ok" in answer(app, "add_consumer", queue=NOTIFICATIONS)
            assert "ok" in answer(app, "cancel_consumer", queue=MOTION)
            assert "ok" in answer(app, "cancel_consumer", queue="commands")
            assert "ok" in answer(app, "add_consumer", queue="commands")
        close_connections(rabbitmq, mesh_vhost)
        wait_until(lambda: "Connection to broker lost" in worker.log(), 20, "the loss")
        publish(env, NOTIFICATIONS, "after")

        wait_for_effects(env, "after")
        with asking(env) as app:
            assert answer(app, "mesh_state")["consuming"] == [NOTIFICATIONS]
            queues = [each["name"] for each in answer(app, "active_queues")]
        assert sorted(queues) == [NOTIFICATIONS, "commands"]


def test_a_worker_refuses_what_would_lose_messages_or_do_nothing(
    env: dict[str, str], tmp_path: Path
) -> None:
    refusals: list[tuple[str, dict[str, Any], str]] = [
        ("add_consumer", {"queue": "sensor.motion"}, "did you mean sensors.motion?"),
        ("add_consumer", {"queue": "dead.letter.queue"}, "meshtasks dlq"),
        ("add_consumer", {"queue": "retry.5"}, "no handler"),
        ("add_consumer", {"queue": "devices"}, "no handler"),
        ("cancel_consumer", {"queue": NOTIFICATIONS}, "does not consume"),
        ("rate_limit", {"task_name": MOTION, "rate_limit": "5/m"}, "no rate limit"),
        ("time_limit", {"task_name": MOTION, "hard": 5}, "time_limit_seconds"),
        ("pool_shrink", {"n": 1}, "the last one must stay"),
        ("pool_shrink", {"n": -1}, "above 0"),
    ]
    with (
        running(scripted_worker(env, tmp_path, MOTION, pool="prefork")),
        asking(env) as app,
    ):
        for command, arguments, why in refusals:
            assert why in answer(app, command, **arguments)["error"]
        with open_channel(env["MESH_BROKER_URL"]) as channel, pytest.raises(NotFound):
            channel.queue_declare("sensor.motion", passive=True)
        assert "ok" in answer(app, "pool_grow", n=1)
        publish(env, MOTION, "after")

        wait_for_effects(env, "after")


def test_no_event_ends_a_worker(env: dict[str, str], tmp_path: Path) -> None:
    with running(scripted_worker(env, tmp_path, MOTION)) as worker:
        before = worker.process.pid
        for body in (b"{}", b"[]", b"null", b"[{}]", b'{"type": "worker-online"}'):
            publish_raw(
                env["MESH_BROKER_URL"], "celeryev", "worker.x", body, mandatory=False
            )
            publish_raw(
                env["MESH_BROKER_URL"], "celery.pidbox", "", body, mandatory=False
            )
        publish(env, MOTION, "after")

        wait_for_effects(env, "after")
        assert worker.process.running
        assert worker.process.pid == before


def test_events_of_batches_are_gathered_and_complete_when_a_worker_stops(
    env: dict[str, str], tmp_path: Path
) -> None:
    singly = {MOTION: {"batch": {"count": 1}}}
    env = reconfigured(env, tmp_path / "config", queues={"queues": singly})
    names = [f"motion-{number}" for number in range(20)]
    with open_channel(env["MESH_BROKER_URL"]) as channel:
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        channel.queue_declare("events", durable=True, auto_delete=False)
        channel.queue_bind("events", "celeryev", "task.#")

    with running(scripted_worker(env, tmp_path / "worker", MOTION)) as worker:
        for name in names:
            publish(env, MOTION, name)
        wait_for_effects(env, *names)
        worker.stop()

    messages = [
        json.loads(each.body) for each in drain(env["MESH_BROKER_URL"], "events")
    ]
    kinds = Counter(event["type"] for message in messages for event in message)
    assert kinds == dict.fromkeys(
        ("task-received", "task-started", "task-succeeded"), len(names)
    )
    assert len(messages) < len(names)


def test_a_worker_takes_over_from_a_frozen_one_of_its_name(
    env: dict[str, str], tmp_path: Path
) -> None:
    frozen = scripted_worker(env, tmp_path / "frozen", MOTION)
    with running(frozen):
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            with (
                running(scripted_worker(env, tmp_path / "next", NOTIFICATIONS)) as new,
                asking(env) as app,
            ):
                publish(env, NOTIFICATIONS, "taken over")

                wait_for_effects(env, "taken over")
                assert answer(app, "mesh_state")["consuming"] == [NOTIFICATIONS]
                assert "-n two@%h" in new.log()
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)


def test_a_batch_that_is_revoked_is_run_again_once_its_process_has_ended(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Its messages are the queue's and not the caller's: nobody takes them away."""
    state = Path(env["MESH_STATE_DIR"])
    with (
        running(scripted_worker(env, tmp_path, MOTION, pool="prefork")) as worker,
        asking(env) as app,
    ):
        publish(env, MOTION, "stuck", do="hang", times=1)
        wait_until(lambda: scripted.read(state, "attempts"), 20, "the batch to start")
        (batch,) = answer(app, "active")
        assert "ok" in answer(
            app, "revoke", task_id=batch["id"], terminate=True, signal="SIGKILL"
        )

        wait_for_effects(env, "stuck")
        assert worker.process.running
