"""Virtual hosts with the shipped topology, which serve one test after another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import amqp

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.amqp import open_channel
from tests.support.topologies import shipped_topology

#: Exchanges of Celery's remote control and events, which outlive their workers.
_OF_WORKERS = ("celery.pidbox", "reply.celery.pidbox", "celeryev")


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
        self._topology = shipped_topology()
        self._shipped: list[str] | None = None

    def take(self) -> str:
        """Name of one with empty queues, and nothing but the shipped topology."""
        if self._free:
            return self._free.pop()
        name = f"mesh-{next(self._numbers)}"
        self._node.create_vhost(name)
        with connected(self._node.amqp_url(name)) as connection:
            declare(connection, self._topology)
        if self._shipped is None:
            self._shipped = self._described(name)
        return name

    def give_back(self, name: str) -> None:
        """Keep it for another test, if this one left nothing but messages."""
        if self._is_unused(name) and self._is_cleared(name):
            self._free.append(name)
        else:
            self._node.delete_vhost(name)

    def _is_unused(self, name: str) -> bool:
        return not self._node.api("GET", f"/vhosts/{quote(name)}/connections")

    def _is_cleared(self, name: str) -> bool:
        """Whether it is as it was, without the messages and what workers declared."""
        if self._described(name, without=_OF_WORKERS) != self._shipped:
            return False
        queues = [queue.name for queue in self._topology.all_queues]
        with open_channel(self._node.amqp_url(name)) as channel:
            for exchange in _OF_WORKERS:
                channel.exchange_delete(exchange)
            # Also what is empty: a purge comes after the return of what a worker that
            # was killed had held, which a count may not have seen.
            for queue in queues:
                channel.queue_purge(queue)
            return not any(_count(channel, queue) for queue in queues)

    def _described(self, name: str, without: Collection[str] = ()) -> list[str]:
        definitions: dict[str, Any] = self._node.api(
            "GET", f"/definitions/{quote(name)}"
        )
        lists = (each for each in definitions.values() if isinstance(each, list))
        return sorted(
            json.dumps(item, sort_keys=True)
            for each in lists
            for item in each
            if item.get("name") not in without
        )


def _count(channel: amqp.Channel, queue: str) -> int:
    """Messages that are ready in a queue."""
    return int(channel.queue_declare(queue, passive=True).message_count)
