"""Virtual hosts with the shipped topology, which serve one test after another."""

from __future__ import annotations

import itertools
import json
from typing import Any
from urllib.parse import quote

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.amqp import open_channel
from tests.support.topologies import shipped_topology


class MeshVhosts:
    """To declare the topology and to delete it takes a third of a second of processor,
    as much as most tests. So a virtual host that a test left as it was given is
    emptied, and given to another.

    Args:
        node: has them.
    """

    def __init__(self, node: RabbitMQ) -> None:
        self._node = node
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._shipped: list[str] | None = None

    def take(self) -> str:
        """Name of one with empty queues, and nothing but the shipped topology."""
        if self._free:
            return self._free.pop()
        name = f"mesh-{next(self._numbers)}"
        self._node.create_vhost(name)
        with connected(self._node.amqp_url(name)) as connection:
            declare(connection, shipped_topology())
        if self._shipped is None:
            self._shipped = self._described(name)
        return name

    def give_back(self, name: str) -> None:
        """Keep it for another test, if this one left nothing but messages."""
        if self._is_left(name) and self._empty(name):
            self._free.append(name)
        else:
            self._node.delete_vhost(name)

    def _is_left(self, name: str) -> bool:
        """Whether nobody uses it any more, and nothing was declared or deleted."""
        connections = self._node.api("GET", f"/vhosts/{quote(name)}/connections")
        return not connections and self._described(name) == self._shipped

    def _empty(self, name: str) -> bool:
        queues = [queue.name for queue in shipped_topology().all_queues]
        with open_channel(self._node.amqp_url(name)) as channel:
            for queue in queues:
                channel.queue_purge(queue)
            return not any(
                channel.queue_declare(queue, passive=True).message_count
                for queue in queues
            )

    def _described(self, name: str) -> list[str]:
        definitions: dict[str, Any] = self._node.api(
            "GET", f"/definitions/{quote(name)}"
        )
        lists = (each for each in definitions.values() if isinstance(each, list))
        return sorted(
            json.dumps(item, sort_keys=True) for each in lists for item in each
        )
