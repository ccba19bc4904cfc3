"""From the result of a batch to what is acknowledged and what is published.

Decisions only: nothing here touches the network.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from celery.utils.time import get_exponential_backoff_interval

from meshtasks.domain.outcome import Dead, Retry
from meshtasks.domain.retry import GiveUp, RetryPolicy, decide, retry_level
from meshtasks.messaging.codec import Delivery
from meshtasks.messaging.deadletter import (
    Failing,
    dead_message,
    first_failed_at,
    retry_message,
)
from meshtasks.messaging.publisher import Outgoing
from meshtasks.worker.bind import BatchResult, Failure


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to do with the messages of a batch.

    Attributes:
        done: tags to acknowledge now.
        moved: tags to acknowledge once ``outgoing`` is confirmed.
        outgoing: retries and dead letters.
    """

    done: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Settler:
    """Settles the batches of one queue.

    Attributes:
        queue: the queue.
        policy: its retry options.
        levels: seconds of the retry queues, ascending.
        worker: name of this worker, for the dead letter.
    """

    queue: str
    policy: RetryPolicy
    levels: tuple[int, ...]
    worker: str

    def settle(
        self,
        deliveries: list[Delivery],
        result: BatchResult,
        *,
        open_circuits: Collection[str],
        task_id: str,
        now: float,
    ) -> Settlement:
        """Settle a batch that the pool answered.

        Args:
            open_circuits: sinks whose circuit was open already; a retry caused
                by one of them does not count against a message, nor does one that
                was not tried.
        """
        if not result.failures:
            return Settlement(done=[delivery.tag for delivery in deliveries])
        settlement = Settlement()
        failed = {failure.position for failure in result.failures}
        for position, delivery in enumerate(deliveries):
            tags = settlement.moved if position in failed else settlement.done
            tags.append(delivery.tag)
        for failure in result.failures:
            delivery = deliveries[failure.position]
            counts = not (
                isinstance(failure.outcome, Retry)
                and (failure.outcome.sink in open_circuits or not failure.outcome.tried)
            )
            settlement.outgoing.append(
                self._failed(delivery, failure, counts=counts, task_id=task_id, now=now)
            )
        return settlement

    def dead(self, delivery: Delivery, dead: Dead, now: float) -> Settlement:
        """Settle a message that is dead before it reached a batch."""
        failing = Failing(delivery, self.queue, delivery.body)
        letter = dead_message(failing, dead, task_id="", worker=self.worker, now=now)
        return Settlement(moved=[delivery.tag], outgoing=[letter])

    def lost(
        self, delivery: Delivery, reason: str, task_id: str, now: float
    ) -> Settlement:
        """Settle a message whose pool process was lost while it ran alone."""
        failure = Failure(0, Retry(reason, "WorkerLost"))
        letter = self._failed(
            delivery, failure, counts=True, task_id=task_id, now=now, isolate=True
        )
        return Settlement(moved=[delivery.tag], outgoing=[letter])

    def set_aside(self, deliveries: list[Delivery], now: float) -> Settlement:
        """Settle messages held while a sink they need is down: they wait in the
        shortest retry queue and then in their own, and it does not count."""
        settlement = Settlement(moved=[delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            failing = Failing(delivery, self.queue, delivery.body)
            settlement.outgoing.append(
                retry_message(
                    failing,
                    level_seconds=self.levels[0],
                    attempt=delivery.attempt,
                    now=now,
                    isolate=False,
                )
            )
        return settlement

    def _failed(
        self,
        delivery: Delivery,
        failure: Failure,
        *,
        counts: bool,
        task_id: str,
        now: float,
        isolate: bool = False,
    ) -> Outgoing:
        body = delivery.body if failure.body is None else failure.body
        failing = Failing(delivery, self.queue, body, failure.record_index)
        outcome = failure.outcome
        if isinstance(outcome, Retry):
            decision = decide(
                self.policy,
                attempt=delivery.attempt,
                age_seconds=now - first_failed_at(delivery, now),
                backoff_seconds=self._backoff_seconds(delivery.attempt),
                counts=counts,
            )
            if not isinstance(decision, GiveUp):
                return retry_message(
                    failing,
                    level_seconds=retry_level(
                        self.levels,
                        decision.delay_seconds,
                        outcome.retry_after_seconds or 0.0,
                    ),
                    attempt=decision.attempt,
                    now=now,
                    isolate=isolate,
                )
            reason = f"{decision.because}; last: {outcome.reason}"
            outcome = Dead(reason, outcome.error_type, outcome.traceback)
        return dead_message(
            failing, outcome, task_id=task_id, worker=self.worker, now=now
        )

    def _backoff_seconds(self, attempt: int) -> float:
        """Celery's own backoff."""
        return float(
            get_exponential_backoff_interval(
                factor=self.policy.retry_backoff,
                retries=attempt,
                maximum=self.policy.retry_backoff_max,
                full_jitter=self.policy.retry_jitter,
            )
        )
