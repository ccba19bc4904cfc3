"""Consumes one queue: its channel, its open batches, its acknowledgements.

Every queue has a channel of its own. So a slow queue does not delay the
acknowledgements of a fast one, prefetch is per queue, and the queue of a delivery is
known without a lookup by consumer tag.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import amqp
from celery.utils.log import get_logger

from meshtasks.amqp.connecting import Depth
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.queues import QueueSettings
from meshtasks.amqp.receiving import Message
from meshtasks.flows.contract import Handler
from meshtasks.worker.batching import (
    FULL_SIZE,
    Adapted,
    Buffer,
    Capacity,
    LeadingEdge,
    adapt,
    shrink_level_of,
)
from meshtasks.worker.resolution import OutcomeResolver

logger = get_logger(__name__)

#: Maximum time that a batch collects if it tests a sink.
_TRIAL_AGE_SECONDS = 0.1


class QueueConsumer:
    """Consumes one queue over one connection; a new connection needs a new consumer.

    Args:
        settings: batch limits, retry options, size limit.
        resolver: resolves the batches of this queue.
        prefetch: maximum number of unacknowledged messages.
        on_full: called with this consumer and a full batch.
        on_open: called with this consumer and the open batch when its first message
            arrives; the batch becomes due after :meth:`gathering_seconds`.
        on_dead: called with this consumer and a message that is dead on arrival.

    Attributes:
        sinks: names of the sinks, and of the queues in which their data may wait.
        source: name of the queue, or of one of its partitions, that is consumed.
        alive: False once the channel or the connection is lost. Results are then
            dropped, because the broker delivers the messages again.
        opened_at: when the channel was opened, monotonic seconds; 0.0 before.
        is_urgent: whether its batches run before those of other queues (alerts).
        received: number of messages received.
        unresolved: number of messages received and not yet resolved.
        is_partition: whether it consumes a partition. One batch of it runs at a time,
            so that messages are handled in order; consumers of other workers wait.
        is_unfit: whether the size of messages has changed, so that the queue should be
            consumed with another prefetch.
        is_leaving: whether it is being handed over to another worker, and runs no more
            batches.
    """

    _on_lost: Callable[[QueueConsumer, str], None]  # set when the channel is opened

    def __init__(
        self,
        handler: Handler,
        settings: QueueSettings,
        resolver: OutcomeResolver,
        prefetch: int,
        on_full: Callable[[QueueConsumer, list[Delivery]], None],
        on_open: Callable[[QueueConsumer, Buffer], None],
        on_dead: Callable[[QueueConsumer, Adapted], None],
    ) -> None:
        self.handler = handler
        self.queue = handler.queue
        self.sinks = handler.sink_names
        self.source = resolver.source or self.queue
        self.is_partition = self.source != self.queue
        self.is_leaving = False
        self.is_urgent = self.queue.startswith("alerts.")
        self.settings = settings
        self.resolver = resolver
        self.alive = True
        self.opened_at = 0.0
        self.received = 0
        self.unresolved = 0
        self._max_message_bytes = settings.max_message_bytes
        self._on_full = on_full
        self._on_open = on_open
        self._on_dead = on_dead
        self._plain = Buffer(settings.batch, FULL_SIZE)
        self._buffers = {FULL_SIZE: self._plain}
        self._watermark = AckWatermark(max_waiting=max(1, prefetch // 2))
        self._channel: Any = None
        self._consumer_tag: str | None = None
        self._window = 0
        # a partition would be lost to another consumer if it were consumed anew
        self._capacity = Capacity(prefetch, settings.batch, is_fixed=self.is_partition)
        self.is_unfit = False
        self._edge = LeadingEdge(settings.batch.age_ms / 1000, always=handler.gathers)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker sends messages."""
        return self._consumer_tag is not None

    @property
    def is_open(self) -> bool:
        """Whether it has a channel on which it may consume."""
        return self.alive and self._channel is not None

    @property
    def is_new(self) -> bool:
        """Whether the size of its messages is unknown."""
        return not self._capacity.message_bytes

    @property
    def is_trying(self) -> bool:
        """Whether it consumes only as many messages as the test of a sink needs."""
        return self.is_consuming and self._window < self._capacity.messages

    def open(
        self, connection: Any, on_lost: Callable[[QueueConsumer, str], None]
    ) -> None:
        """Open the channel.

        Args:
            on_lost: called with the reason if the broker removes the consumer: the
                broker closed the channel (py-amqp opens it again, but without the
                consumer), or the queue was deleted.

        Raises:
            amqp.ChannelError: the broker closed another channel meanwhile.
        """
        self._on_lost = on_lost
        self.opened_at = time.monotonic()
        channel = connection.channel()
        channel.on_open = lambda _channel: on_lost(
            self, f"the broker closed the channel of {self.source}"
        )
        self._channel = channel

    def consume(self, at_most: int | None = None) -> None:
        """Start to consume.

        Args:
            at_most: maximum number of unacknowledged messages; None for the usual
                number.

        Raises:
            amqp.ChannelError: the broker refuses it, or closed another channel
                meanwhile.
        """
        window = self._capacity.messages
        if at_most is not None:
            window = min(at_most, window)
        if self.is_consuming and window == self._window:
            return
        self.is_unfit = False
        self.cancel()  # the prefetch of a consumer cannot be changed
        self._window = window
        self._channel.basic_qos(0, window, a_global=False)
        self._consumer_tag = self._channel.basic_consume(
            self.source, callback=self._on_message, on_cancel=self._on_cancelled
        )

    def renew(self) -> None:
        """Consume again: the queue was deleted and declared anew, which the broker does
        not always say. What is held is finished.

        Raises the same as :meth:`consume`.
        """
        window = self._window
        self.cancel()
        self.consume(at_most=window)

    def cancel(self) -> None:
        """Stop consuming; the messages that are held are kept."""
        if self.is_consuming:
            tag, self._consumer_tag = self._consumer_tag, None
            self._channel.basic_cancel(tag)

    def waiting_in_queue(self) -> int:
        """Return the number of ready messages in the queue, by the broker's count."""
        return self.depth().ready

    def depth(self) -> Depth:
        """Return the numbers of ready messages and of consumers of the queue, by the
        broker's count.

        Raises:
            amqp.ChannelError: the broker does not have it, or another connection has
                it exclusively.
        """
        answer = self._channel.queue_declare(self.source, passive=True)
        return Depth(answer.message_count, answer.consumer_count)

    @property
    def may_run(self) -> bool:
        """Whether a batch of this queue may run now."""
        return not self.is_leaving and not (self.is_partition and self._edge.running)

    @property
    def gathered(self) -> int:
        """Number of messages in open batches."""
        return sum(map(len, self._buffers.values()))

    def close(self) -> None:
        """Close the channel. The broker delivers unacknowledged messages again, in
        order, to the next consumer."""
        self.alive = False
        self._consumer_tag = None
        if self._channel is not None:
            with suppress(amqp.ChannelError):  # another channel was closed meanwhile
                self._channel.close()

    def due_since(self) -> float | None:
        """Return when the first message of the oldest due batch came; None if no batch
        is due."""
        since = None
        for buffer in self._buffers.values():
            if buffer.due and (since is None or buffer.opened_at < since):
                since = buffer.opened_at
        return since

    def take_due(self) -> list[Delivery]:
        """Return the oldest batch that is due; there must be one."""
        due = [buffer for buffer in self._buffers.values() if buffer.due]
        return min(due, key=lambda buffer: buffer.opened_at).take()

    def take_all(self) -> Iterator[list[Delivery]]:
        """Yield every open batch, due or not."""
        for buffer in self._buffers.values():
            if len(buffer):
                yield buffer.take()

    def gathering_seconds(self, now: float) -> float:
        """Return how long a batch whose first message has just arrived collects.

        Args:
            now: monotonic seconds.
        """
        if self.is_trying:  # the whole queue waits for this batch
            return min(self.settings.batch.age_ms / 1000, _TRIAL_AGE_SECONDS)
        return self._edge.wait_seconds(now)

    def note_size(self, buffer: Buffer) -> None:
        """Adapt the number of messages that may be held to the size of a batch."""
        if self._capacity.adapt(buffer):
            self._watermark.max_waiting = max(1, self._capacity.messages // 2)
            self.is_unfit = True

    def batch_started(self, now: float) -> None:
        """Note that a batch of this queue was given to the pool."""
        self._edge.started(now)

    def batch_ended(self, now: float) -> None:
        """Note that a batch ended; open batches that waited for it become due."""
        self._edge.ended()
        if not self.gathering_seconds(now):
            for buffer in self._buffers.values():
                buffer.due = len(buffer) > 0

    def acknowledge(self, tags: Sequence[int]) -> None:
        """Acknowledge messages whose effect is durable."""
        self.unresolved -= len(tags)
        for ack in self._watermark.resolve(tags):
            self._channel.basic_ack(ack.delivery_tag, ack.multiple)

    def reject(self, tags: Iterable[int]) -> None:
        """Reject messages, so that the broker dead-letters them."""
        for tag in tags:
            self.unresolved -= 1
            self._channel.basic_reject(tag, requeue=False)
            self._watermark.skip(tag)

    def give_back(self, tags: Iterable[int]) -> None:
        """Requeue messages; they keep their position in the queue."""
        for tag in tags:
            self.unresolved -= 1
            self._channel.basic_reject(tag, requeue=True)
            self._watermark.skip(tag)

    def _on_cancelled(self, _consumer_tag: str) -> None:
        self._on_lost(self, f"the broker cancelled the consumer of {self.source}")

    def _on_message(self, message: Message) -> None:
        self.received += 1
        self.unresolved += 1
        now, max_bytes = time.time(), self._max_message_bytes
        if len(message.body) <= max_bytes and not message.properties.has_headers:
            # nearly all messages; the branch below has the same effect in 1.5 µs more
            buffer = self._plain
            delivery = Delivery(
                message.delivery_tag,
                message.body,
                message.exchange,
                message.routing_key,
                message.properties,
                message.redelivered,
                now,
            )
        else:
            adapted = adapt(message, self.queue, max_bytes, now)
            if adapted.dead is not None:
                self._on_dead(self, adapted)
                return
            delivery = adapted.delivery
            buffer = self._buffer_for(delivery)
        first = not len(buffer)
        if buffer.add(delivery):
            self.note_size(buffer)
            self._on_full(self, buffer.take())
        elif first:
            self._on_open(self, buffer)

    def _buffer_for(self, delivery: Delivery) -> Buffer:
        level = shrink_level_of(delivery)
        if level not in self._buffers:
            self._buffers[level] = Buffer(self.settings.batch, level)
        return self._buffers[level]


class Ack(NamedTuple):
    """One ``basic.ack`` to send."""

    delivery_tag: int
    multiple: bool


class AckWatermark:
    """The resolved delivery tags of one channel.

    RabbitMQ numbers the deliveries of a channel 1, 2, 3, … without gaps.

    Args:
        max_waiting: maximum number of resolved tags that wait behind an unresolved one.
            Above it, they are acknowledged one by one, so that a slow batch does not
            use up the prefetch.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._acknowledged_up_to = 0
        self._waiting: set[int] = set()
        self._resolved_singly: set[int] = set()

    def resolve(self, tags: Sequence[int]) -> list[Ack]:
        """Note that deliveries are resolved; return the acks to send."""
        if not (self._waiting or self._resolved_singly):
            first = self._acknowledged_up_to + 1
            if tags and tags == list(range(first, first + len(tags))):
                # a whole batch, with none before it unresolved: nearly always
                self._acknowledged_up_to += len(tags)
                return [Ack(self._acknowledged_up_to, multiple=len(tags) > 1)]
        self._waiting.update(tags)
        acks = self._advance()
        if len(self._waiting) > self.max_waiting:
            alone = sorted(self._waiting)
            acks += [Ack(tag, multiple=False) for tag in alone]
            self._resolved_singly.update(alone)
            self._waiting.clear()
        return acks

    def skip(self, tag: int) -> None:
        """Note that a delivery was rejected, so that it is never acknowledged."""
        self._resolved_singly.add(tag)

    def _advance(self) -> list[Ack]:
        mark = self._acknowledged_up_to
        last_to_send = mark
        while True:
            following = mark + 1
            if following in self._waiting:
                self._waiting.remove(following)
                last_to_send = following
            elif following in self._resolved_singly:
                self._resolved_singly.remove(following)
            else:
                break
            mark = following
        run_length_is_one = last_to_send == self._acknowledged_up_to + 1
        sends = last_to_send > self._acknowledged_up_to
        self._acknowledged_up_to = mark
        return [Ack(last_to_send, multiple=not run_length_is_one)] if sends else []
