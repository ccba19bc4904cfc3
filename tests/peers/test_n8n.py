"""The shipped workflows in a real n8n, in both directions.

The mesh around it is real as well: a broker, a gateway, a worker for commands and
motions. The test itself plays the model.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
import requests

from meshtasks.demo.rabbitmq import RabbitMQ
from tests.conftest import ROOT
from tests.peers import n8n
from tests.peers.n8n import N8n
from tests.support.amqp import publish_raw, queue_depth, take
from tests.support.gateway import Gateway, token_of
from tests.support.meshes import declared, reconfigured
from tests.support.n8n import ASK, CONSUME, DIRECTORY, RECEIVE, workflow
from tests.support.topologies import shipped_document
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

DOORS = "n8n.doors"
SECRET = "a secret that n8n and the mesh share"
INPUTS: list[dict[str, Any]] = [
    {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
]


class Peer(NamedTuple):
    """A mesh and an n8n."""

    url: str
    n8n: N8n
    database: Path

    def executions(self, name: str, status: str) -> int:
        """How often a workflow ended so."""
        query = "SELECT count(*) FROM execution_entity WHERE workflowId=? AND status=?"
        uri = f"file:{self.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            values = workflow(name)["id"], status
            (count,) = database.execute(query, values).fetchone()
        return int(count)


@pytest.fixture(scope="module")
def peer(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    n8n.install()
    directory = tmp_path_factory.mktemp("n8n")
    rabbitmq.create_vhost("n8n")
    url = rabbitmq.amqp_url("n8n")
    house = N8n(directory / "n8n")
    env = _mesh(directory, url, house.url)
    gateway = Gateway(directory, env)
    house.import_credentials(*_credentials(url))
    files = directory / "workflows"
    files.mkdir()
    for file in DIRECTORY.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        here = text.replace("http://gateway:8780", gateway.url)
        (files / file.name).write_text(here, encoding="utf-8")
    house.publish_workflows(
        files, {each: workflow(each)["id"] for each in (ASK, RECEIVE, CONSUME)}
    )
    with ExitStack() as stack:
        gateway.start()
        stack.callback(gateway.stop)
        stack.callback(house.kill)
        house.start()
        stack.enter_context(
            running(Worker(directory, env, "commands", "sensors.motion"))
        )
        yield Peer(url, house, directory / "n8n" / ".n8n" / "database.sqlite")
        sys.stderr.write(gateway.process.output() + house.log())  # if a test failed


def _mesh(directory: Path, url: str, n8n_url: str) -> dict[str, str]:
    """A mesh with the queue and the webhook of docs/n8n.md."""
    topology = shipped_document()
    topology["queues"].append({"name": DOORS, "delivery_limit": 3})
    topology["bindings"].append(
        {
            "exchange": "home.events",
            "queue": DOORS,
            "routing_key": "home.binary_sensor.*.state_changed",
        }
    )
    motion = {
        "name": "n8n",
        "routing_key": "sensors.motion.#",
        "webhook": {
            "url": "/webhook/mesh-event",
            "auth": {"header": "X-Mesh-Token", "secret": "n8n"},
        },
    }
    env = reconfigured(
        {
            "MESH_BROKER_URL": url,
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
            "MESH_ARCHIVE_URL": f"file://{directory / 'archive'}",
            "MESH_N8N_URL": n8n_url,
            "MESH_SECRETS__N8N": SECRET,
        },
        directory / "config",
        topology=topology,
        workflows={"workflows": [motion]},
    )
    return declared(env)


def _credentials(url: str) -> tuple[dict[str, Any], ...]:
    parts = urlsplit(url)
    return (
        {
            "id": "meshGatewayToken",
            "name": "Mesh gateway",
            "type": "httpBearerAuth",
            "data": {"token": token_of("n8n")},
        },
        {
            "id": "meshWebhookToken",
            "name": "Mesh webhooks",
            "type": "httpHeaderAuth",
            "data": {"name": "X-Mesh-Token", "value": SECRET},
        },
        {
            "id": "meshBroker000001",
            "name": "Mesh broker",
            "type": "rabbitmq",
            "data": {
                "hostname": parts.hostname,
                "port": parts.port,
                "username": unquote(parts.username or ""),
                "password": unquote(parts.password or ""),
                "vhost": unquote(parts.path[1:]),
                "ssl": False,
            },
        },
    )


def ask(peer: Peer, **headers: str) -> requests.Response:
    return requests.post(
        f"{peer.n8n.url}/webhook/mesh-ask",
        json={"model": "echo", "inputs": INPUTS},
        headers=headers,
        timeout=120,
    )


def test_a_workflow_asks_a_model_and_waits_for_its_answer(peer: Peer) -> None:
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, peer, **{"X-Mesh-Token": SECRET})
        (request,) = take(peer.url, "ai.inference.requests", 1, within_seconds=60)
        request_id = json.loads(request.body)["request_id"]
        result = {"request_id": request_id, "model": "echo", "outputs": INPUTS}
        publish_raw(peer.url, "ai", "ai.result.echo", json.dumps(result).encode())
        answer = asking.result()

    assert answer.status_code == HTTPStatus.OK, answer.text
    assert answer.json()["state"] == "success"
    assert answer.json()["result"]["outputs"] == INPUTS


def test_webhooks_are_for_those_who_know_the_secret(peer: Peer) -> None:
    assert ask(peer).status_code == HTTPStatus.FORBIDDEN


def test_events_of_the_mesh_start_a_workflow(peer: Peer) -> None:
    before = peer.executions(RECEIVE, "success")

    bodies = [json.dumps({"motion": True, "n": n}).encode() for n in range(20)]
    publish_raw(peer.url, "sensors", "sensors.motion.hall", *bodies)

    wait_until(
        lambda: peer.executions(RECEIVE, "success") == before + 20, 120, "20 executions"
    )
    assert queue_depth(peer.url, "sensors.motion") == 0
    assert queue_depth(peer.url, "dead.letter.queue") == 0


def test_a_workflow_consumes_a_queue_of_the_mesh(peer: Peer) -> None:
    opened = {"entity_id": "binary_sensor.front", "new_state": {"state": "on"}}

    publish_raw(
        peer.url,
        "home.events",
        "home.binary_sensor.front.state_changed",
        json.dumps(opened).encode(),
    )

    (alert,) = take(peer.url, "alerts.notifications", 1, within_seconds=60)
    assert json.loads(alert.body)["labels"] == {"entity": "binary_sensor.front"}
    wait_until(lambda: queue_depth(peer.url, DOORS) == 0, 30, "the acknowledgement")


def test_what_a_workflow_cannot_read_becomes_a_dead_letter(peer: Peer) -> None:
    publish_raw(peer.url, "", DOORS, b"no JSON")

    (letter,) = take(peer.url, "dead.letter.queue", 1, within_seconds=120)
    assert letter.body == b"no JSON"
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"
