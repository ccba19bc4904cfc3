"""Which queues are consumed, tried or paused at the moment, and whether messages come.

A queue whose sinks are unavailable is paused; one whose sinks may be back is tried with
a small batch. After the broker itself has failed over a message, queues are on
probation.

Partitions are shared out among the workers of a queue. The broker gives one to the
consumer that asked first, so the first worker has all of them. Every few seconds a
worker that has more than its share gives some up: it finishes what runs, closes the
channel, which returns the rest in its order, and stands in line again. When a worker
dies, its partitions go to those in line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from math import ceil
from typing import Any

from celery.utils.log import get_logger

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.entities import presence_of
from meshtasks.flows.circuit import State
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.queue_consumer import QueueConsumer

logger = get_logger(__name__)

#: Whether a queue on probation may have more messages is asked so often; one whose
#: messages take long may after so many times, since others wait for it.
_PROBATION_SECONDS, _MOST_TIMES = 0.5, 60
#: Unacknowledged messages that a queue on probation may have, step by step; and how
#: many it must have had by then. At each end of the connection at most a window's
#: messages count one delivery more, and come first again: a quarter of the next window
#: is done before that opens, so none of them is met by five ends.
_WINDOWS = (1, 32, 1_024)
_ENOUGH = (8, 264, 1_288)
_QUIET_SECONDS = 10.0


class FlowControl:
    """Consumes, tries or pauses queues as their sinks and the broker allow.

    Args:
        consumers: the queues that are consumed, by name.
        later: runs a callback in the event loop after so many seconds.
        take_back: the messages of a queue that wait for the pool.
        set_aside: moves messages into the broker until their queue goes on.

    Attributes:
        retired: those that are not any more, while they hold messages.
        probation: the queues that are on probation.
    """

    def __init__(
        self,
        consumers: dict[str, QueueConsumer],
        breaker: Breaker,
        later: Callable[..., object],
        take_back: Callable[[QueueConsumer], list[Delivery]],
        set_aside: Callable[[QueueConsumer, list[Delivery]], None],
    ) -> None:
        self._consumers = consumers
        self.retired: list[QueueConsumer] = []
        self.probation = Probation()
        self._breaker = breaker
        self._later = later
        self._take_back = take_back
        self._set_aside = set_aside
        self._paused: set[str] = set()  # queues, since that was logged

    def restart(self) -> None:
        """A new connection: every queue begins anew."""
        self.probation.restart()
        if self.probation.is_active:
            self._later(_PROBATION_SECONDS, self._relax)

    def forget(self) -> None:
        """The connection is given up: what its consumers hold comes again."""
        for consumer in (*self._consumers.values(), *self.retired):
            consumer.alive = False
        self._consumers.clear()
        self.retired.clear()

    def broker_failed(self) -> None:
        """The broker failed while it delivered: some message it cannot deliver."""
        if not self.probation.is_active:
            logger.error(
                "The broker has a message that it cannot deliver. Queues are consumed "
                "one by one until its delivery limit has taken the message away"
            )
        self.probation.suspect(self._consumers)

    def apply(self) -> None:
        """Consume, try or pause every queue."""
        for consumer in tuple(self.retired):
            if self._breaker.state(consumer.handler.sink_names) is State.OPEN:
                self.pause(consumer)
        for consumer in self._consumers.values():
            self.apply_to(consumer)

    def apply_to(self, consumer: QueueConsumer) -> None:
        """Consume, try or pause a queue."""
        queue, sinks = consumer.source, consumer.handler.sink_names
        window = self.probation.window(queue)
        if window == 0:
            return
        match self._breaker.state(sinks):
            case State.CLOSED:
                consumer.consume(at_most=window)
                if queue in self._paused:
                    self._paused.remove(queue)
                    logger.warning("Resumed %s", queue)
            case State.HALF_OPEN:
                count = consumer.settings.batch.count // self._breaker.shrinkage(sinks)
                consumer.consume(at_most=max(1, min(count, window or count)))
            case State.OPEN:
                held = self.pause(consumer)
                if queue not in self._paused:
                    self._paused.add(queue)
                    logger.warning("Paused %s; %d messages set aside", queue, held)

    def pause(self, consumer: QueueConsumer) -> int:
        """Ask for no more messages; move those that are held and have not started
        back into the broker. Gives their number."""
        consumer.cancel()
        held = [one for batch in consumer.take_all() for one in batch]
        held += self._take_back(consumer)
        if held:
            self._set_aside(consumer, held)
        return len(held)

    def is_paused(self, consumer: QueueConsumer) -> bool:
        """Whether a queue waits for a sink; one that tries it does."""
        return consumer.is_trying or not consumer.is_consuming

    def _relax(self, times: int = 1) -> None:
        """Give the queue on probation more messages, once it did well with fewer."""
        consumer = self._consumers.get(self.probation.queue)
        if consumer is None or times >= _MOST_TIMES or self._did_well(consumer):
            self.probation.step()
            times = 0
        if self.probation.is_active:
            self._later(_PROBATION_SECONDS, partial(self._relax, times + 1))
        self.apply()

    def _did_well(self, consumer: QueueConsumer) -> bool:
        """Whether it got enough messages, or all there are, without an end of the
        connection; one that is paused, or stands in line, gets none."""
        return (
            not consumer.is_consuming
            or consumer.is_partition
            or consumer.received >= self.probation.enough
            or (not consumer.unresolved and not consumer.waiting_in_queue())
        )


class Probation:
    """The queues that are on probation; at first none.

    MQTT has topics of up to 65,535 bytes, AMQP routing keys of 255: RabbitMQ stores
    what it cannot deliver, and ends the consumer's connection with
    ``541 INTERNAL_ERROR`` each time it tries, until its delivery limit takes the
    message away. All that it had delivered by then counts one delivery more, so that 20
    such ends would take thousands of good messages along. So queues are then consumed
    one after the other, first a message at a time: what is behind the bad one has not
    been delivered when it fails.

    Pure: the caller knows when the broker failed and when a queue did well.
    """

    def __init__(self) -> None:
        self._suspects: list[str] = []
        self._step = 0

    @property
    def is_active(self) -> bool:
        """Whether queues are on probation."""
        return bool(self._suspects)

    @property
    def queue(self) -> str:
        """The one that is consumed alone; empty if none is."""
        return self._suspects[0] if self._suspects else ""

    @property
    def enough(self) -> int:
        """Messages that it must have had on this connection to be given more."""
        return _ENOUGH[self._step]

    def suspect(self, queues: Iterable[str]) -> None:
        """The broker failed while it delivered from these queues: one of them it is,
        or the one that was on probation alone."""
        self._suspects = self._suspects[:1] or list(queues)
        self._step = 0

    def restart(self) -> None:
        """A new connection: begin anew with the queue that is on probation."""
        self._step = 0

    def step(self) -> None:
        """The queue on probation did well."""
        self._step += 1
        if self._step == len(_WINDOWS):
            self._suspects = self._suspects[1:]
            self._step = 0

    def window(self, queue: str) -> int | None:
        """Unacknowledged messages that a queue may have: None for the usual number, 0
        for a queue that is not to be consumed yet."""
        if not self._suspects:
            return None
        return _WINDOWS[self._step] if queue == self._suspects[0] else 0


class ProgressWatch:
    """Finds queues that receive nothing although messages wait in them: a worker may
    look alive and consume nothing."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._suspect: set[str] = set()

    def stalled(self, consumer: QueueConsumer, now: float) -> str:
        """Why a queue counts as stalled; empty when it does not.

        A consumer that received nothing for ten seconds and holds nothing asks the
        broker for the length of its queue. Messages waiting there twice in a row
        mean that the broker does not know of our consumer.

        Args:
            now: monotonic seconds.
        """
        queue = consumer.source
        received, since = self._seen.get(queue, (-1, now))
        is_quiet = (
            consumer.is_consuming
            and not consumer.unresolved
            and consumer.received == received
            and not consumer.is_partition  # which has another consumer
        )
        if is_quiet and now - since < _QUIET_SECONDS:
            return ""
        self._seen[queue] = (consumer.received, now)
        waiting = consumer.waiting_in_queue() if is_quiet else 0
        if not waiting or consumer.received != received:
            self._suspect.discard(queue)
            return ""
        if queue not in self._suspect:
            self._suspect.add(queue)
            return ""
        self._suspect.discard(queue)
        return f"{waiting} messages wait in {queue} and none is delivered"


SHARE_SECONDS = 5.0


class Sharing:
    """Gives up the partitions that are others' share.

    Args:
        consumers: those that there are.
        held: the messages of a consumer that wait for the pool.
        renew: closes a consumer, and opens another in its place.
    """

    def __init__(
        self,
        consumers: Callable[[], Collection[QueueConsumer]],
        held: Callable[[QueueConsumer], int],
        renew: Callable[[QueueConsumer], None],
    ) -> None:
        self._consumers = consumers
        self._held = held
        self._renew = renew
        self._channel: Any = None
        #: Tags of the consumers by which others count us, by queue.
        self._present: dict[str, str] = {}

    def restart(self) -> None:
        """A new connection is about to be made."""
        self._channel = None
        self._present.clear()

    def share(self, connection: Any) -> None:
        """Choose what is to be given up.

        Raises:
            amqp.ChannelError: a queue is gone.
        """
        partitions: dict[str, list[QueueConsumer]] = {}
        for consumer in self._consumers():
            if consumer.is_partition and consumer.is_consuming:
                partitions.setdefault(consumer.queue, []).append(consumer)
        if partitions and self._channel is None:
            self._channel = connection.channel()
        for queue in self._present.keys() - partitions.keys():
            self._channel.basic_cancel(self._present.pop(queue))
        for queue, consumers in partitions.items():
            workers = self._workers(queue)
            mine = [each for each in consumers if each.received]
            if any(each.is_leaving for each in consumers):
                continue
            share = ceil(len(consumers) / workers)
            for consumer in mine[share:]:
                logger.info("Giving up %s: %d workers share", consumer.source, workers)
                consumer.is_leaving = True

    def leave(self) -> None:
        """Give up what has been chosen and has nothing running any more."""
        for consumer in tuple(self._consumers()):
            if consumer.is_leaving and consumer.unresolved == self._held(consumer):
                self._renew(consumer)

    def _workers(self, queue: str) -> int:
        """How many workers share a queue, this one included."""
        name = presence_of(queue)
        if queue not in self._present:
            self._present[queue] = self._channel.basic_consume(name, no_ack=True)
        answer = self._channel.queue_declare(name, passive=True)
        return max(1, int(answer.consumer_count))
