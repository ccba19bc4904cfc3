"""What waits in queues, and who consumes them, as the broker's AMQP answers tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import kombu
from amqp.exceptions import NotFound


class Depth(NamedTuple):
    """How many messages wait in a queue, and how many consumers it has."""

    ready: int
    consumers: int


def depths_of(connection: kombu.Connection, names: Iterable[str]) -> dict[str, Depth]:
    """The depths of these queues, without those that the broker does not have."""
    depths: dict[str, Depth] = {}
    channel = connection.channel()
    for name in names:
        try:
            answer = channel.queue_declare(name, passive=True)
        except NotFound:  # which closes the channel
            channel = connection.channel()
        else:
            depths[name] = Depth(answer.message_count, answer.consumer_count)
    channel.close()
    return depths
