"""The one way into the mesh: persistent, mandatory, confirmed.

Messages are written to the socket many at a time, and confirms collected as they
come, so a batch costs about one round trip instead of one per message (kombu's
``confirm_publish`` waits after every message).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import amqp
from kombu import Connection

from meshtasks.domain.errors import (
    PublishRefused,
    PublishUnconfirmed,
    Unroutable,
)
from meshtasks.messaging.bursts import read_ahead, read_burst
from meshtasks.messaging.frames import Outgoing, publish_frames

__all__ = ["Outgoing", "Publisher"]

#: Most messages in flight, so that neither side's socket buffer fills up with frames
#: that the other does not read.
_WINDOW = 2_000
#: About as much is written at once.
_WRITE_BYTES = 32 * 1024
_CONNECT_TIMEOUT_SECONDS = 5.0


class Publisher:
    """Publishes batches over one connection, opened on first use.

    Not thread-safe, and not to be carried over a fork.

    Args:
        url: AMQP URL.
        confirm_timeout_seconds: longest time without a confirm; a broker under a
            memory or disk alarm stops reading and runs into it.
    """

    def __init__(self, url: str, confirm_timeout_seconds: float = 30.0) -> None:
        self._url = url
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._connection: Connection | None = None
        self._channel: Any = None
        #: Delivery tags of the last message written, and of the last to be written.
        self._published = self._last = 0
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
        if self._connection is not None:
            with contextlib.suppress(*self._connection_errors):
                self._connection.close()
        self._drop_connection()

    def _send(self, messages: Sequence[Outgoing]) -> None:
        channel = self._open_channel()
        # Numbered before the first is written: whatever is not confirmed when
        # the connection fails, written or not, is in here.
        self._unconfirmed = dict(enumerate(messages, start=self._published + 1))
        self._last = self._published + len(messages)
        connection = channel.connection
        written: list[bytes] = []
        written_bytes = 0
        for message in messages:
            frames = publish_frames(message, channel.channel_id, connection.frame_max)
            written.append(frames)
            written_bytes += len(frames)
            if written_bytes >= _WRITE_BYTES:
                self._write(connection, written)
                self._await_confirms(_WINDOW)
                written_bytes = 0
        self._write(connection, written)
        self._await_confirms(0)

    def _write(self, connection: Any, frames: list[bytes]) -> None:
        """Write messages, and empty the list."""
        self._published += len(frames)
        connection.transport.write(b"".join(frames))
        frames.clear()

    def _await_confirms(self, most: int) -> None:
        """Collect confirms until at most so many messages are in flight."""
        connection = self._channel.connection
        deadline = time.monotonic() + self._confirm_timeout_seconds
        while read_burst(connection, _WINDOW):
            pass
        while (unconfirmed := self._in_flight) > most:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._drop_connection()
                message = (
                    f"the broker did not confirm {unconfirmed} messages within "
                    f"{self._confirm_timeout_seconds:g} s; is it short of memory "
                    "or disk?"
                )
                raise PublishUnconfirmed(message)
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=remaining)
                read_burst(connection, _WINDOW)
            if self._in_flight < unconfirmed:
                deadline = time.monotonic() + self._confirm_timeout_seconds

    @property
    def _in_flight(self) -> int:
        """Messages written and neither confirmed nor refused."""
        return len(self._unconfirmed) - (self._last - self._published)

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
            connection = Connection(
                self._url,
                connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                transport_options={"write_timeout": self._confirm_timeout_seconds},
            )
            # By itself kombu would wait two seconds and try again.
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            self._connection = connection
            channel = connection.channel()
            read_ahead(channel.connection.transport)
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._channel = channel
        return self._channel

    def _drop_connection(self) -> list[Outgoing]:
        """Forget the connection; return what it had not confirmed.

        Without a farewell: a broker under an alarm would not answer it.
        """
        connection, self._connection, self._channel = self._connection, None, None
        remaining = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        self._published = self._last = 0
        if connection is not None:
            connection.collect()
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


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
