"""Decides which queues are consumed, tested or paused, and checks that messages arrive.

A queue whose sinks are unavailable is paused. A queue whose sinks may be available
again is tested with a small batch. After the broker itself has failed on a message,
queues are on probation.

Partitions of a queue are shared among its workers. The broker gives a partition to its
first consumer, so the first worker has all of them. Every few seconds, a worker that
has more than its share gives up some: it finishes the running batch, closes the
channel, which requeues the other messages in order, and consumes again behind the other
workers. When a worker dies, its partitions go to the next consumers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from math import ceil
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import amqp
from celery.utils.log import get_logger

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.entities import presence_of
from meshtasks.flows.circuit import State
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.queue_consumer import QueueConsumer

logger = get_logger(__name__)

#: Interval at which the queue on probation is checked, and number of checks after which
#: it may have more messages in any case, because other queues wait for it.
_PROBATION_SECONDS, _MOST_TIMES = 0.5, 60
#: Prefetch of a queue on probation at each step, and number of messages that it must
#: have received before the next step. Each time the broker ends the connection, at most
#: the messages of one window count one more delivery, and are delivered first again. A
#: quarter of the next window is done before it opens, so no message is affected by five
#: ends of the connection.
_WINDOWS = (1, 32, 1_024)
_ENOUGH = (8, 264, 1_288)
_QUIET_SECONDS = 10.0
#: A queue of which nothing was received for so long is declared and consumed anew. To
#: declare the topology takes up to a second, in which no other queue is served.
SILENT_SECONDS = 900.0


class FlowControl:
    """Consumes, tests or pauses queues, depending on their sinks and the broker.

    Args:
        consumers: consumers by name of the queue or partition.
        later: calls a function in the event loop after a number of seconds.
        take_back: removes and returns the messages of a consumer that wait for the
            pool.
        set_aside: publishes messages again, to wait until their queue is resumed.
        on_refused: called with a consumer that the broker refuses, and its error.

    Attributes:
        retired: former consumers that still hold messages.
        probation: queues on probation.
    """

    def __init__(
        self,
        consumers: dict[str, QueueConsumer],
        breaker: Breaker,
        later: Callable[..., object],
        take_back: Callable[[QueueConsumer], list[Delivery]],
        set_aside: Callable[[QueueConsumer, list[Delivery]], None],
        on_refused: Callable[[QueueConsumer, amqp.ChannelError], None],
    ) -> None:
        self._consumers = consumers
        self.retired: list[QueueConsumer] = []
        self.probation = Probation()
        self._breaker = breaker
        self._later = later
        self._take_back = take_back
        self._set_aside = set_aside
        self._on_refused = on_refused
        self._paused: set[str] = set()  # queues whose pause was logged

    def restart(self) -> None:
        """Begin with a new connection: a queue on probation starts again."""
        self.probation.restart()
        if self.probation.is_active:
            self._later(_PROBATION_SECONDS, self._relax)

    def forget(self) -> None:
        """Drop the consumers of a lost connection; their messages are redelivered."""
        for consumer in (*self._consumers.values(), *self.retired):
            consumer.alive = False
        self._consumers.clear()
        self.retired.clear()

    def broker_failed(self) -> None:
        """Note that the broker failed on a message that it cannot deliver."""
        if not self.probation.is_active:
            logger.error(
                "The broker has a message that it cannot deliver. Queues are consumed "
                "one by one until its delivery limit has taken the message away"
            )
        self.probation.suspect(self._consumers)

    def apply(self) -> None:
        """Consume, test or pause every queue."""
        for consumer in tuple(self.retired):
            if self._breaker.state(consumer.sinks) is State.OPEN:
                self.pause(consumer)
        for consumer in tuple(self._consumers.values()):
            self.apply_to(consumer)

    def apply_to(self, consumer: QueueConsumer) -> None:
        """Consume, test or pause one queue, unless it has no channel."""
        if not consumer.is_open:
            return
        try:
            self._apply_to(consumer)
        except amqp.ChannelError as error:
            self._on_refused(consumer, error)

    def _apply_to(self, consumer: QueueConsumer) -> None:
        queue, sinks = consumer.source, consumer.sinks
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
        """Stop consuming, and publish again the held messages that the pool does not
        have. Return their number."""
        consumer.cancel()
        held = [one for batch in consumer.take_all() for one in batch]
        held += self._take_back(consumer)
        if held:
            self._set_aside(consumer, held)
        return len(held)

    def is_paused(self, consumer: QueueConsumer) -> bool:
        """Whether a queue waits for a sink; a queue that tests its sink does."""
        return consumer.is_trying or not consumer.is_consuming

    def _relax(self, times: int = 1) -> None:
        """Give the queue on probation more messages, if it did well with fewer."""
        consumer = self._consumers.get(self.probation.queue)
        try:
            did_well = consumer is None or self._did_well(consumer)
        except amqp.ChannelError as error:
            did_well = True
            if consumer is not None:
                self._on_refused(consumer, error)
        if times >= _MOST_TIMES or did_well:
            self.probation.step()
            times = 0
        if self.probation.is_active:
            self._later(_PROBATION_SECONDS, partial(self._relax, times + 1))
        self.apply()

    def _did_well(self, consumer: QueueConsumer) -> bool:
        """Whether it received enough messages, or all there are, without a failure of
        the broker. A queue that is paused, or a partition that another worker has,
        receives none."""
        return (
            not consumer.is_consuming
            or consumer.is_partition
            or consumer.received >= self.probation.enough
            or (not consumer.unresolved and not consumer.waiting_in_queue())
        )


class Probation:
    """The queues on probation; none at first.

    MQTT topics may have 65,535 bytes, AMQP routing keys 255. RabbitMQ stores messages
    that it cannot deliver, and ends the consumer's connection with
    ``541 INTERNAL_ERROR`` at each attempt, until its delivery limit removes the
    message. All messages that it had delivered by then count one more delivery, so that
    20 such failures would also remove thousands of good messages. Therefore queues are
    consumed one after the other, at first one message at a time: the messages after the
    bad one have not been delivered when it fails.

    This class has no side effects: the caller reports when the broker failed and when a
    queue did well.
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
        """Name of the queue that is consumed alone; empty if there is none."""
        return self._suspects[0] if self._suspects else ""

    @property
    def enough(self) -> int:
        """Number of messages it must have received on this connection to get more."""
        return _ENOUGH[self._step]

    def suspect(self, queues: Iterable[str]) -> None:
        """Note that the broker failed while it delivered from these queues. The cause
        is one of them; if a queue was consumed alone, it is that queue."""
        self._suspects = self._suspects[:1] or list(queues)
        self._step = 0

    def restart(self) -> None:
        """Begin with a new connection: the queue on probation starts again."""
        self._step = 0

    def step(self) -> None:
        """Proceed to the next step, because the queue on probation did well."""
        self._step += 1
        if self._step == len(_WINDOWS):
            self._suspects = self._suspects[1:]
            self._step = 0

    def window(self, queue: str) -> int | None:
        """Return the maximum number of unacknowledged messages of a queue: None for the
        usual number, 0 for a queue that must not be consumed yet."""
        if not self._suspects:
            return None
        return _WINDOWS[self._step] if queue == self._suspects[0] else 0


class _Look(NamedTuple):
    """What was found when the broker was last asked for the depth of a queue.

    Attributes:
        at: monotonic seconds.
        active_at: when the consumer was last seen to receive or hold messages.
        received: number of messages that it had received.
        consumers: number of consumers of the queue.
        is_stalled: whether messages waited and none was delivered.
        is_fewer: whether the queue had fewer consumers than before, or none.
    """

    at: float
    active_at: float
    received: int
    consumers: int = 0
    is_stalled: bool = False
    is_fewer: bool = False


class Finding(NamedTuple):
    """What was found out about a consumer.

    Attributes:
        stalled: why it is stalled: twice in a row messages waited, and it held and
            received none; else empty.
        is_detached: whether its queue was deleted and declared anew: twice in a row it
            had no consumer.
        is_silent: whether it received nothing for long, or twice in a row its queue had
            fewer consumers than before. It may be that of a new queue, where another
            worker consumes already.
    """

    stalled: str = ""
    is_detached: bool = False
    is_silent: bool = False


class ProgressWatch:
    """Asks for the depth of each queue every ten seconds, and finds consumers that the
    broker has forgotten. A worker may be connected and yet receive nothing."""

    def __init__(self) -> None:
        self._looks: WeakKeyDictionary[QueueConsumer, _Look] = WeakKeyDictionary()

    def look(self, consumer: QueueConsumer, now: float) -> Finding:
        """Find out about one consumer.

        Args:
            now: monotonic seconds.

        Raises:
            amqp.ChannelError: the broker refuses the question.
        """
        last = self._looks.setdefault(consumer, _Look(now, now, consumer.received))
        if not consumer.is_consuming or now - last.at < _QUIET_SECONDS:
            return Finding()
        depth = consumer.depth()
        is_quiet = not consumer.unresolved and consumer.received == last.received
        # another worker may have the partition, and the broker counts only that one
        is_partition = consumer.is_partition
        is_fewer = depth.consumers < (1 if is_partition else max(1, last.consumers))
        look = self._looks[consumer] = _Look(
            now,
            last.active_at if is_quiet else now,
            consumer.received,
            # compared with the same number once more
            last.consumers if is_fewer and not last.is_fewer else depth.consumers,
            is_stalled=bool(is_quiet and depth.ready and not is_partition),
            is_fewer=is_fewer,
        )
        if look.is_stalled and last.is_stalled:
            waits = f"{depth.ready} messages wait in {consumer.source}"
            return Finding(stalled=f"{waits} and none is delivered")
        is_fewer = look.is_fewer and last.is_fewer
        is_silent = is_fewer or now - look.active_at >= SILENT_SECONDS
        return Finding(
            is_detached=is_fewer and not depth.consumers,
            is_silent=is_silent and is_quiet and not is_partition,
        )


SHARE_SECONDS = 5.0


class Sharing:
    """Gives up partitions that are the share of other workers.

    Args:
        consumers: returns all consumers.
        held: returns the number of messages of a consumer that wait for the pool.
        renew: closes a consumer, and opens a new one.
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
        #: Tags of the consumers by which other workers count this one, by queue.
        self._present: dict[str, str] = {}

    def restart(self) -> None:
        """Prepare for a new connection."""
        self._channel = None
        self._present.clear()

    def share(self, connection: Any) -> None:
        """Choose the partitions to give up.

        Raises:
            amqp.ChannelError: a queue does not exist any more.
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
        """Give up the chosen partitions that have no running batch."""
        for consumer in tuple(self._consumers()):
            if consumer.is_leaving and consumer.unresolved == self._held(consumer):
                self._renew(consumer)

    def _workers(self, queue: str) -> int:
        """Return how many workers share a queue, including this one."""
        name = presence_of(queue)
        if queue not in self._present:
            self._present[queue] = self._channel.basic_consume(name, no_ack=True)
        answer = self._channel.queue_declare(name, passive=True)
        return max(1, int(answer.consumer_count))
