"""Look at the messages of a queue and leave them there, in their order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

import kombu
from amqp import spec
from amqp.exceptions import NotFound

from meshtasks.messaging.connecting import connected

#: A quorum queue keeps the order of messages that come back together only if they
#: are at most 32 (it holds them in a map, and Erlang sorts small ones).
_TOGETHER = 30
#: For messages to arrive, and for all to be back.
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.002


class Seen(NamedTuple):
    """A message, less its body."""

    delivery_tag: int
    routing_key: str
    headers: Mapping[str, Any]


class Peeked(NamedTuple):
    """What a queue holds.

    Attributes:
        total: messages that are ready.
        seen: the first of them.
    """

    total: int
    seen: list[Seen]


def peek(url: str, queue: str, limit: int) -> Peeked:
    """Look at the first messages of a queue without taking them.

    They are delivered and given back, a few at a time so that they come back in
    their order; closing the channel would bring them back too, shuffled. Meanwhile
    others do not see them. Afterwards they are marked as redelivered, and a queue
    with a delivery limit has counted it: the dead-letter queue has none.

    If the queue holds more than the limit, those that were looked at come back
    behind others that were looked at before.

    Args:
        url: AMQP URL.
        queue: its name; one that is not there holds nothing.
        limit: look at no more messages than this.

    Raises:
        ConfigError: the broker refuses the account or the virtual host.
        Transient: the broker cannot be reached.
    """
    with connected(url) as connection, closing(connection.channel()) as channel:
        channel.auto_decode = False  # bodies are whatever somebody published
        try:
            total = _ready(channel, queue)
        except NotFound:
            return Peeked(0, [])
        seen = _delivered(connection, channel, queue, min(limit, total))
        _give_back(channel, queue, seen)
        return Peeked(total, seen)


def _delivered(
    connection: kombu.Connection, channel: Any, queue: str, count: int
) -> list[Seen]:
    """So many messages; fewer if somebody else has taken some meanwhile."""
    seen: list[Seen] = []
    if not count:
        return seen

    def on_message(message: Any) -> None:
        key = message.delivery_info["routing_key"]
        table = message.properties.get("application_headers") or {}
        seen.append(Seen(message.delivery_tag, key, table))

    channel.basic_qos(0, count, a_global=False)
    tag = channel.basic_consume(queue, callback=on_message)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with suppress(TimeoutError):
        while len(seen) < count:
            connection.drain_events(timeout=deadline - time.monotonic())
    channel.basic_cancel(tag)
    return seen


def _give_back(channel: Any, queue: str, seen: Sequence[Seen]) -> None:
    before = _ready(channel, queue)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for start in range(0, len(seen), _TOGETHER):
        group = seen[start : start + _TOGETHER]
        last = group[-1].delivery_tag
        # py-amqp has no basic_nack: delivery tag, all up to it, back to the queue
        channel.send_method(spec.Basic.Nack, "Lbb", (last, True, True))
        back = before + start + len(group)
        while _ready(channel, queue) < back and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)
