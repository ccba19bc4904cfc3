"""The one way into the mesh: persistent, mandatory, confirmed.

A batch is written to the socket without waiting, then its confirms are
collected, so a batch costs about one round trip instead of one per message
(kombu's ``confirm_publish`` waits after every message).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import amqp
from kombu import Connection

from meshtasks.domain.errors import (
    PublishRefused,
    PublishUnconfirmed,
    Unroutable,
)

#: Messages in flight before confirms are read, so that neither side's socket
#: buffer fills up with frames the other does not read.
_WINDOW = 1_000
_CONNECT_TIMEOUT_SECONDS = 5.0


class Outgoing(NamedTuple):
    """A message to publish.

    Attributes:
        exchange: name of the exchange; ``""`` is the default exchange.
        routing_key: at most 255 bytes.
        body: the JSON, encoded.
        message_id: the publisher's id; a resend keeps it.
        timestamp: epoch seconds; AMQP keeps whole seconds.
        headers: AMQP headers.
        properties: other AMQP properties (``content_type``, ``correlation_id``,
            …) to set or override.
    """

    exchange: str
    routing_key: str
    body: bytes
    message_id: str | None = None
    timestamp: float | None = None
    headers: dict[str, object] | None = None
    properties: dict[str, Any] | None = None


class Publisher:
    """Publishes batches over one connection, opened on first use.

    Not thread-safe, and not to be carried over a fork.

    Args:
        url: AMQP URL.
        confirm_timeout_seconds: longest wait for the confirms of a batch; a
            broker under a memory or disk alarm stops reading and runs into it.
    """

    def __init__(self, url: str, confirm_timeout_seconds: float = 30.0) -> None:
        self._url = url
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._connection: Connection | None = None
        self._channel: Any = None
        self._published = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._refused: list[Outgoing] = []
        self._returned: list[tuple[str, str]] = []

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all messages, in order; return once all are confirmed.

        A connection that went stale since the last call is replaced once, and
        what it had not confirmed is sent again, so a message may arrive twice
        (with the same ``message_id``).

        Raises:
            PublishUnconfirmed: the broker is away, refused a message or did not
                confirm in time. Any of the messages may have been stored.
            PublishRefused: the broker closed the channel over a message (it is
                too large, say, or the exchange does not exist).
            Unroutable: all are confirmed, but for the named exchanges and
                routing keys there is no queue; those were not stored.
        """
        fresh = self._connection is None
        self._refused, self._returned = [], []
        try:
            self._send(messages)
        except self._connection_errors as error:
            remaining = self._drop_connection()
            if fresh and isinstance(error, amqp.ChannelError):
                raise PublishRefused(_text(error)) from error
            if fresh:
                raise PublishUnconfirmed(_text(error)) from error
            try:
                self._send(remaining or messages)
            except amqp.ChannelError as again:
                self._drop_connection()
                raise PublishRefused(_text(again)) from again
            except self._connection_errors as again:
                self._drop_connection()
                raise PublishUnconfirmed(_text(again)) from again
        self._raise_faults()

    def close(self) -> None:
        """Close the connection; the publisher may be used again."""
        self._drop_connection()

    def _send(self, messages: Sequence[Outgoing]) -> None:
        channel = self._open_channel()
        # Numbered before the first is written: whatever is not confirmed when
        # the connection fails, written or not, is in here.
        self._unconfirmed = dict(enumerate(messages, start=self._published + 1))
        for start in range(0, len(messages), _WINDOW):
            for message in messages[start : start + _WINDOW]:
                self._published += 1
                channel.basic_publish(
                    _amqp_message(message),
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    mandatory=True,
                )
            self._await_confirms()

    def _await_confirms(self) -> None:
        """Wait until everything published so far is confirmed or refused."""
        deadline = time.monotonic() + self._confirm_timeout_seconds
        while next(iter(self._unconfirmed), math.inf) <= self._published:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                missing = len(self._unconfirmed)
                self._drop_connection()
                message = (
                    f"the broker did not confirm {missing} messages within "
                    f"{self._confirm_timeout_seconds:g} s; is it short of memory "
                    "or disk?"
                )
                raise PublishUnconfirmed(message)
            with contextlib.suppress(TimeoutError):
                self._channel.connection.drain_events(timeout=remaining)

    def _raise_faults(self) -> None:
        if refused := self._refused:
            message = (
                f"the broker refused {len(refused)} messages to exchange "
                f"{refused[0].exchange!r} with routing key "
                f"{refused[0].routing_key!r} (a queue is full or unavailable)"
            )
            raise PublishUnconfirmed(message)
        if self._returned:
            raise Unroutable(frozenset(self._returned))

    def _open_channel(self) -> Any:
        if self._connection is None:
            self._connection = Connection(
                self._url, connect_timeout=_CONNECT_TIMEOUT_SECONDS
            )
            channel = self._connection.channel()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._channel = channel
        return self._channel

    def _drop_connection(self) -> list[Outgoing]:
        """Forget the connection; return what it had not confirmed."""
        connection, self._connection, self._channel = self._connection, None, None
        remaining = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        self._published = 0
        if connection is not None:
            with contextlib.suppress(*self._connection_errors):
                connection.close()
        return remaining

    @property
    def _connection_errors(self) -> tuple[type[Exception], ...]:
        return (*amqp.Connection.connection_errors, *amqp.Connection.channel_errors)

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's
        for tag in self._settled(delivery_tag, multiple=multiple):
            del self._unconfirmed[tag]

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's
        for tag in self._settled(delivery_tag, multiple=multiple):
            self._refused.append(self._unconfirmed.pop(tag))

    def _settled(self, delivery_tag: int, *, multiple: bool) -> Iterator[int]:
        if not multiple:
            return iter((delivery_tag,))
        return iter(list(takewhile(lambda tag: tag <= delivery_tag, self._unconfirmed)))

    def _on_return(
        self, _error: Exception, exchange: str, routing_key: str, _message: object
    ) -> None:
        self._returned.append((exchange, routing_key))


def _amqp_message(message: Outgoing) -> amqp.Message:
    properties: dict[str, Any] = {
        "content_type": "application/json",
        "delivery_mode": 2,
        **(message.properties or {}),
    }
    if message.message_id is not None:
        properties["message_id"] = message.message_id
    if message.timestamp is not None:
        properties["timestamp"] = int(message.timestamp)
    if message.headers:
        properties["application_headers"] = message.headers
    return amqp.Message(message.body, **properties)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
