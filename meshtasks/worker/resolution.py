"""Decides what to acknowledge and what to publish for the result of a batch.

This module has no side effects: it does not use the network.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from celery.utils.time import get_exponential_backoff_interval
from msgspec.structs import replace

from meshtasks.amqp.dead_letters import (
    FailedMessage,
    dead_message,
    first_failed_at,
    retry_message,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import GiveUp, RetryPolicy, decide, retry_level
from meshtasks.errors import SinkUnavailable, told
from meshtasks.flows.circuit import FailedTry
from meshtasks.outcome import Dead, Retry
from meshtasks.records.envelope import Envelope, envelope_of
from meshtasks.worker.results import BatchResult, Failure

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Maximum exponent of the backoff; the maximum wait is reached long before.
_LARGEST_EXPONENT = 30


@dataclass(frozen=True, slots=True)
class Resolution:
    """What to do with the messages of a batch.

    Attributes:
        done: delivery tags to acknowledge now.
        moved: delivery tags to acknowledge once ``outgoing`` is confirmed.
        outgoing: retries and dead letters to publish.
        retried: number of retries by class name of the error.
        dead: number of dead letters by class name of the error.
    """

    done: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    retried: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)

    def retry(self, message: Outgoing, error_type: str) -> None:
        """Add a message for a retry queue."""
        self.outgoing.append(message)
        self.retried[error_type] += 1

    def dead_letter(self, letter: Outgoing, error_type: str) -> None:
        """Add a message for the dead-letter queue."""
        self.outgoing.append(letter)
        self.dead[error_type] += 1


@dataclass(frozen=True, slots=True)
class OutcomeResolver:
    """Resolves the batches of one queue.

    Attributes:
        policy: retry options of the queue.
        levels: seconds of the retry queues, ascending.
        worker: name of this worker, for dead letters.
        source: partition from which the messages come, if the queue has partitions.
        on_exhausted: returns what to publish beside the dead letter of a message after
            its last retry; called with the envelope (its body is the JSON of the failed
            records) and the reason.
        originals: returns the messages to dead-letter instead of a message.
        to_its_end: whether a message that waits for a sink is published to the end of
            its own queue. From a retry queue it would not return to a queue that is
            full: RabbitMQ tries this every three minutes, with 32 messages at a time,
            whatever waits behind them.
    """

    queue: str
    policy: RetryPolicy
    levels: tuple[int, ...]
    worker: str
    on_exhausted: Callable[[Envelope, str], Sequence[Outgoing]] = lambda *_: ()
    source: str = ""
    originals: Callable[[FailedMessage], Sequence[FailedMessage]] = lambda one: (one,)
    to_its_end: bool = False

    def resolve(
        self,
        deliveries: list[Delivery],
        result: BatchResult,
        *,
        verdicts: Mapping[str, FailedTry],
        task_id: str,
        now: float,
    ) -> Resolution:
        """Resolve a batch that the pool has finished.

        Args:
            verdicts: by sink, whether a retry because of it counts as an attempt of the
                message. A record that was not tried never counts.
        """
        if not result.failures:
            return Resolution(done=[delivery.tag for delivery in deliveries])
        resolution = Resolution()
        failed = {failure.position for failure in result.failures}
        for position, delivery in enumerate(deliveries):
            tags = resolution.moved if position in failed else resolution.done
            tags.append(delivery.tag)
        for failure in result.failures:
            delivery = deliveries[failure.position]
            verdict = _verdict(failure.outcome, verdicts)
            self._fail(resolution, delivery, failure, verdict, task_id=task_id, now=now)
        return resolution

    def dead(self, delivery: Delivery, dead: Dead, now: float) -> Resolution:
        """Resolve a message that is dead before it reached a batch."""
        failing = FailedMessage(delivery, self.queue, delivery.body)
        letter = dead_message(failing, dead, task_id="", worker=self.worker, now=now)
        resolution = Resolution(moved=[delivery.tag])
        resolution.dead_letter(letter, dead.error_type)
        return resolution

    def lost(
        self,
        delivery: Delivery,
        reason: str,
        task_id: str,
        now: float,
        *,
        counts: bool = True,
    ) -> Resolution:
        """Resolve a message whose pool process was lost while it ran alone."""
        failure = Failure(0, Retry(reason, "WorkerLost"))
        resolution = Resolution(moved=[delivery.tag])
        self._fail(
            resolution,
            delivery,
            failure,
            FailedTry(counts),
            task_id=task_id,
            now=now,
            single=True,
        )
        return resolution

    def set_aside(self, deliveries: list[Delivery], now: float) -> Resolution:
        """Resolve messages that are held while their queue is paused: they wait in the
        shortest retry queue and then in their own. This counts no attempt."""
        resolution = Resolution(moved=[delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            failing = FailedMessage(delivery, self.queue, delivery.body)
            message = retry_message(
                failing,
                level_seconds=None if self.to_its_end else self.levels[0],
                attempt=delivery.attempt,
                now=now,
                single=False,
                source=self.source,
            )
            resolution.retry(message, SinkUnavailable.__name__)
        return resolution

    def _fail(
        self,
        resolution: Resolution,
        delivery: Delivery,
        failure: Failure,
        verdict: FailedTry,
        *,
        task_id: str,
        now: float,
        single: bool = False,
    ) -> None:
        """Add a failure to the resolution of its batch."""
        body = delivery.body if failure.body is None else failure.body
        failing = FailedMessage(delivery, self.queue, body, failure.record_index)
        outcome = failure.outcome
        if isinstance(outcome, Retry):
            retry = self._retry(failing, verdict, now, single=single)
            if isinstance(retry, Outgoing):
                resolution.retry(retry, outcome.error_type)
                return
            reason = f"{retry.because}; last: {outcome.reason}"
            outcome = Dead(reason, outcome.error_type, outcome.traceback)
            resolution.outgoing.extend(self._beside_dead_letter(failing, reason))
        for original in self._originals(failing):
            letter = dead_message(
                original, outcome, task_id=task_id, worker=self.worker, now=now
            )
            resolution.dead_letter(letter, outcome.error_type)

    def _retry(
        self, failing: FailedMessage, verdict: FailedTry, now: float, *, single: bool
    ) -> Outgoing | GiveUp:
        """Return the message of a retry, or why there is none."""
        delivery = failing.delivery
        decision = decide(
            self.policy,
            attempt=delivery.attempt,
            age_seconds=now - first_failed_at(delivery, now),
            backoff_seconds=self._backoff_seconds(delivery.attempt),
            counts=verdict.counts,
        )
        if isinstance(decision, GiveUp):
            return decision
        level = retry_level(self.levels, decision.delay_seconds, verdict.wait_seconds)
        waits_here = self.to_its_end and not verdict.counts
        return retry_message(
            failing,
            level_seconds=None if waits_here else level,
            attempt=decision.attempt,
            now=now,
            single=single,
            source=self.source,
        )

    def _beside_dead_letter(
        self, failing: FailedMessage, reason: str
    ) -> list[Outgoing]:
        lost = replace(failing.delivery, body=failing.body)
        envelope = envelope_of(lost.to_wire(), self.queue)
        more = partial(self.on_exhausted, envelope, reason)
        return self._given("on_exhausted", more, Outgoing)

    def _originals(self, failing: FailedMessage) -> list[FailedMessage]:
        originals = partial(self.originals, failing)
        return self._given("originals", originals, FailedMessage) or [failing]

    def _given(
        self, what: str, give: Callable[[], Sequence[_T]], kind: type[_T]
    ) -> list[_T]:
        """Return what a flow gives for a message, or nothing if the flow fails: this
        runs in the consuming process, and the message must not be lost."""
        try:
            given = [*give()]
            if all(isinstance(each, kind) for each in given):
                return given
            fault = f"it gave something else than {kind.__name__}"
        except Exception as error:  # noqa: BLE001 - code of a flow may raise anything
            fault = told(error)
        logger.error("%s of the handler of %s failed: %s", what, self.queue, fault)
        return []

    def _backoff_seconds(self, attempt: int) -> float:
        """Return Celery's own backoff."""
        return float(
            get_exponential_backoff_interval(
                factor=self.policy.retry_backoff,
                retries=min(attempt, _LARGEST_EXPONENT),
                maximum=self.policy.retry_backoff_max,
                full_jitter=self.policy.retry_jitter,
            )
        )


def _verdict(outcome: Retry | Dead, verdicts: Mapping[str, FailedTry]) -> FailedTry:
    """Return whether a failure counts, and how long its message must wait at least.

    If a sink requests a wait, its circuit observes it: the message only waits in its
    queue, which is paused.
    """
    if not isinstance(outcome, Retry):
        return FailedTry(counts=True)
    verdict = verdicts.get(outcome.sink or "")
    if verdict is None:
        verdict = FailedTry(
            counts=True, wait_seconds=outcome.retry_after_seconds or 0.0
        )
    return verdict if outcome.tried else verdict._replace(counts=False)
