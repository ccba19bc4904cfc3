"""Look at messages, and leave them where they go: peek at those of a queue, or tap what
passes the exchanges.

AMQP has no way to read without taking. In a peek everything is delivered and held, and
returned all at once by closing the channel: a quorum queue then sorts what comes
back, so its order is that of before, and so it is if the process is killed. (What is
returned by ``basic.nack`` comes in the order of a hash map.)

What comes back goes before the messages that were never delivered, but behind those
that came back earlier, so a look at a part of the queue would change the order. A
peek is of the whole queue: if the caller has seen enough, the rest is delivered all
the same. Only a process that is killed half-way may leave the first half behind the
second.

Meanwhile others do not see the messages, and a second peek would see the rest and
return that in the wrong order. An exclusive queue keeps others out.

A tap is a queue of its own, exclusive to its connection and bounded, which gets copies:
it goes with whoever looks, and one who does not keep up misses copies, and holds back
nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import kombu
from amqp.exceptions import AccessRefused, NotFound, ResourceLocked

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.amqp.entities import MQTT_EXCHANGE, PREDECLARED_EXCHANGES, topic_matches
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.topology import Topology
from meshtasks.errors import ConfigError, Transient

#: A consumer's prefetch count has 16 bits, so large queues take several consumers, one
#: after the other. What they hold comes back consumer by consumer, in the order of
#: their tags as long as there are at most 32.
_CONSUMERS = 30
_LARGEST_PREFETCH = 65_000
#: The broker has at most so many messages on their way to us (times their size, that
#: is its memory), unless the queue is so long that the consumers would not do.
_SMALLEST_PREFETCH = 2_000
#: For a message that must be there to arrive.
_PATIENCE_SECONDS = 30.0


class QueueBusy(Transient):
    """Another process is reading the queue."""


class HeldMessages:
    """The messages of a queue while they are held.

    Attributes:
        total: messages that were ready when it began (two million at most); later
            ones are not looked at.
        seen: how many were looked at.
        missing: how many did not come, because other consumers have them.
    """

    def __init__(
        self,
        connection: kombu.Connection,
        channel: Any,
        queue: str,
        prefetch: int,
        stopping: threading.Event,
    ) -> None:
        self.seen = self.missing = 0
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._stopping = stopping
        self._has_removed = False
        self._arrived: deque[Any] = deque()
        self._messages = self._deliveries()
        self.total = min(_ready(channel, queue), _CONSUMERS * _LARGEST_PREFETCH)
        self._prefetch = max(prefetch, -(-self.total // _CONSUMERS))

    def __iter__(self) -> Iterator[Delivery]:
        """The messages in their order, once; fewer if stopped, or if other
        consumers take some meanwhile.

        They are delivered as the iteration goes on, and are not kept here.
        """
        for delivery in self._messages:
            self.seen += 1
            yield delivery
            if self._stopping.is_set():
                return

    def _deliveries(self) -> Iterator[Delivery]:
        """The messages, consumer by consumer.

        A consumer whose messages are removed meanwhile is given more than its share;
        what is left in :attr:`_arrived` when it ends comes first then.
        """
        now = time.time()
        numbers = iter(range(_CONSUMERS))
        left = self.total
        while left:
            share = min(self._prefetch, left)
            tag = self._consume(next(numbers), share)
            while share and self._wait_for_message():
                share, left = share - 1, left - 1
                yield delivery_of(self._arrived.popleft(), now)
            self._channel.basic_cancel(tag)
            while self._arrived and left:
                left -= 1
                yield delivery_of(self._arrived.popleft(), now)
            if share:  # no more came
                self.missing = left
                return

    def remove(self, tags: Iterable[int]) -> None:
        """Take these messages out of the queue for good."""
        for tag in tags:
            self._has_removed = True
            self._channel.basic_ack(tag)

    def finish(self) -> None:
        """Have the rest delivered, and see to it that what is removed stays so.

        Acknowledgements that are on their way to a quorum queue when the channel
        closes are lost, and their messages come back. Registering a consumer waits
        until those before it have been taken, and cancelling it, until those have
        that had to wait in the channel.
        """
        for _ in self._messages:
            pass
        if self._has_removed:
            self._channel.basic_qos(0, 1, a_global=False)
            tag = self._channel.basic_consume(self._queue, callback=lambda _: None)
            self._channel.basic_cancel(tag)

    def _consume(self, number: int, share: int) -> str:
        """Begin a consumer that is given so many messages; its tag."""
        tag = f"peek-{number:02d}"
        self._channel.basic_qos(0, share, a_global=False)
        self._channel.basic_consume(
            self._queue, consumer_tag=tag, callback=self._arrived.append
        )
        return tag

    def _wait_for_message(self) -> bool:
        """Wait until one has arrived; false if none comes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._arrived:
            if time.monotonic() > deadline:
                return False
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=_PATIENCE_SECONDS)
        return True


@contextmanager
def peek(
    url: str,
    queue: str,
    *,
    stopping: threading.Event | None = None,
    prefetch: int = _SMALLEST_PREFETCH,
) -> Iterator[HeldMessages]:
    """Hold the messages of a queue, from ``with`` to its end.

    Afterwards they are marked as redelivered, and a queue with a delivery limit has
    counted it: the dead-letter queue has no such limit. Nothing may be held for longer
    than the broker's consumer timeout, half an hour by default.

    Args:
        stopping: ends the iteration when it is set. (An exception out of nowhere, such
            as that of Ctrl-C, could leave the connection amid a frame.)
        prefetch: messages per consumer, or more for long queues.

    Raises:
        ConfigError: there is no such queue, or the broker refuses the account or the
            virtual host.
        QueueBusy: another process peeks at it.
        Transient: the broker cannot be reached.
    """
    with connected(url) as connection:
        _lock(connection, queue)
        with closing(connection.channel()) as channel:
            stopping = stopping or threading.Event()
            try:
                held = HeldMessages(connection, channel, queue, prefetch, stopping)
            except NotFound as error:
                expected = "the broker has no such queue; meshtasks topology apply"
                raise ConfigError("topology", queue, expected) from error
            try:
                yield held
            finally:
                held.finish()


def _lock(connection: kombu.Connection, queue: str) -> None:
    """Keep others out until the connection ends.

    Raises:
        ConfigError: the account may not do that.
        QueueBusy: another process peeks at the queue.
    """
    try:
        connection.channel().queue_declare(f"{queue}.browsed", exclusive=True)
    except AccessRefused as error:
        expected = f"the account may not look at {queue}: {error.reply_text}"
        raise ConfigError("environment", "MESH_BROKER_URL", expected) from error
    except ResourceLocked as error:
        message = (
            f"another process is reading {queue} (meshtasks dlq or report, in another "
            "terminal?); try again when it has finished"
        )
        raise QueueBusy(message) from error


def _ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


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
