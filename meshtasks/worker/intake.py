"""The bootstep that feeds the pool with batches from the domain queues.

The consuming process does as little as possible per message: py-amqp's callback
adds the bytes to an open batch. A batch goes to the pool when it is full, or when
it is due and the pool has room (so that batches grow while the pool is busy).

Every trouble with the broker takes one way out: raise a connection error into
Celery's event loop, which closes everything and starts this step again.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple

import amqp
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Tasks

from meshtasks.domain.errors import ConfigError
from meshtasks.messaging.codec import Delivery
from meshtasks.messaging.entities import declare
from meshtasks.messaging.publisher import Publisher
from meshtasks.worker.adapter import Adapted
from meshtasks.worker.batching import Buffer
from meshtasks.worker.bind import BatchResult
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.courier import Courier, Parcel
from meshtasks.worker.lane import Lane
from meshtasks.worker.mesh import Mesh, mesh_of
from meshtasks.worker.request import BatchRequest
from meshtasks.worker.settlement import Settlement, Settler
from meshtasks.worker.watch import ProgressWatch

logger = get_logger(__name__)

_CONNECTION_ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
)
#: A warm shutdown waits this long for the batches it holds.
_DRAIN_SECONDS = 60.0
_TICK_SECONDS = 1.0


class _Moved(NamedTuple):
    """Tags to settle once the courier has published what stands for them."""

    lane: Lane
    tags: list[int]


class _Running(NamedTuple):
    """A batch in the pool."""

    lane: Lane
    deliveries: list[Delivery]
    started_at: float


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Consumes the selected domain queues in batches."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        consumer.intake = self
        self._consumer = consumer
        self._mesh: Mesh = mesh_of(consumer.app)
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[tuple[Lane, list[Delivery]]] = deque()
        self._running: dict[BatchRequest, _Running] = {}
        self._pumping = False
        self._watch = ProgressWatch()
        self._breaker = Breaker(
            self._mesh.settings, self._pause, self._resume, self._soon
        )
        url = self._mesh.settings.env.broker_url.get_secret_value()
        self._courier: Courier[_Moved] = Courier(
            Publisher(url),
            on_delivered=lambda moved: self._soon(self._on_moved, moved),
            on_refused=lambda moved: self._soon(self._on_refused, moved),
            is_wanted=lambda moved: moved.lane.alive,
        )
        self._courier_started = False

    # --- bootstep ---------------------------------------------------------

    def start(self, consumer: Any) -> None:
        """Declare the topology; take the domain queues over from Celery."""
        topology = self._mesh.settings.topology
        try:
            declare(consumer.connection, topology)
            selected = self._selected_queues(consumer.app.amqp.queues)
        except ConfigError as error:
            logger.critical("%s", error)
            raise WorkerShutdown(ConfigError.exit_code) from error
        if not self._courier_started:
            self._courier.start()
            self._courier_started = True
        for queue in topology.domain_queues:
            consumer.task_consumer.cancel_by_queue(queue)
        self._lanes = {queue: self._new_lane(queue) for queue in selected}

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Start consuming: the event loop is about to run."""
        hub.call_repeatedly(_TICK_SECONDS, self._tick)
        for lane in self._lanes.values():
            self._open(lane)

    def stop(self, consumer: Any) -> None:
        """Forget everything, before a reconnect or at the end: whatever is not
        acknowledged the broker delivers again."""
        for lane in self._lanes.values():
            lane.alive = False
        self._ready.clear()
        self._running.clear()
        if consumer.blueprint.state != bootsteps.RUN:
            self._breaker.stop()
            self._courier.stop(within_seconds=5.0)

    def drain(self) -> None:
        """Stop consuming; run the event loop until all that is held is settled."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        try:
            for lane in self._lanes.values():
                lane.cancel()
                self._flush(lane)
            while (
                self._running
                or self._ready
                or any(lane.unsettled for lane in self._lanes.values())
            ):
                if state.should_terminate or time.monotonic() > deadline:
                    logger.warning("Stopping with batches unfinished; they come again")
                    break
                self._hub.run_once()
        except _CONNECTION_ERRORS as error:
            logger.warning("Connection lost while shutting down: %s", error)

    def _selected_queues(self, queues: Any) -> list[str]:
        """The domain queues to consume: those of ``-Q``, or all with a handler.

        Raises:
            ConfigError: a queue of ``-Q`` has no handler.
        """
        selected = [
            queue
            for queue in queues.consume_from
            if queue in self._mesh.settings.topology.domain_queues
        ]
        handled = [queue for queue in selected if queue in self._mesh.handlers]
        if len(handled) < len(selected) and len(queues.consume_from) < len(queues):
            missing = ", ".join(sorted(set(selected) - set(handled)))
            expected = f"a queue with a handler, but {missing} has none"
            raise ConfigError("celery worker", "-Q", expected)
        return handled

    # --- remote control ---------------------------------------------------

    def handles(self, queue: str) -> bool:
        """Whether a queue is consumed here rather than by Celery."""
        return queue in self._mesh.runners

    def add(self, queue: str) -> None:
        """Consume one more queue (``celery control add_consumer``)."""
        if queue not in self._lanes:
            lane = self._lanes[queue] = self._new_lane(queue)
            self._open(lane)

    def remove(self, queue: str) -> None:
        """Stop consuming a queue; what is held of it is finished."""
        lane = self._lanes.get(queue)
        if lane is not None:
            lane.cancel()
            self._flush(lane)
            del self._lanes[queue]

    # --- messages in ------------------------------------------------------

    def _new_lane(self, queue: str) -> Lane:
        settings = self._mesh.settings.queues.for_queue(queue)
        settler = Settler(
            queue,
            settings.retry,
            self._mesh.settings.topology.retry_levels,
            self._consumer.hostname,
        )
        return Lane(
            self._mesh.handlers[queue],
            settings,
            settler,
            prefetch=settings.batch.count * (self._pool_size + 1),
            on_full=self._on_full,
            on_open=self._on_open,
            on_dead=self._on_dead,
        )

    def _open(self, lane: Lane) -> None:
        lane.open(self._consumer.connection, self._on_lost)
        if self._breaker.allows(lane.handler.sinks):
            lane.consume()

    def _on_full(self, lane: Lane, deliveries: list[Delivery]) -> None:
        self._ready.append((lane, deliveries))
        self._pump()

    def _on_open(self, lane: Lane, buffer: Buffer) -> None:
        age_seconds = lane.settings.batch.age_ms / 1000
        self._hub.call_later(age_seconds, self._on_age, lane, buffer, buffer.opened_at)

    def _on_age(self, lane: Lane, buffer: Buffer, opened_at: float) -> None:
        if lane.alive and len(buffer) and buffer.opened_at == opened_at:
            buffer.due = True
            self._pump()

    def _on_dead(self, lane: Lane, adapted: Adapted) -> None:
        if adapted.dead is not None:
            dead = lane.settler.dead(adapted.delivery, adapted.dead, time.time())
            self._settle(lane, dead)

    def _on_lost(self, lane: Lane, reason: str) -> None:
        if lane.alive:
            self._soon(self._reconnect, reason)

    # --- batches to the pool ----------------------------------------------

    @property
    def _hub(self) -> Any:
        return self._consumer.hub

    @property
    def _pool_size(self) -> int:
        return int(self._consumer.pool.num_processes)

    def _soon(self, callback: Any, *args: Any) -> None:
        """Run a callback in the event loop; may be called by any thread."""
        self._hub.call_soon(callback, *args)

    def _pump(self) -> None:
        """Give batches to the pool while it has room."""
        if self._pumping:  # the solo pool runs a batch inside its dispatch
            return
        self._pumping = True
        try:
            while len(self._running) < self._pool_size:
                batch = self._next_batch()
                if batch is None:
                    break
                self._dispatch(*batch)
        finally:
            self._pumping = False

    def _next_batch(self) -> tuple[Lane, list[Delivery]] | None:
        if self._ready:
            return self._ready.popleft()
        waiting = [
            (since, lane.queue)
            for lane in self._lanes.values()
            if (since := lane.due_since()) is not None
        ]
        if not waiting:
            return None
        lane = self._lanes[min(waiting)[1]]
        return lane, lane.take_due()

    def _dispatch(self, lane: Lane, deliveries: list[Delivery]) -> None:
        request = BatchRequest(
            self._consumer.app,
            lane.queue,
            [delivery.to_wire() for delivery in deliveries],
            sum(len(delivery.body) for delivery in deliveries),
            self._consumer,
            lane.settings.time_limit_seconds,
            self._on_result,
        )
        self._running[request] = _Running(lane, deliveries, time.monotonic())
        request.announce()
        state.task_reserved(request)
        self._consumer.on_task_request(request)

    # --- results ----------------------------------------------------------

    def _on_result(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        """A pool process answered or died; called in any thread."""
        self._soon(self._finish, request, result, reason)

    def _finish(
        self, request: BatchRequest, result: BatchResult | None, reason: str
    ) -> None:
        running = self._running.pop(request, None)
        if running is None:
            return  # of a connection that is gone: its messages come again
        lane, deliveries, _ = running
        now = time.time()
        if result is not None:
            settlement = lane.settler.settle(
                deliveries,
                result,
                open_circuits=self._breaker.open_circuits(),
                task_id=request.id,
                now=now,
            )
            self._settle(lane, settlement)
            self._breaker.note(result)
        elif len(deliveries) > 1:
            logger.error(
                "Batch of %d messages of %s was lost (%s); running them one by one",
                len(deliveries),
                lane.queue,
                reason,
            )
            self._ready.extendleft((lane, [one]) for one in reversed(deliveries))
        else:
            logger.error("A message of %s was lost: %s", lane.queue, reason)
            self._settle(
                lane, lane.settler.lost(deliveries[0], reason, request.id, now)
            )
        self._pump()

    def _settle(self, lane: Lane, settlement: Settlement) -> None:
        if settlement.done:
            self._acknowledge(lane, settlement.done)
        if settlement.moved:
            moved = _Moved(lane, settlement.moved)
            self._courier.send(Parcel(settlement.outgoing, moved))

    def _on_moved(self, moved: _Moved) -> None:
        self._acknowledge(moved.lane, moved.tags)

    def _on_refused(self, moved: _Moved) -> None:
        if moved.lane.alive:
            moved.lane.reject(moved.tags)

    def _acknowledge(self, lane: Lane, tags: list[int]) -> None:
        if not lane.alive:
            return
        try:
            lane.acknowledge(tags)
        except _CONNECTION_ERRORS as error:
            self._reconnect(f"cannot acknowledge: {error}")

    # --- sinks that are down ----------------------------------------------

    def _pause(self, sink: str) -> None:
        now = time.time()
        for lane in self._lanes.values():
            if sink in lane.handler.sinks and lane.is_consuming:
                lane.cancel()
                held = [one for batch in lane.take_all() for one in batch]
                others: deque[tuple[Lane, list[Delivery]]] = deque()
                for owner, deliveries in self._ready:
                    if owner is lane:
                        held += deliveries
                    else:
                        others.append((owner, deliveries))
                self._ready = others
                self._settle(lane, lane.settler.set_aside(held, now))
                logger.warning(
                    "Paused %s; %d messages set aside", lane.queue, len(held)
                )

    def _resume(self) -> None:
        for lane in self._lanes.values():
            if not lane.is_consuming and self._breaker.allows(lane.handler.sinks):
                lane.consume()
                logger.warning("Resumed %s", lane.queue)

    # --- trouble ----------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        for request, running in self._running.items():
            limit = running.lane.settings.time_limit_seconds + _DRAIN_SECONDS
            if now - running.started_at > limit:
                self._reconnect(f"no answer to batch {request.id} from the pool")
        for lane in self._lanes.values():
            try:
                reason = self._watch.stalled(lane, now)
            except amqp.ChannelError as error:
                reason = f"cannot ask for the length of {lane.queue}: {error}"
            if reason:
                self._reconnect(reason)

    def _reconnect(self, reason: str) -> None:
        logger.error("Reconnecting to the broker: %s", reason)
        raise amqp.RecoverableConnectionError(reason)

    def _flush(self, lane: Lane) -> None:
        self._ready.extend((lane, deliveries) for deliveries in lane.take_all())
        self._pump()
