"""Hear what is published from now on, without being a queue of the mesh."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kombu

from meshtasks.amqp.connecting import connected

#: Bounds what a slow listener lets pile up; the oldest go first.
_MAX_WAITING = 1_000


class Listener:
    """Messages of one routing key, from the moment it was made.

    Args:
        connection: an open connection, on which they are consumed.
        bodies: where they are put as they come.
    """

    def __init__(self, connection: kombu.Connection, bodies: deque[bytes]) -> None:
        self._connection = connection
        self._bodies = bodies

    def first(
        self, matches: Callable[[bytes], bool], within_seconds: float
    ) -> bytes | None:
        """The body of the first message that matches; None if there was none in time.

        Raises:
            amqp.exceptions.ConnectionError, OSError: the connection was lost.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            while self._bodies:
                if matches(body := self._bodies.popleft()):
                    return body
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=remaining)


@contextmanager
def listening(url: str, exchange: str, routing_key: str) -> Iterator[Listener]:
    """Listen on a queue that goes with the connection.

    Raises:
        ConfigError: the broker refuses the account, or the URL is none.
        Transient: the broker cannot be reached, or the connection was lost.
    """
    bodies: deque[bytes] = deque(maxlen=_MAX_WAITING)

    def keep(message: Any) -> None:
        body = message.body
        bodies.append(body.encode() if isinstance(body, str) else bytes(body))

    with connected(url) as connection:
        channel = connection.channel()
        arguments = {"x-max-length": _MAX_WAITING}
        queue = channel.queue_declare(exclusive=True, arguments=arguments).queue
        channel.queue_bind(queue, exchange, routing_key)
        channel.basic_consume(queue, no_ack=True, callback=keep)
        yield Listener(connection, bodies)
