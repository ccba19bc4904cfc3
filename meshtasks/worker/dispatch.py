"""Gives batches to the pool, at most one per process at a time.

Batches wait here, not in the pool's pipes. So a batch that has not started can be set
aside if its sink becomes unavailable, and an open batch can grow while all processes
are busy.
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

#: Time after the queue's time limit in which the pool must report a batch.
_GRACE_SECONDS = 60.0


#: Called with the request, its result or None, and the reason if there is no result.
OnResult = Callable[["BatchRequest", BatchResult | None, str], None]


class PendingBatch(NamedTuple):
    """A batch that waits for the pool."""

    consumer: QueueConsumer
    deliveries: list[Delivery]


class WaitingBatches:
    """The waiting batches of each consumer, in order. After a crash there may be
    thousands, of one message each, so the next is found without a search through all
    of them for every message that arrives."""

    def __init__(self) -> None:
        self._batches: dict[QueueConsumer, deque[tuple[int, list[Delivery]]]] = {}
        self._first = self._last = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def append(self, consumer: QueueConsumer, deliveries: list[Delivery]) -> None:
        """Add a batch after all others."""
        self._last += 1
        self._of(consumer).append((self._last, deliveries))

    def prepend(self, consumer: QueueConsumer, batches: list[list[Delivery]]) -> None:
        """Add batches before all others."""
        for deliveries in reversed(batches):
            self._first -= 1
            self._of(consumer).appendleft((self._first, deliveries))

    def first(self, admits: Callable[[QueueConsumer], bool]) -> PendingBatch | None:
        """Remove and return the first batch of a consumer that ``admits`` accepts."""
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
        """Remove and return the messages of a consumer."""
        batches = self._batches.pop(consumer, ())
        return [delivery for _, deliveries in batches for delivery in deliveries]

    def messages_of(self, consumer: QueueConsumer) -> int:
        """Return the number of waiting messages of a consumer."""
        return sum(len(each) for _, each in self._batches.get(consumer, ()))

    def clear(self) -> None:
        """Remove everything."""
        self._batches.clear()

    def _of(self, consumer: QueueConsumer) -> deque[tuple[int, list[Delivery]]]:
        return self._batches.setdefault(consumer, deque())


class FinishedBatch(NamedTuple):
    """A batch that the pool has finished, or lost.

    Attributes:
        started_at: monotonic seconds.
        result: None if the pool process was lost, or the task failed as a whole.
        reason: why there is no result.
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
        queue: name of the queue, and of its task.
        wires: the messages.
        away: names of sinks that must not be called.
        time_limit_seconds: a batch that runs longer is killed.
        on_result: called once with this request, the result (None if the batch was
            lost) and the reason of the loss; in the pool's thread if the pool has
            threads.
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
        """Send an event to monitors: a batch with a dead letter has failed, a batch of
        retries only is retried, and any other has succeeded."""
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
        """Report that there is no result; the caller runs the messages again."""
        self._on_result(self, None, reason)


class _Running(NamedTuple):
    batch: PendingBatch
    started_at: float


class Dispatcher:
    """Dispatches the batches of one worker to the pool.

    Args:
        celery_consumer: the worker's consumer.
        loop: the event loop in which ``on_finished`` is called.
        consumers: returns the consumers from which to take due batches.
        breaker: circuits of the sinks; they admit batches.
        on_finished: called for every batch that ends.
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
        #: Runs the batches of handlers that do not run in the pool.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mesh-pending")

    @property
    def pool_size(self) -> int:
        """Number of processes or threads of the pool."""
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
        """Run a batch again before all others, in as many parts as each part has
        messages. So a message that kills its process is found after few such ends, and
        most of the others need not run alone."""
        deliveries = batch.deliveries
        size = isqrt(len(deliveries))
        parts = [deliveries[at : at + size] for at in range(0, len(deliveries), size)]
        self._waiting.prepend(batch.consumer, parts)
        self.pump()

    def take_back(self, consumer: QueueConsumer) -> list[Delivery]:
        """Remove and return the messages of a consumer that the pool does not have."""
        return self._waiting.take(consumer)

    def waiting_of(self, consumer: QueueConsumer) -> int:
        """Return how many messages of a consumer the pool does not have."""
        return self._waiting.messages_of(consumer)

    def forget(self) -> None:
        """Drop all batches; results of running ones are ignored."""
        self._waiting.clear()
        self._running.clear()

    def stop(self) -> None:
        """Start no more batches in the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def overdue(self, now: float) -> Iterator[str]:
        """Yield the ids of batches that the pool should have finished long ago.

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
        """Return the batch to run next; batches of urgent queues are first."""
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
            and self._breaker.admits(consumer.sinks)
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
            self._breaker.away(consumer.sinks),
            consumer.settings.time_limit_seconds,
            self._on_result,
        )
        started_at = time.monotonic()
        self._running[request] = _Running(batch, started_at)
        consumer.batch_started(started_at)
        self._breaker.began(consumer.sinks, started_at)
        if consumer.handler.in_thread:
            request.start_in(self._thread)
        else:
            request.start(self._celery_consumer)

    def _on_result(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        """Process a result of the pool; may be called in any thread."""
        self._loop.soon(self._finish, request, result, reason)

    def _finish(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        running = self._running.pop(request, None)
        if running is not None:  # else it was dropped, and its messages come again
            batch, started_at = running
            batch.consumer.batch_ended(time.monotonic())
            self._on_finished(
                FinishedBatch(*batch, request.id, started_at, result, reason)
            )
            self.pump()
