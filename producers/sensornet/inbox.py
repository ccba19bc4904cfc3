"""The queue that devices publish to, read in bursts."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any

import kombu
from amqp.exceptions import AccessRefused, ChannelError, NotFound

from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.errors import ConfigError, Transient

#: Messages of one burst. As many again are on their way meanwhile.
BURST = 500
#: How long a burst may go on once it has begun.
_BURST_SECONDS = 0.02


class Inbox:
    """Consumes one queue over one connection.

    Args:
        connection: open; a lost one needs a new inbox.
        queue: its name.

    Raises:
        ConfigError: the account may not read the queue.
        Transient: there is no such queue (yet).
    """

    def __init__(self, connection: kombu.Connection, queue: str) -> None:
        self._connection = connection
        self._arrived: deque[Delivery] = deque()
        self._channel: Any = connection.channel()
        self._channel.auto_decode = False
        try:
            self._channel.basic_qos(0, 2 * BURST, a_global=False)
            self._channel.basic_consume(queue, callback=self._on_message)
        except NotFound as error:
            message = f"there is no queue {queue}; run `meshtasks topology apply`"
            raise Transient(message) from error
        except AccessRefused as error:
            source = f"RabbitMQ virtual host {connection.virtual_host}"
            expected = f"this account is not allowed to read it ({error.reply_text})"
            raise ConfigError(source, f"queue {queue}", expected) from error

    def take(self, within_seconds: float) -> list[Delivery]:
        """The messages that are there, in order; none if none comes in time.

        Raises:
            Transient: the broker closed the channel.
        """
        try:
            self._drain(1, within_seconds)
            self._drain(BURST, _BURST_SECONDS)
        except ChannelError as error:
            message = f"the broker closed the channel: {error.reply_text}"
            raise Transient(message) from error
        return [self._arrived.popleft() for _ in range(min(BURST, len(self._arrived)))]

    def acknowledge(self, last: Delivery) -> None:
        """Settle a message and all that were taken before it."""
        self._channel.basic_ack(last.tag, multiple=True)

    def _drain(self, enough: int, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        with suppress(TimeoutError):
            while len(self._arrived) < enough:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return
                self._connection.drain_events(timeout=remaining)

    def _on_message(self, message: Any) -> None:
        self._arrived.append(delivery_of(message, time.time()))
