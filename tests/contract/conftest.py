"""One mesh for the whole suite, with every service that a handler may need."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.archive.objects import OBJECTS
from meshtasks.flows.sinks import Sinks
from tests.support.amqp import Delivery, drain
from tests.support.archive import lines_in, lines_sent
from tests.support.handling import opened, settings_of
from tests.support.meshes import declared, reconfigured
from tests.support.receiver import Receiver
from tests.support.triton import Server
from tests.support.victoria import export

ROOT = Path(__file__).parents[2]
VHOST = "contract"
#: One for every event, so that the handlers of events have something to call.
WORKFLOWS = {
    "workflows": [
        {"name": "any", "routing_key": "#", "webhook": {"url": "/webhook/any"}}
    ]
}
#: Where handlers publish to.
PUBLISHED = (
    "archive.events",
    "archive.metrics",
    "alerts.critical",
    "alerts.notifications",
    "ai.inference.results",
)


@dataclass
class World:
    """A mesh whose services are up.

    Attributes:
        sinks: of a process of it.
        victoria: its time-series store.
        receiver: its n8n.
    """

    sinks: Sinks
    victoria: VictoriaMetrics
    receiver: Receiver
    _published: set[tuple[str, str]] = field(default_factory=set)

    def effects(self) -> set[tuple[Any, ...]]:
        """Everything that handlers have done here so far, by its identity: what is
        the same to those who see it counts once."""
        env = self.sinks.settings.env
        for queue in PUBLISHED:
            for message in drain(env.amqp_url, queue):
                self._published |= {(queue, name) for name in _names(message)}
        points = {
            ("point", series.name, *sorted(series.labels.items()), time, value)
            for series in export(self.victoria)
            for time, value in series.samples.items()
        }
        calls = {
            (
                "call",
                each.path,
                each.headers.get("x-mesh-routing-key"),
                each.headers.get("idempotency-key"),
            )
            for each in self.receiver.requests
        }
        stored = {
            ("line", line["routing_key"], line["id"])
            for line in lines_in(self.sinks[OBJECTS])
        }
        files = env.state_dir.glob("mesh.db")
        rows = {("rows", file.name, *each) for file in files for each in _counts(file)}
        return points | calls | stored | rows | self._published


def _names(message: Delivery) -> list[str]:
    """The ids of a message's archive lines, or its own."""
    name = message.properties.get("message_id")
    return [str(name)] if name else [each["id"] for each in lines_sent(message.body)]


def _counts(file: Path) -> list[tuple[str, int]]:
    """How many rows each table has that has any."""
    with closing(sqlite3.connect(file)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        counts = [
            (name, *connection.execute(f'SELECT count(*) FROM "{name}"').fetchone())
            for (name,) in tables.fetchall()
        ]
    return [(name, count) for name, count in counts if count]


@pytest.fixture(scope="module")
def world(
    rabbitmq: RabbitMQ, triton: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The mesh."""
    directory = tmp_path_factory.mktemp("contract")
    rabbitmq.create_vhost(VHOST)
    with ExitStack() as stack:
        stack.callback(rabbitmq.delete_vhost, VHOST)
        victoria = VictoriaMetrics(directory / "victoria")
        victoria.start()
        stack.callback(victoria.kill)
        receiver = stack.enter_context(Receiver())
        env = {
            "MESH_BROKER_URL": rabbitmq.amqp_url(VHOST),
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
            "MESH_INFLUX_URL": victoria.url,
            "MESH_ARCHIVE_URL": f"file://{directory / 'archive'}",
            "MESH_N8N_URL": receiver.url,
            "MESH_TRITON_URL": triton.url,
        }
        env = reconfigured(declared(env), directory / "config", workflows=WORKFLOWS)
        sinks = stack.enter_context(opened(settings_of(env)))
        yield World(sinks, victoria, receiver)


@pytest.fixture
def forsaken(tmp_path: Path) -> Iterator[Sinks]:
    """The sinks of a mesh none of whose services is there, disks included."""
    nobody = f"127.0.0.1:{loopback.free_port()}"
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "directory"
    env = {
        "MESH_BROKER_URL": f"amqp://{nobody}//",
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "MESH_STATE_DIR": str(nowhere),
        "MESH_INFLUX_URL": f"http://{nobody}",
        "MESH_ARCHIVE_URL": f"file://{nowhere}",
        "MESH_N8N_URL": f"http://{nobody}",
        "MESH_TRITON_URL": nobody,
    }
    env = reconfigured(env, tmp_path / "config", workflows=WORKFLOWS)
    with opened(settings_of(env)) as sinks:
        yield sinks
