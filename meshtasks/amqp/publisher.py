"""The one way into the mesh: persistent, mandatory, confirmed.

Messages are written to the socket many at a time, and confirms collected as they
come, so a batch costs about one round trip instead of one per message (kombu's
``confirm_publish`` waits after every message).

A broker that is short of memory or disk stops reading from those who publish, and
announces it (``connection.blocked``). It has what was written before, and takes it
when the alarm is over. So nothing is sent a second time while the connection lives.
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

#: Most messages in flight, so that neither side's socket buffer fills up with frames
#: that the other does not read.
_WINDOW = 2_000
#: About as much is written at once.
_WRITE_BYTES = 32 * 1024
#: While a socket takes no more, the broker's frames are read so often.
_WRITE_SECONDS = 0.25
#: A call that meets a broker under an alarm waits no longer than this.
_BLOCKED_SECONDS = 5.0

_CONNECTION_ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
)
#: What the broker closes a channel or connection with over a message.
_REFUSALS = (*amqp.Connection.channel_errors, IrrecoverableConnectionError)


class Publisher:
    """Publishes batches over one connection, opened on first use.

    Not thread-safe, and not to be carried over a fork.

    Args:
        url: AMQP URL, or several with ``;`` between them: whichever node answers.
        confirm_timeout_seconds: longest time in which a broker that is under no alarm
            confirms nothing.

    Attributes:
        is_blocked: the broker takes nothing at the moment: it is short of memory or
            disk. Any thread may look.
    """

    def __init__(self, url: str, confirm_timeout_seconds: float = 30.0) -> None:
        self._url = url
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self.is_blocked = False
        self._connection: Connection | None = None
        self._channel: Any = None
        #: Delivery tag of the last message; what is in flight, by its tag; bytes of it
        #: that the socket has not taken; and when the broker last got on with it.
        self._published = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._unwritten = bytearray()
        self._progress_at = 0.0
        #: Of the call at hand: its messages, those that are not sent yet, those that
        #: the broker could not store, and those that cannot be published, with why.
        self._messages: Sequence[Outgoing] = ()
        self._unsent: deque[Outgoing] = deque()
        self._nacked: list[Outgoing] = []
        self._refused: list[tuple[Outgoing, Exception]] = []
        #: What the calls before it had confirmed, if they failed, and what of that has
        #: no queue.
        self._confirmed: list[Outgoing] = []
        self._returned: set[tuple[str, str]] = set()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish all messages, in order; return once all are confirmed.

        A connection that went stale since the last call is replaced once, and
        what it had not confirmed is sent again, so a message may arrive twice
        (with the same ``message_id``).

        To publish the same objects again after a failure is to go on with them: those
        that are confirmed, or in flight on a connection that lives, are not sent a
        second time.

        Raises:
            PublishUnconfirmed: the broker is away, or did not store all messages in
                time. Any of them may have been stored.
            PublishRefused: some messages cannot be published; the error names them.
                All others are confirmed.
            Unroutable: all are confirmed, but for the named exchanges and
                routing keys there is no queue; those were not stored.
        """
        self._begin(messages)
        try:
            self._send_all()
            self._raise_faults()
        except PublishUnconfirmed:  # the next call may go on with its messages
            refused = (message for message, _ in self._refused)
            left = Counter(map(id, (*self._unresolved(), *refused)))
            self._confirmed = _without(messages, left)
            raise
        self._confirmed = []

    def close(self) -> None:
        """Close the connection; the publisher may be used again.

        Without ``connection.close`` while something is in flight: a broker under an
        alarm would not answer it.
        """
        if self._connection is not None and not (self._unconfirmed or self.is_blocked):
            with contextlib.suppress(*_CONNECTION_ERRORS):
                self._connection.close()
        self._drop_connection()

    # --- the messages of a call -----------------------------------------------

    def _begin(self, messages: Sequence[Outgoing]) -> None:
        """Begin a call: those of its messages are sent that no other has sent."""
        self._messages = messages
        known = Counter(map(id, (*self._confirmed, *self._unconfirmed.values())))
        self._unsent = deque(_without(messages, known) if known else messages)
        self._nacked, self._refused = [], []
        if not self._confirmed:
            self._returned = set()

    def _unresolved(self) -> list[Outgoing]:
        """Those of the call that are neither confirmed nor refused, in order."""
        known = (*self._unconfirmed.values(), *self._unsent, *self._nacked)
        resolved = Counter(map(id, self._messages))
        resolved.subtract(map(id, known))
        return _without(self._messages, resolved)

    def _recall(self) -> None:
        """Give the connection up: what it had not confirmed is to be sent."""
        self._unsent = deque(self._unresolved())
        self._nacked = []
        self._drop_connection()

    def _raise_faults(self) -> None:
        """Tell of what is not stored.

        Raises:
            PublishUnconfirmed: there was no room.
            PublishRefused: some messages cannot be published.
            Unroutable: some routes have no queue.
        """
        if self._nacked:
            # To a channel that met the queue without its leader, the node refuses all
            # that follows (RabbitMQ 3.10): the next call has another, and another node.
            self._distrust()
            self.close()
            raise PublishUnconfirmed(_not_stored(self._nacked))
        if not self._refused:
            if self._returned:
                self._confirmed = []
                raise Unroutable(frozenset(self._returned))
            return
        (first, error), *more = self._refused
        reason = (
            f"{1 + len(more)} messages cannot be published, the first of them to "
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
        """Send the messages of the call, over a new connection if that of an earlier
        call is stale."""
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
        """Send what is not sent yet, and wait until all is confirmed."""
        channel = self._open_channel()
        frame_max = channel.connection.frame_max
        self._progress_at = time.monotonic()
        self._read_arrived()
        self._wait_while_blocked()
        while self._unsent:
            message = self._unsent[0]
            try:
                frames = _frames(message, channel.channel_id, frame_max)
            except Exception as error:  # noqa: BLE001 - whatever an odd value leads to
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
        """Send what is left one by one, since the broker does not take one of them:
        it closed the channel without naming it."""
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
        """Send what is not sent yet.

        Raises:
            PublishUnconfirmed: the connection was lost, or what :meth:`_send` raises.
        """
        try:
            self._send()
        except _REFUSALS:
            raise
        except _CONNECTION_ERRORS as error:
            self._recall()
            raise PublishUnconfirmed(_text(error)) from error

    def _write(self) -> None:
        """Give the socket what it has not taken yet."""
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
        """Collect confirms until at most so many messages are in flight."""
        self._read_arrived()
        while len(self._unconfirmed) > most:
            self._read()

    def _wait_while_blocked(self) -> None:
        while self.is_blocked:
            self._read()

    def _read(self) -> None:
        """Wait for the broker's next frame, as long as is to be waited."""
        seconds = self._seconds_left()
        with contextlib.suppress(TimeoutError):
            self._channel.connection.drain_events(timeout=seconds)
            self._read_arrived()

    def _read_arrived(self) -> None:
        """Dispatch the frames that have arrived."""
        while self._channel.connection.read_arrived(_WINDOW):
            pass

    def _seconds_left(self) -> float:
        """How long the broker may take for its next step.

        Raises:
            PublishUnconfirmed: it has had its time. If it is blocked, the
                connection is kept, and what is in flight with it.
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
        """The channel.

        Raises:
            PublishUnconfirmed: the broker cannot be reached, or refuses the account.
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
        """Drop the connection, without ``connection.close``, and what was in flight."""
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

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's
        self._progress_at = time.monotonic()
        for tag in self._confirmed_tags(delivery_tag, multiple=multiple):
            del self._unconfirmed[tag]

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp's
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
    """A message's frames. Headers that cannot be encoded, or not in one frame, are
    left out; nearly all messages pass as they are."""
    try:
        return publish_frames(message, channel_id, frame_max)
    except Exception:  # noqa: BLE001 - py-amqp raises whatever an odd value leads to
        return publish_frames(fitted(message, frame_max), channel_id, frame_max)


def _without(messages: Sequence[Outgoing], known: Counter[int]) -> list[Outgoing]:
    """The messages less those, by id, so many times."""
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
