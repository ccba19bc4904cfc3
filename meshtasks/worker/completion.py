"""Ends batches: acknowledges their messages, or first publishes retries and dead
letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import amqp
from celery.utils.log import get_logger

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.republisher import PublishRequest, Republisher
from meshtasks.flows.circuit import State
from meshtasks.timing import SinkCall
from meshtasks.worker.batching import Adapted
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.celery_internals import EventLoop
from meshtasks.worker.dispatch import FinishedBatch, PendingBatch
from meshtasks.worker.queue_consumer import QueueConsumer
from meshtasks.worker.recording import Recorder
from meshtasks.worker.resolution import Resolution
from meshtasks.worker.results import BatchResult

logger = get_logger(__name__)

CONNECTION_ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
)


class Counts:
    """Counters of batches. This base class counts nothing, for workers without
    metrics."""

    def start(self) -> None:
        """Start to serve the metrics."""

    def stop(self) -> None:
        """Stop serving the metrics."""

    def connected(self, *, is_connected: bool) -> None:
        """Note whether the worker consumes."""

    def follow(self, consumer: QueueConsumer) -> None:
        """Include a consumer in the metrics."""

    def finished(
        self, queue: str, result: BatchResult, resolution: Resolution, now: float
    ) -> None:
        """Count a batch that the pool has finished.

        Args:
            now: epoch seconds.
        """

    def called(self, calls: Iterable[SinkCall]) -> None:
        """Count calls of sinks."""

    def lost(self, queue: str) -> None:
        """Count a batch that was lost."""

    def moved(self, queue: str, resolution: Resolution) -> None:
        """Count the retries and dead letters that the broker has confirmed."""

    def rejected(self, queue: str, count: int) -> None:
        """Count messages that were rejected, so that the broker dead-letters them."""


class Completion:
    """Carries out resolutions: acknowledgements, retries and dead letters.

    Args:
        loop: the event loop, in which this runs.
        breaker: gets what batches found out about sinks.
        recorder: records what explains gaps.
        run_in_parts: runs a lost batch again.
        reconnect: drops the connection, for the given reason.
    """

    def __init__(
        self,
        loop: EventLoop,
        breaker: Breaker,
        metrics: Counts,
        recorder: Recorder,
        republisher: Republisher,
        run_in_parts: Callable[[PendingBatch], None],
        reconnect: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._breaker = breaker
        self._metrics = metrics
        self._recorder = recorder
        self._republisher = republisher
        self._run_in_parts = run_in_parts
        self._reconnect = reconnect

    def batch_ended(self, batch: FinishedBatch) -> None:
        """Resolve the messages of a batch."""
        consumer, result, started_at = batch.consumer, batch.result, batch.started_at
        now = time.time()
        if result is not None:
            resolution = consumer.resolver.resolve(
                batch.deliveries,
                result,
                verdicts=self._breaker.verdicts(consumer.sinks, result, started_at),
                task_id=batch.task_id,
                now=now,
            )
            self._metrics.finished(consumer.queue, result, resolution, now)
            self._recorder.finished(consumer.queue, result)
            self._carry_out(consumer, resolution)
        else:
            self._metrics.lost(consumer.queue)
            self._lost(batch, now)
        self._breaker.ended(consumer.sinks, result, started_at)

    def dead_on_arrival(self, consumer: QueueConsumer, adapted: Adapted) -> None:
        """Dead-letter a message that did not reach a batch."""
        if adapted.dead is not None:
            dead = consumer.resolver.dead(adapted.delivery, adapted.dead, time.time())
            self._carry_out(consumer, dead)

    def set_aside(self, consumer: QueueConsumer, deliveries: list[Delivery]) -> None:
        """Publish again the messages of a queue that is paused."""
        resolution = consumer.resolver.set_aside(deliveries, time.time())
        self._carry_out(consumer, resolution)

    def _lost(self, batch: FinishedBatch, now: float) -> None:
        consumer, count = batch.consumer, len(batch.deliveries)
        if count > 1:
            text = "Batch of %d messages of %s was lost (%s); running it in parts"
            logger.error(text, count, consumer.queue, batch.reason)
            self._run_in_parts(PendingBatch(consumer, batch.deliveries))
            return
        logger.error("A message of %s was lost: %s", consumer.queue, batch.reason)
        resolution = consumer.resolver.lost(
            batch.deliveries[0],
            batch.reason,
            batch.task_id,
            now,
            counts=self._breaker.state(consumer.sinks) is State.CLOSED,
        )
        self._carry_out(consumer, resolution)

    def _carry_out(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        if resolution.done:
            self._acknowledge(consumer, resolution.done)
        if not resolution.moved:
            return
        published = partial(self._on_published, consumer, resolution)
        if _has_one_attempt(consumer, resolution):
            request = PublishRequest(resolution.outgoing, published)
        else:
            request = PublishRequest(
                resolution.outgoing, published, is_wanted=lambda: consumer.alive
            )
        self._republisher.send(request)

    def _acknowledge(self, consumer: QueueConsumer, tags: list[int]) -> None:
        if consumer.alive:
            try:
                consumer.acknowledge(tags)
            except CONNECTION_ERRORS as error:
                self._reconnect(f"cannot acknowledge: {error}")

    def _on_published(
        self, consumer: QueueConsumer, resolution: Resolution, error: Exception | None
    ) -> None:
        """Continue when the publishing was confirmed or refused; called in the
        republisher's thread."""
        if error is None:
            self._loop.soon(self._on_moved, consumer, resolution)
            return
        if _has_one_attempt(consumer, resolution):
            self._loop.soon(self._give_back, consumer, resolution)
            return
        logger.critical(
            "Left to the broker's own dead-lettering, since publishing is refused "
            "(is the topology whole? meshtasks topology check): %s",
            error,
        )
        self._loop.soon(self._reject, consumer, resolution)

    def _on_moved(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        self._metrics.moved(consumer.queue, resolution)
        self._recorder.moved(consumer.queue, resolution)
        self._acknowledge(consumer, resolution.moved)

    def _give_back(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        if consumer.alive:
            consumer.give_back(resolution.moved)

    def _reject(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        if consumer.alive:
            consumer.reject(resolution.moved)
            self._metrics.rejected(consumer.queue, len(resolution.moved))


def _has_one_attempt(consumer: QueueConsumer, resolution: Resolution) -> bool:
    """Whether messages are published once, or given back: they go to the end of their
    own queue, and must not wait for room in it."""
    return consumer.resolver.to_its_end and not resolution.dead
