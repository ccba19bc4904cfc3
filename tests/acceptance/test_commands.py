"""Commands, on a real worker: called by message, by Flower, by the gateway, and by
those who may not.

One worker and one Flower serve the module; every test has calls of its own.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.calls import call_message
from meshtasks.amqp.publisher import Publisher
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.flows.alerts.store import AlertStore
from meshtasks.state.database import StateLocation
from tests.conftest import ROOT
from tests.support.amqp import publish_raw, take
from tests.support.flower import Flower
from tests.support.gateway import Gateway
from tests.support.meshes import declared
from tests.support.topologies import shipped_topology
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

DEAD_LETTERS = "dead.letter.queue"
REQUESTS = "ai.inference.requests"
INPUTS = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]


class Mesh:
    """A mesh whose worker takes commands and motions; other queues just fill."""

    def __init__(self, env: dict[str, str], worker: Worker) -> None:
        self.url = env["MESH_BROKER_URL"]
        self.state_dir = Path(env["MESH_STATE_DIR"])
        self.worker = worker
        self._answers: dict[str, list[dict[str, Any]]] = {}

    def call(self, name: str, **arguments: Any) -> str:
        """Call a command; gives the id of the call."""
        call_id = str(uuid.uuid4())
        publisher = Publisher(self.url)
        publisher.publish([call_message(shipped_topology(), name, arguments, call_id)])
        publisher.close()
        return call_id

    def answer(self, call_id: str) -> dict[str, Any]:
        """The final answer to a call."""

        def is_final() -> bool:
            for delivery in take(self.url, "commands.answers", 0):
                answer = json.loads(delivery.body)
                self._answers.setdefault(answer["task_id"], []).append(answer)
            return self.states(call_id)[-1:] in (["SUCCESS"], ["FAILURE"])

        wait_until(is_final, 60, f"the answer to {call_id}")
        return self._answers[call_id][-1]

    def states(self, call_id: str) -> list[str]:
        """The states that were told so far."""
        return [each["state"] for each in self._answers.get(call_id, [])]


@pytest.fixture(scope="module")
def env(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("commands")
    rabbitmq.create_vhost("commands")
    return declared(
        {
            "MESH_BROKER_URL": rabbitmq.amqp_url("commands"),
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
            "MESH_ARCHIVE_URL": f"file://{directory / 'archive'}",
        }
    )


@pytest.fixture(scope="module")
def mesh(
    env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("worker")
    worker = Worker(directory, env, "commands", "sensors.motion")
    with running(worker):
        yield Mesh(env, worker)


@pytest.fixture(scope="module")
def flower(
    env: dict[str, str], mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flower]:
    server = Flower(tmp_path_factory.mktemp("flower"), env)
    server.start()
    yield server
    server.process.stop(within_seconds=30)


@pytest.fixture(scope="module")
def gateway(
    env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    server = Gateway(tmp_path_factory.mktemp("gateway"), env)
    server.start()
    yield server
    server.stop()


class TestACallIsAnswered:
    def test_publish_puts_a_message_into_the_mesh(self, mesh: Mesh) -> None:
        call_id = mesh.call(
            "publish",
            exchange="sensors",
            routing_key="sensors.temperature.attic",
            record={"value": 21.5},
        )

        answer = mesh.answer(call_id)

        (delivery,) = take(mesh.url, "sensors.temperature", 1)
        assert json.loads(delivery.body) == {"value": 21.5}
        assert delivery.properties["message_id"] == call_id
        assert answer["result"] == {
            "message_id": call_id,
            "queues": ["sensors.temperature"],
        }
        assert mesh.states(call_id) == ["STARTED", "SUCCESS"]

    def test_what_no_domain_takes_is_not_published(self, mesh: Mesh) -> None:
        call_id = mesh.call(
            "publish", exchange="commands", routing_key="commands", record={}
        )

        assert (
            "leads 'commands' to a queue of a domain" in mesh.answer(call_id)["error"]
        )

    def test_a_wrong_argument_is_named(self, mesh: Mesh) -> None:
        call_id = mesh.call("silence_alerts", matchers=["attic"], lasts="2h")

        answer = mesh.answer(call_id)

        assert answer["state"] == "FAILURE"
        assert answer["error"].startswith("SchemaMismatch: matchers.0: ")

    def test_silence_alerts_makes_a_silence(self, mesh: Mesh) -> None:
        call_id = mesh.call(
            "silence_alerts", matchers=["location=attic"], lasts="2h", comment="roofers"
        )

        made = mesh.answer(call_id)["result"]

        store = AlertStore(StateLocation.in_directory(mesh.state_dir))
        with store.tables() as tables:
            (silence,) = tables.silences()
        store.close()
        assert (silence.id, silence.ends_at) == (made["silence_id"], made["ends_at"])
        assert silence.matchers == ("location=attic",)
        assert silence.comment == "roofers"


class TestReplay:
    def test_dead_letters_go_back_to_the_queue_they_died_in(self, mesh: Mesh) -> None:
        table = {
            headers.QUEUE: "sensors.humidity",
            headers.EXCHANGE: "sensors",
            headers.ROUTING_KEY: "sensors.humidity.bath",
            headers.ERROR_TYPE: "UnknownUnit",
            headers.REASON: "unit: unknown",
        }
        publish_raw(mesh.url, "dead.letter", "#", b'{"value": 1}', headers=table)
        other = {**table, headers.ERROR_TYPE: "SchemaMismatch"}
        publish_raw(mesh.url, "dead.letter", "#", b'{"value": 2}', headers=other)

        call_id = mesh.call("replay_dead_letters", reason="SchemaMismatch")

        assert mesh.answer(call_id)["result"] == {
            "given_back": {"sensors.humidity": 1},
            "kept": {},
        }
        assert take(mesh.url, "sensors.humidity", 1)[0].body == b'{"value": 2}'
        assert take(mesh.url, DEAD_LETTERS, 1)[0].body == b'{"value": 1}'

    def test_which_ones_must_be_said(self, mesh: Mesh) -> None:
        call_id = mesh.call("replay_dead_letters", rate=5)

        assert "which? Expected ids" in mesh.answer(call_id)["error"]


class TestInfer:
    def test_the_result_is_waited_for(self, mesh: Mesh) -> None:
        call_id = mesh.call("infer", model="echo", inputs=INPUTS, wait_seconds=60)

        (request,) = take(mesh.url, REQUESTS, 1, within_seconds=30)
        publish_raw(mesh.url, "ai", "ai.result.echo", b"[]", b'{"request_id": "other"}')
        give_result(mesh, call_id, outputs=[1])

        assert json.loads(request.body) == {
            "model": "echo",
            "inputs": INPUTS,
            "request_id": call_id,
        }
        assert mesh.answer(call_id)["result"]["outputs"] == [1]

    def test_a_model_that_refuses_fails_the_call(self, mesh: Mesh) -> None:
        call_id = mesh.call("infer", model="echo", inputs=INPUTS, wait_seconds=60)
        take(mesh.url, REQUESTS, 1, within_seconds=30)
        give_result(mesh, call_id, error="expected [-1,4]")

        assert mesh.answer(call_id)["error"] == "SinkRejected: expected [-1,4]"

    def test_a_result_that_does_not_come_is_said_to_come_later(
        self, mesh: Mesh
    ) -> None:
        call_id = mesh.call("infer", model="echo", inputs=INPUTS, wait_seconds=0.1)

        error = mesh.answer(call_id)["error"]

        assert error.startswith("NoAnswer: model echo gave no result within 0.1 s")
        assert len(take(mesh.url, REQUESTS, 1)) == 1

    def test_who_does_not_wait_gets_the_id_of_the_request(self, mesh: Mesh) -> None:
        call_id = mesh.call("infer", model="echo", inputs=INPUTS, request_id="mine")

        assert mesh.answer(call_id)["result"] == {"request_id": "mine"}
        assert len(take(mesh.url, REQUESTS, 1)) == 1

    def test_a_call_whose_process_is_killed_runs_again(self, mesh: Mesh) -> None:
        call_id = mesh.call("infer", model="echo", inputs=INPUTS, wait_seconds=60)
        (first,) = take(mesh.url, REQUESTS, 1, within_seconds=30)

        (pid,) = mesh.worker.pool_pids()
        os.kill(pid, signal.SIGKILL)
        (again,) = take(mesh.url, REQUESTS, 1, within_seconds=60)
        give_result(mesh, call_id, outputs=[2])

        assert again.properties["message_id"] == first.properties["message_id"]
        assert mesh.answer(call_id)["result"]["outputs"] == [2]


def give_result(mesh: Mesh, request_id: str, **fields: Any) -> None:
    body = {"request_id": request_id, "model": "echo", **fields}
    publish_raw(mesh.url, "ai", "ai.result.echo", json.dumps(body).encode())


GOOD: dict[str, Any] = {"task": "publish", "id": "1", "lang": "py"}
BODY = b"[[], {}, {}]"


@pytest.mark.parametrize(
    ("table", "body"),
    [
        pytest.param({**GOOD, "task": "sensors.motion"}, BODY, id="a queue's task"),
        pytest.param({**GOOD, "task": "celery.starmap"}, BODY, id="Celery's own task"),
        pytest.param({**GOOD, "task": ["publish"]}, BODY, id="a task that is no text"),
        pytest.param({"task": "publish"}, BODY, id="no id"),
        pytest.param({**GOOD, "eta": 5}, BODY, id="an eta that is no text"),
        pytest.param({**GOOD, "timelimit": ["1", 1]}, BODY, id="a limit in words"),
        pytest.param({}, b'{"value": 1}', id="plain JSON"),
        pytest.param(GOOD, b"5", id="a body of another shape"),
        pytest.param(GOOD, b"\xff", id="a body that is not JSON"),
        pytest.param(GOOD, b'[[], {}, {"chain": [{}]}]', id="further tasks"),
    ],
)
def test_what_is_no_command_is_dead_and_the_worker_goes_on(
    mesh: Mesh, table: dict[str, Any], body: bytes
) -> None:
    publish_raw(mesh.url, "commands", "commands", body, headers=table)

    (letter,) = take(mesh.url, DEAD_LETTERS, 1, within_seconds=30)

    assert letter.body == body
    (death,) = letter.headers["x-death"]
    assert (death["queue"], death["reason"]) == ("commands", "rejected")
    assert mesh.worker.process.running


def test_a_command_on_a_public_exchange_is_dead_and_never_runs(mesh: Mesh) -> None:
    call = call_message(
        shipped_topology(),
        "publish",
        {"exchange": "alerts", "routing_key": "x", "record": {}},
        "spoofed",
    )
    spoof = call._replace(exchange="sensors", routing_key="sensors.motion.hall")
    publisher = Publisher(mesh.url)
    publisher.publish([spoof])
    publisher.close()

    (letter,) = take(mesh.url, DEAD_LETTERS, 1, within_seconds=30)

    assert "commands have a queue of their own" in letter.headers[headers.REASON]
    assert not take(mesh.url, "alerts.critical", 0)


class TestFlower:
    def test_it_wants_to_know_who_asks(self, flower: Flower) -> None:
        assert flower.request("GET", "workers", auth=None).status_code == (
            HTTPStatus.UNAUTHORIZED
        )

    @pytest.mark.parametrize("how", ["async-apply", "send-task"])
    def test_it_starts_a_command(self, mesh: Mesh, flower: Flower, how: str) -> None:
        kwargs = {
            "exchange": "sensors",
            "routing_key": "sensors.humidity.bath",
            "record": {"value": 61},
        }

        task_id = flower.call(how, "publish", kwargs=kwargs)

        (delivery,) = take(mesh.url, "sensors.humidity", 1, within_seconds=30)
        assert delivery.properties["message_id"] == task_id
        info = wait_for(flower, task_id, "SUCCESS")
        assert info["name"] == "publish"
        assert "sensors.humidity.bath" in info["kwargs"]
        assert task_id in info["result"]

    def test_it_shows_why_a_command_failed(self, mesh: Mesh, flower: Flower) -> None:
        task_id = flower.call("async-apply", "publish", args=["sensors"])

        info = wait_for(flower, task_id, "FAILURE")

        assert "publish takes its arguments by name" in info["exception"]

    def test_a_queues_own_task_goes_to_that_queue(
        self, mesh: Mesh, flower: Flower
    ) -> None:
        flower.call("async-apply", "sensors.temperature", args=[{"value": 5}])

        (delivery,) = take(mesh.url, "sensors.temperature", 1)
        assert json.loads(delivery.body)[0] == [{"value": 5}]

    def test_a_queue_that_is_named_is_the_one_it_goes_to(
        self, mesh: Mesh, flower: Flower
    ) -> None:
        flower.call("send-task", "publish", queue="sensors.humidity")

        (delivery,) = take(mesh.url, "sensors.humidity", 1)
        assert delivery.headers["task"] == "publish"

    def test_a_batch_shows_its_queue_its_size_and_its_outcome(
        self, mesh: Mesh, flower: Flower
    ) -> None:
        before = len(flower.tasks("sensors.motion"))
        bodies = [b'{"motion": true}', b'{"motion": 7}']
        publish_raw(
            mesh.url, "sensors", "sensors.motion.hall", b"[" + b",".join(bodies) + b"]"
        )

        def shown() -> list[dict[str, Any]]:
            found = flower.tasks("sensors.motion")[before:]
            return [each for each in found if each["state"] == "FAILURE"]

        wait_until(shown, 30, "the batch in Flower")
        (batch,) = shown()
        take(mesh.url, DEAD_LETTERS, 1)
        assert batch["args"].startswith("(1 messages, ")
        assert batch["result"] == "1 messages: done=0 dead=1 retry=0"


class TestGateway:
    def test_a_task_is_started_and_its_outcome_asked_for(
        self, mesh: Mesh, gateway: Gateway
    ) -> None:
        record = {"value": 61}
        arguments = {
            "exchange": "sensors",
            "routing_key": "sensors.humidity.bath",
            "record": record,
        }

        accepted = gateway.post("/v1/tasks/publish", arguments)
        ended = outcome(gateway, accepted.headers["Location"], "n8n")

        (delivery,) = take(mesh.url, "sensors.humidity", 1)
        assert json.loads(delivery.body) == record
        assert ended["state"] == "success"
        assert ended["result"]["message_id"] == accepted.json()["id"]

    def test_a_task_that_fails_says_why(self, mesh: Mesh, gateway: Gateway) -> None:
        arguments = {"model": "echo", "inputs": INPUTS, "wait_seconds": 0.1}

        accepted = gateway.post("/v1/tasks/infer", arguments)
        ended = outcome(gateway, accepted.headers["Location"], "n8n")

        take(mesh.url, REQUESTS, 1)
        assert ended["state"] == "failure"
        assert "model echo gave no result" in ended["error"]


def outcome(gateway: Gateway, path: str, caller: str) -> dict[str, Any]:
    def ended() -> bool:
        return "Retry-After" not in gateway.get(path, caller=caller).headers

    wait_until(ended, 60, "the task to end")
    shown: dict[str, Any] = gateway.get(path, caller=caller).json()
    return shown


def wait_for(flower: Flower, task_id: str, state: str) -> dict[str, Any]:
    wait_until(
        lambda: flower.info(task_id).get("state") == state, 30, f"{state} in Flower"
    )
    return flower.info(task_id)
