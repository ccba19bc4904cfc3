"""Look at the messages of a queue and leave them there."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

from amqp.exceptions import NotFound

from meshtasks.messaging.connecting import connected


class Peeked(NamedTuple):
    """What a queue holds.

    Attributes:
        total: messages that are ready.
        routing_keys_and_headers: routing key and AMQP headers of the first ones.
    """

    total: int
    routing_keys_and_headers: list[tuple[str, dict[str, Any]]]


def peek(url: str, queue: str, limit: int) -> Peeked:
    """Read the first messages of a queue without taking them.

    They are delivered, not acknowledged, and so return to their places when the
    channel is closed, marked as redelivered. A queue with a delivery limit counts
    that: the dead-letter queue has none.

    Args:
        url: AMQP URL.
        queue: its name; one that is not there holds nothing.
        limit: look at no more messages than this.

    Raises:
        ConfigError: the broker refuses the account or the virtual host.
        Transient: the broker cannot be reached.
    """
    seen: list[tuple[str, dict[str, Any]]] = []
    with connected(url) as connection, closing(connection.channel()) as channel:
        channel.auto_decode = False  # bodies are whatever somebody published
        try:
            total = channel.queue_declare(queue, passive=True).message_count
        except NotFound:
            return Peeked(0, [])
        while len(seen) < min(limit, total):
            message = channel.basic_get(queue)
            if message is None:  # somebody else has taken some
                break
            table = message.properties.get("application_headers") or {}
            seen.append((message.delivery_info["routing_key"], dict(table)))
    return Peeked(total, seen)
