"""Partitions are shared out among the workers of a queue.

The broker gives a partition to the consumer that asked first, so the first worker has
all of them. Every few seconds a worker that has more than its share gives some up: it
finishes what runs, closes the channel, which returns the rest in its order, and stands
in line again. When a worker dies, its partitions go to those in line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil
from typing import Any

from celery.utils.log import get_logger

from meshtasks.amqp.partitions import presence_of
from meshtasks.worker.queue_consumer import QueueConsumer

logger = get_logger(__name__)

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
