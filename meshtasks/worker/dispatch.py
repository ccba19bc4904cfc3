"""Hands batches to the pool, as many at a time as it has processes.

Batches wait here rather than in the pool's pipes: a batch that has not started
can still be set aside when its sink goes down, and an open batch may go on
growing while every process is busy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

from typing_extensions import override

from meshtasks.amqp.delivery import Delivery, Wire
from meshtasks.outcome import Dead
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.celery_internals import EventLoop, PoolRequest, pool_size
from meshtasks.worker.queue_consumer import QueueConsumer
from meshtasks.worker.results import BatchResult

#: Beyond its queue's time limit, how long a batch may go unanswered.
_GRACE_SECONDS = 60.0


#: The request, its result, and why there is none.
OnResult = Callable[["BatchRequest", BatchResult | None, str], None]


class PendingBatch(NamedTuple):
    """A batch that waits for the pool."""

    consumer: QueueConsumer
    deliveries: list[Delivery]


class WaitingBatches:
    """The waiting batches of each consumer, in their order: after a crash there may be
    thousands, of a message each, and every message that arrives asks for the next."""

    def __init__(self) -> None:
        self._batches: dict[QueueConsumer, deque[tuple[int, list[Delivery]]]] = {}
        self._first = self._last = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def append(self, consumer: QueueConsumer, deliveries: list[Delivery]) -> None:
        """Add a batch behind all others."""
        self._last += 1
        self._of(consumer).append((self._last, deliveries))

    def prepend(self, consumer: QueueConsumer, batches: list[list[Delivery]]) -> None:
        """Add batches before all others."""
        for deliveries in reversed(batches):
            self._first -= 1
            self._of(consumer).appendleft((self._first, deliveries))

    def first(self, admits: Callable[[QueueConsumer], bool]) -> PendingBatch | None:
        """Take out the first batch of those consumers."""
        consumer = min(
            filter(admits, self._batches),
            key=lambda each: self._batches[each][0][0],
            default=None,
        )
        if consumer is None:
            return None
        _, deliveries = self._batches[consumer].popleft()
        if not self._batches[consumer]:
            del self._batches[consumer]
        return PendingBatch(consumer, deliveries)

    def take(self, consumer: QueueConsumer) -> list[Delivery]:
        """Take out the messages of a consumer."""
        batches = self._batches.pop(consumer, ())
        return [delivery for _, deliveries in batches for delivery in deliveries]

    def messages_of(self, consumer: QueueConsumer) -> int:
        """How many messages of a consumer wait."""
        return sum(len(each) for _, each in self._batches.get(consumer, ()))

    def clear(self) -> None:
        """Drop everything."""
        self._batches.clear()

    def _of(self, consumer: QueueConsumer) -> deque[tuple[int, list[Delivery]]]:
        return self._batches.setdefault(consumer, deque())


class FinishedBatch(NamedTuple):
    """A batch that the pool is done with.

    Attributes:
        started_at: monotonic seconds.
        result: None when the pool process was lost, or the task failed as a whole.
        reason: of the loss.
    """

    consumer: QueueConsumer
    deliveries: list[Delivery]
    task_id: str
    started_at: float
    result: BatchResult | None
    reason: str


class BatchRequest(PoolRequest):
    """One batch of messages of one queue as one Celery request.

    Args:
        celery_consumer: the worker's consumer.
        queue: the queue, whose name is the task's.
        wires: the messages.
        away: sinks that it is not to call.
        time_limit_seconds: a batch that runs longer is killed.
        on_result: called once with this request, the result (None when the batch
            was lost) and the reason of a loss; in the pool's thread if the pool
            has threads.
    """

    def __init__(
        self,
        celery_consumer: Any,
        queue: str,
        wires: list[Wire],
        away: tuple[str, ...],
        time_limit_seconds: float,
        on_result: OnResult,
    ) -> None:
        self._on_result = on_result
        size_bytes = sum(len(wire[0]) for wire in wires)
        shown = (
            f"({len(wires)} messages, {size_bytes} bytes)",
            f"{{'queue': '{queue}'}}",
        )
        arguments = (wires, away) if away else (wires,)
        super().__init__(celery_consumer, queue, arguments, shown, time_limit_seconds)

    @override
    def succeeded(self, result: BatchResult, runtime: float) -> None:
        """Tell monitors: a batch with a dead letter has failed, one that all goes back
        to wait is retried, and all else has succeeded."""
        shown = {"result": repr(result), "runtime": runtime}
        worst = result.worst
        if worst is None:
            self.send_event("task-succeeded", **shown)
        else:
            kind = "task-failed" if isinstance(worst, Dead) else "task-retried"
            reason = f"{worst.error_type}: {worst.reason} ({result!r})"
            self.send_event(kind, exception=reason, traceback=worst.traceback, **shown)
        self._on_result(self, result, "")

    @override
    def lost(self, reason: str) -> None:
        """Run nothing more of it here: its messages are run again."""
        self._on_result(self, None, reason)


class _Running(NamedTuple):
    batch: PendingBatch
    started_at: float


class Dispatcher:
    """The batches of one worker on their way through the pool.

    Args:
        celery_consumer: the worker's consumer.
        consumers: the consumers to take due batches from.
        breaker: the circuits of the sinks, which admit batches and see them start.
        on_finished: called in the event loop for every batch.
    """

    def __init__(
        self,
        celery_consumer: Any,
        loop: EventLoop,
        consumers: Callable[[], Collection[QueueConsumer]],
        breaker: Breaker,
        on_finished: Callable[[FinishedBatch], None],
    ) -> None:
        self._celery_consumer = celery_consumer
        self._loop = loop
        self._consumers = consumers
        self._breaker = breaker
        self._on_finished = on_finished
        self._waiting = WaitingBatches()
        self._running: dict[BatchRequest, _Running] = {}
        self._pumping = False
        #: Runs the batches of handlers that are not for the pool.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mesh-pending")

    @property
    def pool_size(self) -> int:
        """Processes or threads of the pool."""
        return pool_size(self._celery_consumer)

    @property
    def idle(self) -> bool:
        """Whether no batch waits or runs."""
        return not self._running and not self._waiting

    def add(self, batch: PendingBatch) -> None:
        """Give a batch to the pool as soon as it has room."""
        self._waiting.append(batch.consumer, batch.deliveries)
        self.pump()

    def add_in_parts(self, batch: PendingBatch) -> None:
        """Run a batch again, before everything else, in as many parts as each then has
        messages: who ends the process is found with few ends, and most of its
        neighbours are not run alone."""
        deliveries = batch.deliveries
        size = isqrt(len(deliveries))
        parts = [deliveries[at : at + size] for at in range(0, len(deliveries), size)]
        self._waiting.prepend(batch.consumer, parts)
        self.pump()

    def take_back(self, consumer: QueueConsumer) -> list[Delivery]:
        """The messages of a consumer that have not been given to the pool."""
        return self._waiting.take(consumer)

    def waiting_of(self, consumer: QueueConsumer) -> int:
        """Messages of a consumer that have not been given to the pool."""
        return self._waiting.messages_of(consumer)

    def forget(self) -> None:
        """Drop everything; results of what runs are ignored."""
        self._waiting.clear()
        self._running.clear()

    def stop(self) -> None:
        """Start nothing more in the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def overdue(self, now: float) -> Iterator[str]:
        """Ids of batches that the pool should have answered long ago.

        Args:
            now: monotonic seconds.
        """
        for request, (batch, started_at) in self._running.items():
            limit_seconds = batch.consumer.settings.time_limit_seconds + _GRACE_SECONDS
            if now - started_at > limit_seconds:
                yield request.id

    def pump(self) -> None:
        """Give batches to the pool while it has room."""
        if self._pumping:  # the solo pool runs a batch inside its dispatch
            return
        self._pumping = True
        try:
            while (batch := self._next()) is not None:
                self._dispatch(batch)
        finally:
            self._pumping = False

    def _next(self) -> PendingBatch | None:
        """The batch to run next; those of alerts go before all others."""
        due = {
            consumer: since
            for consumer in self._consumers()
            if (since := consumer.due_since()) is not None
        }
        if not due and not self._waiting:
            return None
        for urgent in (True, False):
            admits = partial(self._admits, urgent=urgent)
            if (batch := self._waiting.first(admits)) is not None:
                return batch
            consumer = min(filter(admits, due), key=due.__getitem__, default=None)
            if consumer is not None:
                return PendingBatch(consumer, consumer.take_due())
        return None

    def _admits(self, consumer: QueueConsumer, *, urgent: bool) -> bool:
        return (
            consumer.is_urgent is urgent
            and consumer.may_run
            and self._has_room(consumer)
            and self._breaker.admits(consumer.handler.sink_names)
        )

    def _has_room(self, consumer: QueueConsumer) -> bool:
        running = self._running.values()
        in_thread = sum(each.batch.consumer.handler.in_thread for each in running)
        if consumer.handler.in_thread:
            return not in_thread
        return len(running) - in_thread < self.pool_size

    def _dispatch(self, batch: PendingBatch) -> None:
        consumer, deliveries = batch
        request = BatchRequest(
            self._celery_consumer,
            consumer.queue,
            [delivery.to_wire() for delivery in deliveries],
            self._breaker.away(consumer.handler.sink_names),
            consumer.settings.time_limit_seconds,
            self._on_result,
        )
        started_at = time.monotonic()
        self._running[request] = _Running(batch, started_at)
        consumer.batch_started(started_at)
        self._breaker.began(consumer.handler.sink_names, started_at)
        if consumer.handler.in_thread:
            request.start_in(self._thread)
        else:
            request.start(self._celery_consumer)

    def _on_result(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        """The pool answered; called in any thread."""
        self._loop.soon(self._finish, request, result, reason)

    def _finish(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        running = self._running.pop(request, None)
        if running is not None:  # else forgotten: its messages come again
            batch, started_at = running
            batch.consumer.batch_ended(time.monotonic())
            self._on_finished(
                FinishedBatch(*batch, request.id, started_at, result, reason)
            )
            self.pump()
