"""One queue's way into the worker: its channel, its open batches, its acks.

Every queue has a channel of its own. So a slow queue cannot hold up the acks of
a fast one, prefetch is per queue, and a delivery's queue is known without looking
it up by consumer tag.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from celery.utils.log import get_logger

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.queues import QueueSettings
from meshtasks.amqp.receiving import Message
from meshtasks.flows.contract import Handler
from meshtasks.worker.batching import (
    Adapted,
    Buffer,
    LeadingEdge,
    ShrinkLevel,
    adapt,
    shrink_level_of,
)
from meshtasks.worker.resolution import OutcomeResolver

logger = get_logger(__name__)

#: So many may be held while their size is not known.
_FIRST_MESSAGES = 64
#: A batch that tries a sink gathers no longer than this.
_TRIAL_AGE_SECONDS = 0.1


class QueueConsumer:
    """Consumes one queue over one connection; a new connection needs a new consumer.

    Args:
        settings: batch limits, retry options, size limit.
        resolver: resolves this queue's batches.
        prefetch: unacknowledged messages the broker may send.
        on_full: called with this consumer and a full batch.
        on_open: called with this consumer and the open batch when its first message
            arrives; the batch becomes due after :meth:`gathering_seconds`.
        on_dead: called with this consumer and a message that is dead on arrival.

    Attributes:
        source: what is consumed: the queue, or one of its partitions.
        alive: false once the connection is given up; results are then dropped,
            because the broker delivers the messages again.
        is_urgent: its batches run before those of queues that are not: alerts.
        received: messages received so far.
        unresolved: messages received and not yet resolved.
        is_partition: one batch of it runs at a time, so that its messages are handled
            in their order; other workers stand in line for it.
        is_unfit: messages are of another size than was thought; to be asked for anew.
        is_leaving: it is to be given up to another worker, and runs no more batches.
    """

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
        self.source = resolver.source or self.queue
        self.is_partition = self.source != self.queue
        self.is_leaving = False
        self._running = 0
        self.is_urgent = self.queue.startswith("alerts.")
        self.settings = settings
        self.resolver = resolver
        self.alive = True
        self.received = 0
        self.unresolved = 0
        self._prefetch = prefetch
        self._max_message_bytes = settings.max_message_bytes
        self._on_full = on_full
        self._on_open = on_open
        self._on_dead = on_dead
        self._buffers: dict[ShrinkLevel, Buffer] = {}
        self._plain = self._buffers[ShrinkLevel(0, single=False)] = Buffer(
            settings.batch, ShrinkLevel(0, single=False)
        )
        self._watermark = AckWatermark(max_waiting=max(1, prefetch // 2))
        self._channel: Any = None
        self._on_lost: Callable[[QueueConsumer, str], None] = (
            lambda _consumer, _reason: None
        )
        self._consumer_tag: str | None = None
        self._window = 0
        #: At most so many messages may be held; it follows their size.
        self._limit = prefetch if self.is_partition else min(prefetch, _FIRST_MESSAGES)
        self._message_bytes = 0.0
        self._batches_held = max(1, prefetch // settings.batch.count)
        self._most_bytes = 2 * self._batches_held * settings.batch.bytes
        self.is_unfit = False
        self._edge = LeadingEdge(settings.batch.age_ms / 1000, always=handler.gathers)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker sends messages."""
        return self._consumer_tag is not None

    @property
    def is_new(self) -> bool:
        """Whether the size of its messages is not known."""
        return not self._message_bytes

    @property
    def is_trying(self) -> bool:
        """Whether it sends only as many as are needed to try a sink."""
        return self.is_consuming and self._window < self._limit

    def open(
        self, connection: Any, on_lost: Callable[[QueueConsumer, str], None]
    ) -> None:
        """Open the channel.

        Args:
            on_lost: called with the reason when the broker took our consumer
                away: it closed the channel (py-amqp opens it again, but without
                the consumer), or the queue was deleted.
        """
        self._on_lost = on_lost
        channel = connection.channel()
        channel.on_open = lambda _channel: on_lost(
            self, f"the broker closed the channel of {self.source}"
        )
        self._channel = channel

    def consume(self, at_most: int | None = None) -> None:
        """Ask the broker for messages.

        Args:
            at_most: for no more than so many unacknowledged ones; None for the usual
                number.
        """
        window = self._limit if at_most is None else min(at_most, self._limit)
        if self.is_consuming and window == self._window:
            return
        self.is_unfit = False
        self.cancel()  # the window is a consumer's for as long as it lives
        self._window = window
        self._channel.basic_qos(0, window, a_global=False)
        self._consumer_tag = self._channel.basic_consume(
            self.source, callback=self._on_message, on_cancel=self._on_cancelled
        )

    def cancel(self) -> None:
        """Ask for no more messages; those held stay held."""
        if self.is_consuming:
            tag, self._consumer_tag = self._consumer_tag, None
            self._channel.basic_cancel(tag)

    def waiting_in_queue(self) -> int:
        """Messages ready in the queue, by the broker's count."""
        answer = self._channel.queue_declare(self.source, passive=True)
        return int(answer.message_count)

    @property
    def may_run(self) -> bool:
        """Whether a batch of it may run now."""
        return not self.is_leaving and not (self.is_partition and self._running)

    @property
    def gathered(self) -> int:
        """Messages in its open batches."""
        return sum(map(len, self._buffers.values()))

    def close(self) -> None:
        """Close the channel: what is not acknowledged is delivered again, in its order,
        to whoever consumes then."""
        self.alive = False
        self._on_lost = lambda _consumer, _reason: None
        self._channel.close()

    def due_since(self) -> float | None:
        """When the first message of the oldest due batch came; None if none is."""
        since = None
        for buffer in self._buffers.values():
            if buffer.due and (since is None or buffer.opened_at < since):
                since = buffer.opened_at
        return since

    def take_due(self) -> list[Delivery]:
        """The oldest batch that is due; there must be one."""
        due = [buffer for buffer in self._buffers.values() if buffer.due]
        return min(due, key=lambda buffer: buffer.opened_at).take()

    def take_all(self) -> Iterator[list[Delivery]]:
        """Every open batch, due or not."""
        for buffer in self._buffers.values():
            if len(buffer):
                yield buffer.take()

    def gathering_seconds(self, now: float) -> float:
        """How long a batch whose first message has just come gathers more.

        Args:
            now: monotonic seconds.
        """
        if self.is_trying:  # everything waits for this batch
            return min(self.settings.batch.age_ms / 1000, _TRIAL_AGE_SECONDS)
        return self._edge.wait_seconds(now)

    def note_size(self, buffer: Buffer) -> None:
        """See from a batch how many messages may be held, so that large ones do not
        fill the memory. A partition asks as ever: who asks anew loses it to others."""
        self._message_bytes = max(buffer.bytes / len(buffer), 0.9 * self._message_bytes)
        fitting = int(self._most_bytes / (self._message_bytes or 1))
        fitting = min(self._prefetch, max(self._batches_held, fitting))
        if not self.is_partition and not self._limit / 2 <= fitting < 2 * self._limit:
            self._limit = fitting
            self._watermark.max_waiting = max(1, fitting // 2)
            self.is_unfit = True

    def batch_started(self, now: float) -> None:
        """A batch of this queue was given to the pool."""
        self._running += 1
        self._edge.started(now)

    def batch_ended(self, now: float) -> None:
        """It has ended: what gathered because of it may be due."""
        self._running -= 1
        self._edge.ended()
        if not self.gathering_seconds(now):
            for buffer in self._buffers.values():
                buffer.due = len(buffer) > 0

    def acknowledge(self, tags: Sequence[int]) -> None:
        """Resolve messages whose effect is durable."""
        self.unresolved -= len(tags)
        for ack in self._watermark.resolve(tags):
            self._channel.basic_ack(ack.delivery_tag, ack.multiple)

    def reject(self, tags: Iterable[int]) -> None:
        """Leave messages to the broker's own dead-lettering."""
        for tag in tags:
            self.unresolved -= 1
            self._channel.basic_reject(tag, requeue=False)
            self._watermark.skip(tag)

    def give_back(self, tags: Iterable[int]) -> None:
        """Leave messages where they were in the queue."""
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
            # nearly all: the way below comes to the same in 1.5 µs more
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

    RabbitMQ numbers the deliveries of a channel 1, 2, 3, … without a gap.

    Args:
        max_waiting: resolved tags that may wait behind an open one; beyond it
            they are acknowledged one by one, so that a slow batch cannot hold
            up the prefetch window.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._acknowledged_up_to = 0
        self._waiting: set[int] = set()
        self._resolved_singly: set[int] = set()

    def resolve(self, tags: Sequence[int]) -> list[Ack]:
        """Note that these deliveries are done with; return the acks to send."""
        if not (self._waiting or self._resolved_singly):
            first = self._acknowledged_up_to + 1
            if tags and tags == list(range(first, first + len(tags))):
                # a whole batch, and none before it is open: as nearly always
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
        """Note a delivery that was resolved otherwise (rejected): never acked."""
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
