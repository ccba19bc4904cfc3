"""Reads messages without removing them: peek reads a queue, tap gets copies of messages
as they are published.

AMQP cannot read a message without a delivery. A peek consumes all messages of a queue,
holds them, and closes the channel; then the broker requeues them together. A quorum
queue sorts messages that it gets back at once, so their order is unchanged, even if the
process is killed. (Messages requeued by ``basic.nack`` come back in the order of a hash
map.)

Requeued messages go before messages that were never delivered, but behind messages that
were requeued earlier. So a peek at a part of a queue would change the order. Therefore
a peek always consumes the whole queue, even if the caller stops early. Only if the
process is killed in the middle, the first half of the queue may end up behind the
second.

During a peek other consumers do not get the messages, and a second peek would requeue
the remaining ones in the wrong order. An exclusive queue locks out other peeks.

A tap is a bounded queue, exclusive to its connection, that gets copies. The broker
deletes it with the connection. A reader that is too slow misses copies, and delays
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

#: A prefetch count has 16 bits, so a large queue needs several consumers, one after the
#: other. Their messages are requeued by consumer, in the order of their tags if there
#: are at most 32 consumers.
_CONSUMERS = 30
_LARGEST_PREFETCH = 65_000
#: Most messages that the broker keeps in memory on their way to us, unless the queue is
#: too long for the number of consumers.
_SMALLEST_PREFETCH = 2_000
#: Longest wait for a message that the queue should have.
_PATIENCE_SECONDS = 30.0


class QueueBusy(Transient):
    """Another process is reading the queue."""


class HeldMessages:
    """The messages of a queue while they are held.

    Attributes:
        total: number of messages that were ready at the beginning, two million at most;
            later messages are not read.
        seen: number of messages read so far.
        missing: number of messages that did not arrive, because other consumers have
            them.
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
        """Yield the messages in order, once; fewer if the peek is stopped or other
        consumers take some.

        Messages are consumed during the iteration, and their bodies are not kept.
        """
        for delivery in self._messages:
            self.seen += 1
            yield delivery
            if self._stopping.is_set():
                return

    def _deliveries(self) -> Iterator[Delivery]:
        """Yield the messages, consumer by consumer.

        A consumer gets more messages than its share if the caller removes some. Those
        are in :attr:`_arrived` when it is cancelled, and come before the next consumer.
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
            if share:  # no more messages arrived
                self.missing = left
                return

    def remove(self, tags: Iterable[int]) -> None:
        """Acknowledge these messages, which removes them from the queue.

        Args:
            tags: delivery tags.
        """
        for tag in tags:
            self._has_removed = True
            self._channel.basic_ack(tag)

    def finish(self) -> None:
        """Consume the remaining messages, and wait until removals have taken effect.

        A quorum queue loses acknowledgements that are in flight when the channel
        closes, and requeues their messages. The broker registers a consumer after it
        has processed the acknowledgements before it, and cancels it after those that
        had to wait in the channel. So both are done before the channel closes.
        """
        for _ in self._messages:
            pass
        if self._has_removed:
            self._channel.basic_qos(0, 1, a_global=False)
            tag = self._channel.basic_consume(self._queue, callback=lambda _: None)
            self._channel.basic_cancel(tag)

    def _consume(self, number: int, share: int) -> str:
        """Start a consumer with a prefetch count of ``share``; return its tag."""
        tag = f"peek-{number:02d}"
        self._channel.basic_qos(0, share, a_global=False)
        self._channel.basic_consume(
            self._queue, consumer_tag=tag, callback=self._arrived.append
        )
        return tag

    def _wait_for_message(self) -> bool:
        """Wait until a message has arrived. Return false if none arrives in time."""
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
    """Hold the messages of a queue until the end of the block.

    Afterwards they are marked as redelivered, and a queue with a delivery limit has
    counted one delivery; the dead-letter queue has no limit. The block must be shorter
    than the broker's consumer timeout, half an hour by default.

    Args:
        url: AMQP URL.
        queue: name of the queue.
        stopping: ends the iteration when it is set. Use it instead of an exception such
            as that of Ctrl-C, which could interrupt the reading of a frame.
        prefetch: messages per consumer; more for long queues.

    Raises:
        ConfigError: there is no such queue, or the broker refuses the account or the
            virtual host.
        QueueBusy: another process is reading the queue.
        Transient: the broker is unreachable, or the connection was lost.
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
    """Lock out other peeks until the connection ends.

    Raises:
        ConfigError: the account may not declare the lock.
        QueueBusy: another process is reading the queue.
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
#: Limits of a tap's queue; above them the broker drops the oldest copies.
_BOUNDED = {"x-max-length": 1_000, "x-max-length-bytes": 64 * 1024 * 1024}


class Tap:
    """Gives copies of messages as they are published.

    Args:
        connection: the open connection that consumes them.
        pattern: pattern for routing keys, as in a binding of a topic exchange.
        waiting: copies that have arrived; the consumer's callback adds to it.
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
        """The next copy that matches the pattern and is wanted; None if none arrived in
        time. Other copies are dropped.

        Raises:
            amqp.exceptions.ConnectionError, OSError: the connection was lost.
        """
        deadline = time.monotonic() + within_seconds
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                # fanout and direct exchanges do not match patterns
                matches = topic_matches(self._pattern, message.routing_key)
                if matches and is_wanted(message):
                    return message
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return None
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=remaining)


def pattern_fault(pattern: str) -> str | None:
    """Why a pattern for routing keys is probably a mistake; None if it is valid.

    The broker accepts any text. A word that only looks like a wildcard matches nothing
    but itself.
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
    """Names of the exchanges in topology.yaml, and of the exchange of MQTT messages."""
    return [*(item.name for item in topology.exchanges), MQTT_EXCHANGE]


@contextmanager
def tapped(
    url: str, topology: Topology, pattern: str, exchanges: Iterable[str]
) -> Iterator[Tap]:
    """A tap on exchanges, which gives copies of messages from now on.

    It does not get messages through the default exchange (retries and replays), which
    has no bindings.

    Args:
        url: AMQP URL.
        topology: gives the types of the exchanges.
        pattern: pattern for routing keys, as in a binding of a topic exchange.
        exchanges: names of exchanges: of the topology, or those of every broker.

    Raises:
        ConfigError: the broker refuses the account, or the URL is invalid.
        Transient: the broker is unreachable, or the connection was lost.
        amqp.exceptions.ChannelError: the broker has no such exchange, or the account
            may not read it.
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
    """Routing keys of the bindings that give a queue all messages of an exchange that
    may match a pattern."""
    match kind:
        case "topic":
            return {pattern}
        case "fanout":
            return {""}
        case _:  # a direct exchange needs equal keys: use those of all its bindings
            bindings = [b for b in topology.all_bindings if b.exchange == exchange]
            return {b.routing_key for b in bindings} | {pattern}
