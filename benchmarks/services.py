"""The private broker of a whole benchmark, and a fresh space in it per run."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import kombu

from benchmarks import ROOT
from benchmarks.load import CELERY_QUEUE
from meshtasks.amqp.declare import declare
from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import (
    MANAGEMENT,
    MQTT,
    PARTITIONS,
    PROMETHEUS,
    RabbitMQ,
)
from meshtasks.demo.servers import VictoriaMetrics

CONFIG = ROOT / "config"

_ACKNOWLEDGED = re.compile(
    rb"^rabbitmq_global_messages_acknowledged_total\{[^}]*\} (\d+)$", re.MULTILINE
)
#: Without rules and without archive: what the shipped files are replaced with.
_PLAIN_CONFIG = {"rules.yaml": "rules: []\n", "archive.yaml": "select: []\n"}


@dataclass(frozen=True, slots=True)
class Space:
    """A virtual host with the topology in it and an empty time-series store.

    Attributes:
        amqp_url: of the virtual host.
        store: the time-series store.
        directory: for logs and state.
        topology: what is declared in the virtual host.
    """

    amqp_url: str
    store: VictoriaMetrics
    directory: Path
    topology: Topology

    def environment(self, *, plain: bool = False) -> dict[str, str]:
        """Environment variables for a contender.

        Args:
            plain: without rules and archive.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("MESH_")
        }
        return {
            **inherited,
            "BENCH_BROKER_URL": self.amqp_url,
            "BENCH_STORE_URL": self.store.url,
            "MESH_BROKER_URL": self.amqp_url,
            "MESH_CONFIG_DIR": str(self._plain_config() if plain else CONFIG),
            "MESH_STATE_DIR": str(self.directory / "state"),
            "MESH_ARCHIVE_URL": f"file://{self.archive}",
            "MESH_INFLUX_URL": self.store.url,
            "MESH_INFLUX_TOKEN": "unchecked",
        }

    @property
    def archive(self) -> Path:
        """The archive's directory."""
        return self.directory / "archive"

    def ready(self, *queues: str) -> int:
        """Messages waiting in some queues, by the broker's count."""
        with kombu.Connection(self.amqp_url) as connection:
            channel = connection.channel()
            counts = [channel.queue_declare(queue, passive=True) for queue in queues]
        return sum(int(count.message_count) for count in counts)

    def failed(self) -> int:
        """Messages that are dead letters or wait to be tried again."""
        retries = (queue.name for queue in self.topology.retry_queues)
        return self.ready(self.topology.dead_letter_queue, *retries)

    def points(self, series: str = "temperature_celsius") -> int:
        """Distinct points in the store, of the series of a name."""
        self.flush()
        expression = f'sum(count_over_time({{__name__="{series}"}}[1d]))'
        path = f"/api/v1/query?{urlencode({'query': expression})}"
        answer = json.loads(loopback.request("GET", self.store.port, path))
        result = answer["data"]["result"]
        return int(result[0]["value"][1]) if result else 0

    def flush(self) -> None:
        """Make all that the store has taken visible to queries."""
        loopback.request("GET", self.store.port, "/internal/force_flush")

    def _plain_config(self) -> Path:
        directory = self.directory / "config"
        if not directory.exists():
            shutil.copytree(CONFIG, directory)
            for name, text in _PLAIN_CONFIG.items():
                (directory / name).write_text(text, encoding="utf-8")
        return directory


class Services:
    """A RabbitMQ of our own, from ``with`` to its end.

    Args:
        directory: for everything; the caller removes it.

    Attributes:
        topology: what is declared in every space.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self.topology = load_yaml(CONFIG / "topology.yaml", Topology)
        self.broker = RabbitMQ(
            directory / "rabbitmq", plugins=(MANAGEMENT, MQTT, PROMETHEUS, PARTITIONS)
        )

    @contextmanager
    def space(self) -> Iterator[Space]:
        """A fresh space; everything in it is deleted at the end."""
        name = f"bench-{next(self._numbers)}"
        directory = self._directory / name
        self.broker.create_vhost(name)
        url = self.broker.amqp_url(name)
        with kombu.Connection(url) as connection:
            declare(connection, self.topology)
            arguments = {"x-queue-type": "quorum"}
            queue = kombu.Queue(CELERY_QUEUE, queue_arguments=arguments)
            queue(connection.channel()).queue_declare()
        store = VictoriaMetrics(directory / "store")
        try:
            store.start()
            yield Space(url, store, directory, self.topology)
        finally:
            store.kill()
            self.broker.delete_vhost(name)
            shutil.rmtree(directory)

    def acknowledged(self) -> int:
        """Messages acknowledged since the node's start, at this moment.

        RabbitMQ counts these in one place for all queues, as they happen; what
        it says about a single queue is up to five seconds old.
        """
        page = loopback.request("GET", self.broker.ports.prometheus, "/metrics")
        return sum(map(int, _ACKNOWLEDGED.findall(page)))

    def __enter__(self) -> Self:
        self.broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.kill()  # nobody wants the data, and an orderly stop takes 6 s
