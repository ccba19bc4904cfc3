"""Every request to a model is answered, or it is a dead letter, or both."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import drain, open_channel, queue_depth, take
from tests.support.inference import REQUESTS, RESULTS, request
from tests.support.meshes import declared, reconfigured
from tests.support.topologies import shipped_document
from tests.support.triton import BE_BUSY, BE_SLOW, DIE, RAISE, Server, rows
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import IMPATIENT, Worker, running

#: A queue of somebody who waits for answers.
ANSWERS = "somebody.elses"


@pytest.fixture
def answer_timeout_seconds() -> float:
    return 10.0


@pytest.fixture
def env(
    new_mesh_env: dict[str, str],
    new_triton: Server,
    tmp_path: Path,
    answer_timeout_seconds: float,
) -> dict[str, str]:
    """A mesh that gives up soon, and somebody who asks it."""
    topology = {**shipped_document(), "retry_levels": [1, 5, 30]}
    retry = {"max_retries": 1, "retry_backoff": 1}
    queues = {"queues": {REQUESTS: {"batch": {"count": 50}, "retry": retry}}}
    models = {
        "answer_timeout_seconds": answer_timeout_seconds,
        "models": {"obedient": {"tags": ["asker"], "scores": [{"output": "y"}]}},
    }
    env = reconfigured(
        {**new_mesh_env, "MESH_TRITON_URL": new_triton.url},
        tmp_path / "config",
        topology=topology,
        queues=queues,
        models=models,
    )
    with open_channel(declared(env)["MESH_BROKER_URL"]) as channel:
        channel.queue_declare(ANSWERS, durable=True, auto_delete=False)
        channel.queue_bind(ANSWERS, "ai", "ai.result.#")
    return env


def publish(env: dict[str, str], *requests: dict[str, Any]) -> None:
    publisher = Publisher(env["MESH_BROKER_URL"])
    publisher.publish(
        [
            Outgoing("ai", "ai.model.x", json.dumps(each).encode(), each["request_id"])
            for each in requests
        ]
    )
    publisher.close()


def requests(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Requests whose results are points of their own."""
    return [
        request(f"r{n}", n, timestamp=1_795_000_000 + n, asker="test")
        for n in range(first, first + count)
    ]


def answers(env: dict[str, str], count: int) -> dict[str, dict[str, Any]]:
    """So many answers, by request id; none twice."""
    taken = [
        json.loads(each.body)
        for each in take(env["MESH_BROKER_URL"], ANSWERS, count, within_seconds=40)
    ]
    assert set(Counter(each["request_id"] for each in taken).values()) == {1}
    return {each["request_id"]: each for each in taken}


def right(answers: dict[str, dict[str, Any]]) -> set[str]:
    """The ids of the requests that were given the right answer."""
    return {
        name
        for name, answer in answers.items()
        if "outputs" in answer
        and answer["outputs"][0]["data"] == [2.0 * int(name.removeprefix("r"))]
    }


def test_good_requests_become_points_and_bad_ones_dead_letters_and_all_are_answered(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    good = requests(600)
    bad = {
        "no-model": request("no-model", model="obediant"),
        "name": request("name", inputs=[rows((1, 0), name="z")]),
        "shape": request("shape", inputs=[{**rows((1, 0)), "shape": [2, 1]}]),
        "type": request("type", inputs=[{**rows((1, 0)), "datatype": "INT8"}]),
        "value": request("value", inputs=[{**rows((1, 0)), "data": [1, "2"]}]),
        "failing": request("failing", 1, RAISE),
    }
    words = {
        "no-model": "there are: echo, obedient",
        "name": "expected x (FP32 [-1, 2])",
        "shape": "expected the shape [-1, 2], got [2, 1]",
        "type": "expected the datatype FP32",
        "value": 'value 1: expected a number, got the text "2"',
        "failing": "told to",
    }

    with running(Worker(tmp_path, env, REQUESTS, RESULTS, arguments=("-c", "2"))):
        publish(env, *good[:300], *bad.values(), *good[300:])
        answered = answers(env, len(good) + len(bad))
        wait_until(
            lambda: count_samples(victoria, "inference_y") == len(good),
            20,
            "the points",
        )
    letters = drain(env["MESH_BROKER_URL"], "dead.letter.queue")

    assert right(answered) == {each["request_id"] for each in good}
    assert {each.properties["message_id"] for each in letters} == bad.keys()
    for letter in letters:
        name = letter.properties["message_id"]
        reason = letter.headers[headers.REASON]
        assert words[name] in reason
        assert answered[name]["error"] == reason
    assert queue_depth(env["MESH_BROKER_URL"], REQUESTS) == 0


def test_nothing_is_dead_after_the_server_was_down(
    env: dict[str, str], new_triton: Server, tmp_path: Path
) -> None:
    with running(Worker(tmp_path, env, REQUESTS)) as worker:
        publish(env, *requests(100))
        assert len(right(answers(env, 100))) == 100
        new_triton.kill()
        publish(env, *requests(300, first=100))
        wait_until(lambda: "Paused" in worker.log(), 20, "the queue to be paused")
        new_triton.start()
        answered = answers(env, 300)
        # A process that is made after the probes ran can ask, too.
        os.kill(worker.pool_pids()[0], signal.SIGKILL)
        publish(env, *requests(100, first=400))
        answered |= answers(env, 100)

    assert len(right(answered)) == 400
    assert drain(env["MESH_BROKER_URL"], "dead.letter.queue") == []


@pytest.mark.parametrize(
    ("order", "answer_timeout_seconds"), [(BE_BUSY, 10.0), (BE_SLOW, 0.5)]
)
def test_a_request_that_is_always_too_much_is_dead_and_the_others_are_answered(
    env: dict[str, str], tmp_path: Path, order: int
) -> None:
    good = requests(120)
    too_much = {**request("too-much", 1, order), "model": "obedient"}

    def is_dead() -> int:
        """Ask on meanwhile: only other requests show whose fault it is."""
        good.extend(requests(1, first=len(good)))
        publish(env, good[-1])
        return queue_depth(env["MESH_BROKER_URL"], "dead.letter.queue")

    with running(Worker(tmp_path, env, REQUESTS, app=IMPATIENT)):
        publish(env, *good[:20], too_much, *good[20:])
        wait_until(is_dead, 100, "the dead letter")
        (letter,) = take(env["MESH_BROKER_URL"], "dead.letter.queue", 1)
        answered = answers(env, len(good) + 1)

    assert right(answered) == {each["request_id"] for each in good}
    assert answered["too-much"]["error"] == letter.headers[headers.REASON]
    assert letter.properties["message_id"] == "too-much"
    assert "still failing after 1 retries" in letter.headers[headers.REASON]


def test_requests_to_a_crashed_model_are_an_alert_and_not_retried_for_ever(
    env: dict[str, str], tmp_path: Path
) -> None:
    number = {"name": "INT8", "shape": [1], "datatype": "INT8", "data": [7]}
    other = request("other", model="echo", inputs=[number])

    with running(Worker(tmp_path, env, REQUESTS)):
        publish(env, request("deadly", 1, DIE))
        take(env["MESH_BROKER_URL"], "alerts.critical", 1)
        publish(env, *requests(20), other)
        letters = take(env["MESH_BROKER_URL"], "dead.letter.queue", 21, 60)
        answered = answers(env, 22)

    assert answered["other"]["outputs"][0]["data"] == [7]
    for letter in letters:
        name = letter.properties["message_id"]
        assert "not healthy" in letter.headers[headers.REASON]
        assert answered[name]["error"] == letter.headers[headers.REASON]
    assert drain(env["MESH_BROKER_URL"], "alerts.critical") == []


def test_a_worker_killed_and_started_again_leaves_no_request_unanswered(
    env: dict[str, str], tmp_path: Path
) -> None:
    asked = requests(1_000)
    url = env["MESH_BROKER_URL"]
    killed = Worker(tmp_path, env, REQUESTS)
    killed.start()
    publish(env, *asked)
    wait_until(lambda: queue_depth(url, ANSWERS), 20, "the first answers")
    killed.kill()

    with running(Worker(tmp_path, env, REQUESTS)):
        wait_until(lambda: queue_depth(url, ANSWERS) >= len(asked), 30, "the answers")
        wait_until(lambda: not queue_depth(url, REQUESTS), 20, "an empty queue")
    taken = [json.loads(each.body) for each in drain(url, ANSWERS)]

    assert len(right({each["request_id"]: each for each in taken})) == len(asked)
    assert drain(url, "dead.letter.queue") == []
