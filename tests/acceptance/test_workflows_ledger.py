"""The ledger of workflows: events in = taken + dead, whatever n8n does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from tests.support.amqp import drain, queue_depth, take
from tests.support.archive import lines_sent
from tests.support.meshes import reconfigured
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

QUEUES = (
    "sensors.motion",
    "home.events.state_changes",
    "home.events.automations",
)
HEALTH = "/healthz/readiness"
STATE = {"entity_id": "light.hall", "state": "on", "attributes": {"brightness": 90}}

Configure = Callable[..., dict[str, str]]


@pytest.fixture
def configure(
    mesh_env: dict[str, str], receiver: Receiver, tmp_path: Path
) -> Configure:
    """Variables of a mesh with the given workflows; its n8n is the receiver. Events
    that keep failing are dead after two retries."""
    receiver.by_path[HEALTH] = Answer(200)

    def configure(*workflows: dict[str, Any]) -> dict[str, str]:
        retry = {"max_retries": 2, "retry_backoff_max": 1}
        queues = {"defaults": {"batch": {"count": 50, "age_ms": 50}, "retry": retry}}
        env = reconfigured(
            mesh_env,
            tmp_path / "config",
            workflows={"workflows": list(workflows)},
            queues=queues,
        )
        return {**env, "MESH_N8N_URL": receiver.url}

    return configure


def workflow(name: str, routing_key: str = "#", **webhook: Any) -> dict[str, Any]:
    return {
        "name": name,
        "routing_key": routing_key,
        "webhook": {"url": f"/webhook/{name}", **webhook},
    }


def event(number: int, body: bytes | None = None) -> Outgoing:
    """The event of that number, to one of the queues in turn."""
    exchange, key, content = (
        ("sensors", "sensors.motion.hall", {"motion": True, "n": number}),
        (
            "home.events",
            "home.light.hall.state_changed",
            {"entity_id": "light.hall", "old_state": None, "new_state": STATE},
        ),
        (
            "home.events",
            "home.automation.lamp.trigger",
            {"automation": "automation.lamp", "n": number},
        ),
    )[number % 3]
    encoded = json.dumps(content).encode() if body is None else body
    return Outgoing(exchange, key, encoded, message_id=f"m{number}")


def publish(env: dict[str, str], *messages: Outgoing) -> None:
    with closing(Publisher(env["MESH_BROKER_URL"])) as publisher:
        publisher.publish(messages)


def taken(receiver: Receiver, name: str) -> Counter[str]:
    """How often a workflow has taken each event."""
    return Counter(
        each.headers["idempotency-key"].partition("/")[0]
        for each in receiver.accepted
        if each.path == f"/webhook/{name}"
    )


def wait_until_taken(receiver: Receiver, name: str, count: int) -> None:
    what = f"{count} events taken by {name}"
    wait_until(lambda: len(taken(receiver, name)) >= count, 60, what)


def assert_empty(env: dict[str, str]) -> None:
    url = env["MESH_BROKER_URL"]
    assert [queue_depth(url, queue) for queue in QUEUES] == [0, 0, 0]


def archived(env: dict[str, str]) -> set[str]:
    """The messages whose events went on to the archive."""
    return {
        line["id"].partition("/")[0]
        for queue in ("archive.events", "archive.metrics")
        for each in drain(env["MESH_BROKER_URL"], queue)
        for line in lines_sent(each.body)
    }


def test_good_events_are_taken_and_archived_and_bad_ones_are_dead_with_a_reason(
    configure: Configure, receiver: Receiver, tmp_path: Path
) -> None:
    env = configure(workflow("all"))
    faults = [
        (b'{"motion": "on"}', "expected true or false"),
        (b'{"entity_id": "a.b"}', "expected an old state"),
        (b'{"trigger": {}}', "automation: this field is missing"),
        (b"\xff", "not UTF-8"),
        (b"[]", "the array is empty"),
        (b'"text"', "expected a JSON object"),
    ]
    good = [event(number) for number in range(300)]
    bad = {
        f"m{number}": (words, event(number, body))
        for number, (body, words) in enumerate(faults * 5, 300)
    }

    with running(Worker(tmp_path, env, *QUEUES)):
        publish(env, *good[:150], *(each for _, each in bad.values()), *good[150:])
        wait_until_taken(receiver, "all", len(good))
        letters = take(env["MESH_BROKER_URL"], "dead.letter.queue", len(bad))

    assert set(taken(receiver, "all").values()) == {1}
    assert len(letters) == len(bad)
    for letter in letters:
        words, original = bad[letter.properties["message_id"]]
        assert words in letter.headers[headers.REASON]
        assert letter.body == original.body
    assert archived(env) == {f"m{number}" for number in range(300)}
    assert_empty(env)


def test_while_n8n_is_unavailable_the_queues_are_paused_and_nothing_dies(
    configure: Configure, receiver: Receiver, tmp_path: Path
) -> None:
    env = configure(workflow("all"))

    with running(Worker(tmp_path, env, *QUEUES)) as worker:
        publish(env, *(event(number) for number in range(90)))
        wait_until_taken(receiver, "all", 90)
        receiver.stop()
        publish(env, *(event(number) for number in range(90, 390)))
        rest = [f"Paused {queue}" for queue in QUEUES]
        wait_until(lambda: all(each in worker.log() for each in rest), 20, "the rest")
        receiver.start()
        wait_until_taken(receiver, "all", 390)

    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []
    assert archived(env) == {f"m{number}" for number in range(390)}
    assert_empty(env)


def test_a_slow_webhook_does_not_hold_up_the_others(
    configure: Configure, receiver: Receiver, tmp_path: Path
) -> None:
    env = configure(workflow("slow", timeout_seconds=0.5), workflow("fast"))
    receiver.by_path["/webhook/slow"] = Answer(200, delay_seconds=5)

    with running(Worker(tmp_path, env, *QUEUES)) as worker:
        publish(env, *(event(number) for number in range(60)))
        wait_until_taken(receiver, "fast", 60)
        del receiver.by_path["/webhook/slow"]
        wait_until_taken(receiver, "slow", 60)

        assert "Paused" not in worker.log()

    assert set(taken(receiver, "fast").values()) == {1}
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []
    assert_empty(env)


def test_errors_are_retried_or_dead_and_no_webhook_is_called_twice(
    configure: Configure, receiver: Receiver, tmp_path: Path
) -> None:
    motions = "sensors.motion.#"
    env = configure(
        workflow("all"),
        workflow("gone", motions, held_statuses=[]),
        workflow("broken", "home.*.*.trigger"),
        workflow("limited", "home.*.*.state_changed"),
        workflow("saved", "home.*.*.state_changed"),
    )
    not_registered = Answer(404, b'{"message":"The webhook is not registered"}')
    receiver.by_path["/webhook/saved"] = not_registered
    receiver.by_path["/webhook/gone"] = Answer(404, b'{"hint":"activate it"}')
    receiver.by_path["/webhook/broken"] = Answer(500, b"workflow failed")
    receiver.by_path["/webhook/limited"] = Answer(429, headers={"Retry-After": "1"})

    with running(Worker(tmp_path, env, *QUEUES)):
        publish(env, *(event(number) for number in range(60)))
        wait_until(
            lambda: any(each.path == "/webhook/limited" for each in receiver.requests),
            30,
            "the limit",
        )
        del receiver.by_path["/webhook/limited"]
        wait_until_taken(receiver, "limited", 20)
        del receiver.by_path["/webhook/saved"]
        wait_until_taken(receiver, "saved", 20)
        letters = take(env["MESH_BROKER_URL"], "dead.letter.queue", 40)

    reasons = Counter(
        letter.headers[headers.REASON].split(": ")[-1] for letter in letters
    )
    assert reasons == {'{"hint":"activate it"}': 20, "workflow failed": 20}
    assert {letter.headers[headers.RETRIES] for letter in letters} == {0, 2}
    assert taken(receiver, "all") == Counter(f"m{number}" for number in range(60))
    assert archived(env) == {f"m{number}" for number in range(1, 60, 3)}
    assert_empty(env)
