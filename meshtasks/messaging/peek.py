"""Look at the messages of a queue and leave them there."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

from amqp import spec
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

    They are delivered and then given back together, which brings each to its place
    again. (Given back one by one, or by closing the channel, they come in any order.)
    Afterwards they are marked as redelivered, and a queue with a delivery limit has
    counted it: the dead-letter queue has none.

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
        tag = 0
        while len(seen) < min(limit, total):
            message = channel.basic_get(queue)
            if message is None:  # somebody else has taken some
                break
            tag = message.delivery_tag
            table = message.properties.get("application_headers") or {}
            seen.append((message.delivery_info["routing_key"], dict(table)))
        if seen:
            # py-amqp has no basic_nack: delivery tag, all up to it, back to the queue
            channel.send_method(spec.Basic.Nack, "Lbb", (tag, True, True))
    return Peeked(total, seen)
