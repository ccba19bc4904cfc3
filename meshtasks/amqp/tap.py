"""Copies of what passes the exchanges; no message is taken from any queue.

A tap is a queue of its own, exclusive to its connection and bounded: it goes with
whoever looks, and one who does not keep up misses copies, and holds back nobody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import kombu

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.routing import MQTT_EXCHANGE, PREDECLARED_EXCHANGES, topic_matches
from meshtasks.amqp.topology import Topology

_LONGEST_BYTES = 255
#: When nobody takes them the broker drops the oldest copies.
_BOUNDED = {"x-max-length": 1_000, "x-max-length-bytes": 64 * 1024 * 1024}


class Tap:
    """Copies of messages, as they pass.

    Args:
        connection: an open connection, on which they are consumed.
        pattern: of routing keys, as in a binding of a topic exchange.
        waiting: where copies are put as they come.
    """

    def __init__(
        self, connection: kombu.Connection, pattern: str, waiting: deque[Message]
    ) -> None:
        self._connection = connection
        self._pattern = pattern
        self._waiting = waiting

    def next(
        self,
        within_seconds: float,
        is_wanted: Callable[[Message], bool] = lambda _: True,
    ) -> Message | None:
        """The next copy that matches the pattern and is wanted; None if none came in
        time. Those before it are passed over.

        Raises:
            amqp.exceptions.ConnectionError, OSError: the connection was lost.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                # fanout and direct exchanges take no patterns
                matches = topic_matches(self._pattern, message.routing_key)
                if matches and is_wanted(message):
                    return message
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=remaining)


def pattern_fault(pattern: str) -> str | None:
    """Why a pattern of routing keys is not what it seems to be; None if it is.

    The broker takes any text, and what is no wildcard to it matches itself alone.
    """
    size_bytes = len(pattern.encode(errors="replace"))
    is_text = not any("\ud800" <= character <= "\udfff" for character in pattern)
    if not pattern or pattern != pattern.strip() or not is_text:
        return "expected a pattern without blanks around it; # is every routing key"
    if size_bytes > _LONGEST_BYTES:
        return f"a pattern has at most {_LONGEST_BYTES} bytes, not {size_bytes:,}"
    if ("/" in pattern and "." not in pattern) or "+" in pattern.split("/"):
        dotted = pattern.strip("/").replace("/", ".").replace("+", "*")
        return f"{pattern} is a topic of MQTT; routing keys have dots: {dotted}"
    for word in pattern.split("."):
        if len(word) > 1 and set(word) & set("*#"):
            return (
                f"{word} is no wildcard: * stands for one whole word and # for any "
                "number of them, words being between dots"
            )
    return None


def every_exchange(topology: Topology) -> list[str]:
    """Names of the exchanges of the mesh, and of that where MQTT messages arrive."""
    return [*(item.name for item in topology.exchanges), MQTT_EXCHANGE]


@contextmanager
def tapped(
    url: str, topology: Topology, pattern: str, exchanges: Iterable[str]
) -> Iterator[Tap]:
    """Copies of what is published from now on.

    What goes straight to a queue, by the default exchange (retries and replays), passes
    no exchange that can be listened on.

    Args:
        pattern: of routing keys, as in a binding of a topic exchange.
        exchanges: names of exchanges, of the topology or those every broker has.

    Raises:
        ConfigError: the broker refuses the account, or the URL is none.
        Transient: the broker cannot be reached, or the connection was lost.
        amqp.exceptions.ChannelError: the broker has no such exchange, or the account
            may not listen on it.
    """
    waiting: deque[Message] = deque()
    types = PREDECLARED_EXCHANGES | {x.name: x.type for x in topology.all_exchanges}
    with connected(url) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True, arguments=_BOUNDED).queue
        for name in exchanges:
            for key in _keys(topology, name, types[name], pattern):
                channel.queue_bind(queue, name, key)
        channel.basic_consume(queue, no_ack=True, callback=waiting.append)
        yield Tap(connection, pattern, waiting)


def _keys(topology: Topology, exchange: str, kind: str, pattern: str) -> set[str]:
    """The routing keys with which a queue gets all of an exchange that may match."""
    match kind:
        case "topic":
            return {pattern}
        case "fanout":
            return {""}
        case _:  # a direct exchange routes by equality: the keys that are bound
            bindings = [b for b in topology.all_bindings if b.exchange == exchange]
            return {b.routing_key for b in bindings} | {pattern}
