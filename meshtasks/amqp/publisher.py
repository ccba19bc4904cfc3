"""Publishes to the mesh: persistent, mandatory, with confirms. No other module does.

Many messages are written to the socket at once, and confirms are collected as they
arrive. So a batch costs about one round trip; kombu's ``confirm_publish`` waits after
every message.

A broker that is short of memory or disk stops reading from connections that publish,
and sends ``connection.blocked``. It keeps what was written before, and processes it
when the alarm is over. So nothing is sent twice while the connection is open.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import amqp
from amqp.exceptions import AccessRefused, IrrecoverableConnectionError, NotFound

from meshtasks.amqp.connecting import CONNECT_TIMEOUT_SECONDS, Connection
from meshtasks.amqp.frames import Outgoing, fitted, publish_frames
from meshtasks.amqp.pyamqp_internals import wait_for_full_peer, write_some
from meshtasks.errors import (
    PublishRefused,
    PublishUnconfirmed,
    Unroutable,
)

__all__ = ["Outgoing", "Publisher"]

#: Most messages in flight. With more, the socket buffers of both sides could fill with
#: frames that the other side does not read.
_WINDOW = 2_000
#: Approximate size of one write to the socket.
_WRITE_BYTES = 32 * 1024
#: Timeout of one write. While the socket is full, the broker's frames are read at this
#: interval.
_WRITE_SECONDS = 0.25
#: Longest wait of a call while the broker blocks publishers.
_BLOCKED_SECONDS = 5.0

_CONNECTION_ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
)
#: Errors with which the broker closes a channel or connection because of a message.
_REFUSALS = (*amqp.Connection.channel_errors, IrrecoverableConnectionError)


class Publisher:
    """Publishes batches over one connection, which the first use opens.

    Not thread-safe. Do not use one instance on both sides of a fork.

    Args:
        url: AMQP URL, or several separated by ``;``; the first node that responds is
            used.
        confirm_timeout_seconds: longest wait for the next confirm while the broker does
            not block publishers.

    Attributes:
        is_blocked: whether the broker blocks publishers, because it is short of memory
            or disk. Any thread may read it.
    """

    def __init__(self, url: str, confirm_timeout_seconds: float = 30.0) -> None:
        self._url = url
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self.is_blocked = False
        self._connection: Connection | None = None
        self._channel: Any = None
        # Delivery tag of the last message; messages in flight by tag; bytes not yet
        # written to the socket; time of the last progress (monotonic seconds).
        self._published = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._unwritten = bytearray()
        self._progress_at = 0.0
        # Of the current call: all messages, those not yet sent, those that the broker
        # could not store, and those that cannot be published, with the error.
        self._messages: Sequence[Outgoing] = ()
        self._unsent: deque[Outgoing] = deque()
        self._nacked: list[Outgoing] = []
        self._refused: list[tuple[Outgoing, Exception]] = []
        # Confirmed messages of the preceding calls that failed, and the routes among
        # them that have no queue.
        self._confirmed: list[Outgoing] = []
        self._returned: set[tuple[str, str]] = set()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all messages, in order; return once all are confirmed.

        If the connection was lost since the last call, it is replaced once, and the
        messages that it had not confirmed are sent again. So a message may arrive twice
        (with the same ``message_id``).

        After a failure, call it again with the same objects to continue: messages that
        are confirmed, or in flight on an open connection, are not sent again.

        Raises:
            PublishUnconfirmed: the broker is unavailable, or did not store all messages
                in time. Any of them may have been stored.
            PublishRefused: some messages cannot be published; the error names them.
                All others are confirmed.
            Unroutable: all messages are confirmed, but no queue matches the named
                exchanges and routing keys; those messages were not stored.
        """
        self._begin(messages)
        try:
            self._send_all()
            self._raise_faults()
        except PublishUnconfirmed:  # the next call may continue with these messages
            refused = (message for message, _ in self._refused)
            left = Counter(map(id, (*self._unresolved(), *refused)))
            self._confirmed = _without(messages, left)
            raise
        self._confirmed = []

    def close(self) -> None:
        """Close the connection; the publisher may be used again.

        While messages are in flight, ``connection.close`` is not sent: a broker that
        blocks publishers would not reply.
        """
        if self._connection is not None and not (self._unconfirmed or self.is_blocked):
            with contextlib.suppress(*_CONNECTION_ERRORS):
                self._connection.close()
        self._drop_connection()

    # --- the messages of a call -----------------------------------------------

    def _begin(self, messages: Sequence[Outgoing]) -> None:
        """Begin a call: determine the messages that earlier calls have not sent."""
        self._messages = messages
        known = Counter(map(id, (*self._confirmed, *self._unconfirmed.values())))
        self._unsent = deque(_without(messages, known) if known else messages)
        self._nacked, self._refused = [], []
        if not self._confirmed:
            self._returned = set()

    def _unresolved(self) -> list[Outgoing]:
        """Messages of the call that are neither confirmed nor refused, in order."""
        known = (*self._unconfirmed.values(), *self._unsent, *self._nacked)
        resolved = Counter(map(id, self._messages))
        resolved.subtract(map(id, known))
        return _without(self._messages, resolved)

    def _recall(self) -> None:
        """Drop the connection; its unconfirmed messages are to be sent again."""
        self._unsent = deque(self._unresolved())
        self._nacked = []
        self._drop_connection()

    def _raise_faults(self) -> None:
        """Raise an error if some messages are not stored.

        Raises:
            PublishUnconfirmed: the broker rejected some: no room, or no leader.
            PublishRefused: some messages cannot be published.
            Unroutable: some routes have no queue.
        """
        if self._nacked:
            # RabbitMQ 3.10: after a queue had no leader, the node rejects everything
            # that follows on this channel. So the next call uses another node.
            self._distrust()
            self.close()
            raise PublishUnconfirmed(_not_stored(self._nacked))
        if not self._refused:
            if self._returned:
                self._confirmed = []
                raise Unroutable(frozenset(self._returned))
            return
        (first, error), *more = self._refused
        many = f"{1 + len(more)} messages cannot be published, the first of them to "
        reason = (
            f"{many if more else 'a message cannot be published to '}"
            f"exchange {first.exchange!r} with routing key {first.routing_key!r}: "
            f"{_text(error)}"
        )
        raise PublishRefused(
            reason,
            refused=tuple(message for message, _ in self._refused),
            misfits=tuple(
                message
                for message, fault in self._refused
                if not isinstance(fault, NotFound | AccessRefused)
            ),
            routes=frozenset(self._returned),
        ) from error

    # --- sending --------------------------------------------------------------

    def _send_all(self) -> None:
        """Send the messages of the call. If an earlier call's connection was lost, open
        a new one."""
        is_fresh = self._connection is None
        try:
            self._send()
        except _REFUSALS:
            self._send_singly()
        except _CONNECTION_ERRORS as error:
            self._recall()
            if is_fresh:
                raise PublishUnconfirmed(_text(error)) from error
            self._send_all()

    def _send(self) -> None:
        """Send the messages not yet sent, and wait until all are confirmed."""
        channel = self._open_channel()
        frame_max = channel.connection.frame_max
        self._progress_at = time.monotonic()
        self._read_arrived()
        self._wait_while_blocked()
        while self._unsent:
            message = self._unsent[0]
            try:
                frames = _frames(message, channel.channel_id, frame_max)
            except Exception as error:  # noqa: BLE001 - py-amqp raises any type
                self._refused.append((message, error))
                self._unsent.popleft()
                continue
            self._published += 1
            self._unconfirmed[self._published] = self._unsent.popleft()
            self._unwritten += frames
            if len(self._unwritten) >= _WRITE_BYTES:
                self._write()
                self._await_confirms(_WINDOW)
                self._wait_while_blocked()
        self._write()
        self._await_confirms(0)

    def _send_singly(self) -> None:
        """Send the unresolved messages one by one, to find the message for which the
        broker closed the channel: it does not name the message."""
        self._recall()
        waiting, missing = self._unsent, dict[str, Exception]()
        while waiting:
            message = waiting.popleft()
            if fault := missing.get(message.exchange):
                self._refused.append((message, fault))
                continue
            self._unsent = deque([message])
            try:
                self._send_one()
            except _REFUSALS as error:
                self._drop_connection()
                self._refused.append((message, error))
                if isinstance(error, NotFound):
                    missing[message.exchange] = error
            except PublishUnconfirmed:
                self._unsent.extend(waiting)
                raise

    def _send_one(self) -> None:
        """Send the one message in ``_unsent``.

        Raises:
            PublishUnconfirmed: the connection was lost, or :meth:`_send` raised it.
        """
        try:
            self._send()
        except _REFUSALS:
            raise
        except _CONNECTION_ERRORS as error:
            self._recall()
            raise PublishUnconfirmed(_text(error)) from error

    def _write(self) -> None:
        """Write the remaining bytes to the socket."""
        while self._unwritten:
            try:
                written = write_some(self._channel, self._unwritten, _WRITE_SECONDS)
            except TimeoutError:
                self._read_arrived()
                self._seconds_left()
            else:
                del self._unwritten[:written]
                self._progress_at = time.monotonic()

    def _await_confirms(self, most: int) -> None:
        """Collect confirms until at most ``most`` messages are in flight."""
        self._read_arrived()
        while len(self._unconfirmed) > most:
            self._read()

    def _wait_while_blocked(self) -> None:
        while self.is_blocked:
            self._read()

    def _read(self) -> None:
        """Wait for the broker's next frame, at most :meth:`_seconds_left`."""
        seconds = self._seconds_left()
        with contextlib.suppress(TimeoutError):
            self._channel.connection.drain_events(timeout=seconds)
            self._read_arrived()

    def _read_arrived(self) -> None:
        """Dispatch the frames that have arrived."""
        while self._channel.connection.read_arrived(_WINDOW):
            pass

    def _seconds_left(self) -> float:
        """Seconds in which the broker has to send its next frame.

        Raises:
            PublishUnconfirmed: the time is over. If the broker blocks publishers, the
                connection and the messages in flight are kept.
        """
        patience = self._confirm_timeout_seconds
        if self.is_blocked:
            patience = min(patience, _BLOCKED_SECONDS)
        left = self._progress_at + patience - time.monotonic()
        if left > 0:
            return left
        if self.is_blocked:
            raise PublishUnconfirmed(
                "the broker takes no messages: it is short of memory or disk"
            )
        message = (
            f"the broker did not confirm {len(self._unconfirmed)} messages within "
            f"{self._confirm_timeout_seconds:g} s"
        )
        self._distrust()
        self._recall()
        raise PublishUnconfirmed(message)

    # --- the connection -------------------------------------------------------

    def _open_channel(self) -> Any:
        """The channel; opened if there is none.

        Raises:
            PublishUnconfirmed: the broker is unreachable, or refuses the account.
        """
        if self._connection is not None:
            return self._channel
        connection = Connection(
            self._url,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            transport_options={"write_timeout": self._confirm_timeout_seconds},
        )
        try:
            connection.open_once()
            channel = connection.channel()
            channel.confirm_select()
        except _CONNECTION_ERRORS as error:
            connection.collect()
            raise PublishUnconfirmed(_text(error)) from error
        wait_for_full_peer(channel)
        channel.connection.on_blocked = self._on_blocked
        channel.connection.on_unblocked = self._on_unblocked
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._connection, self._channel = connection, channel
        return channel

    def _distrust(self) -> None:
        if self._connection is not None:
            self._connection.distrust()

    def _drop_connection(self) -> None:
        """Drop connection and messages in flight, without ``connection.close``."""
        connection, self._connection, self._channel = self._connection, None, None
        self._unconfirmed.clear()
        self._unwritten.clear()
        self._published = 0
        self.is_blocked = False
        if connection is not None:
            connection.collect()

    def _on_blocked(self, _reason: str) -> None:
        self.is_blocked = True
        self._progress_at = time.monotonic()

    def _on_unblocked(self) -> None:
        self.is_blocked = False
        self._progress_at = time.monotonic()

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's signature
        self._progress_at = time.monotonic()
        for tag in self._confirmed_tags(delivery_tag, multiple=multiple):
            del self._unconfirmed[tag]

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's signature
        self._progress_at = time.monotonic()
        for tag in self._confirmed_tags(delivery_tag, multiple=multiple):
            self._nacked.append(self._unconfirmed.pop(tag))

    def _confirmed_tags(self, delivery_tag: int, *, multiple: bool) -> Iterator[int]:
        if not multiple:
            return iter((delivery_tag,))
        return iter(list(takewhile(lambda tag: tag <= delivery_tag, self._unconfirmed)))

    def _on_return(
        self, _error: Exception, exchange: str, routing_key: str, _message: object
    ) -> None:
        self._returned.add((exchange, routing_key))


def _frames(message: Outgoing, channel_id: int, frame_max: int) -> bytes:
    """The frames of a message. Only if it cannot be encoded as it is, values that do
    not fit are replaced or left out."""
    try:
        return publish_frames(message, channel_id, frame_max)
    except Exception:  # noqa: BLE001 - py-amqp raises any type
        return publish_frames(fitted(message, frame_max), channel_id, frame_max)


def _without(messages: Sequence[Outgoing], known: Counter[int]) -> list[Outgoing]:
    """The messages without the known ones (number by ``id()``)."""
    left = known.copy()
    found = []
    for message in messages:
        if left[id(message)] > 0:
            left[id(message)] -= 1
        else:
            found.append(message)
    return found


def _not_stored(messages: Sequence[Outgoing]) -> str:
    first = messages[0]
    return (
        f"the broker refused {len(messages)} messages to exchange "
        f"{first.exchange!r} with routing key "
        f"{first.routing_key!r} (a queue is full or unavailable)"
    )


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
