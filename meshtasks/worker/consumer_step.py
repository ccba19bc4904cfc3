"""The bootstep that feeds the pool with batches from the domain queues.

The consuming process does as little as possible per message: py-amqp's callback
adds the bytes to an open batch. A batch goes to the pool when it is full, or when
it is due and the pool has room.

Every trouble with the broker takes one way out: raise a connection error into
Celery's event loop, which closes everything and starts this step again.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import amqp
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Tasks

from meshtasks.amqp.declare import declare
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Publisher
from meshtasks.errors import ConfigError
from meshtasks.flows.circuit import State
from meshtasks.worker.adapter import Adapted
from meshtasks.worker.batching import Buffer
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.caution import Caution
from meshtasks.worker.dispatch import Dispatcher, FinishedBatch, PendingBatch
from meshtasks.worker.exposition import Exposition
from meshtasks.worker.loop import Loop
from meshtasks.worker.mesh import Mesh, mesh_of
from meshtasks.worker.metrics import WorkerMetrics
from meshtasks.worker.queue_consumer import Lane
from meshtasks.worker.reading import BurstReader
from meshtasks.worker.republisher import Courier, Parcel
from meshtasks.worker.resolution import Settlement, Settler
from meshtasks.worker.timers import Timers
from meshtasks.worker.watch import ProgressWatch

logger = get_logger(__name__)

_CONNECTION_ERRORS = (
    *amqp.Connection.connection_errors,
    *amqp.Connection.channel_errors,
)
#: A warm shutdown waits this long for the batches it holds.
_DRAIN_SECONDS = 60.0
_TICK_SECONDS = 1.0
#: A batch that tries a sink gathers no longer than this.
_TRIAL_AGE_SECONDS = 0.1
#: A queue on probation is consumed for so long before it may have more messages.
_PROBATION_SECONDS = 0.5
#: A timer's run may be waiting for a slow service.
_TIMERS_STOP_SECONDS = 15.0


class _Moved(NamedTuple):
    """Messages to settle once the courier has published what stands for them."""

    lane: Lane
    settlement: Settlement


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Consumes the selected domain queues in batches."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        consumer.intake = self
        self._consumer = consumer
        self._mesh: Mesh = mesh_of(consumer.app)
        self._lanes: dict[str, Lane] = {}
        self._retired: list[Lane] = []
        self._paused: set[str] = set()  # queues, since that was logged
        self._loop = Loop(consumer.hub)
        self._breaker = Breaker(self._steer, consumer.hub.call_later)
        self._dispatcher = Dispatcher(
            consumer,
            self._loop,
            self._lanes.values,
            admits=lambda lane: self._breaker.admits(lane.handler.sinks),
            on_started=lambda lane, at: self._breaker.began(lane.handler.sinks, at),
            on_finished=self._on_finished,
        )
        self._watch = ProgressWatch()
        self._caution = Caution()
        settings = self._mesh.settings
        self._metrics = WorkerMetrics(consumer.hostname, self._breaker)
        self._exposition = Exposition(self._metrics.registry, settings.env)
        self._timers = Timers(settings, self._metrics.called)
        self._courier: Courier[_Moved] = Courier(
            Publisher(settings.env.amqp_url),
            on_delivered=lambda moved: self._loop.soon(self._on_moved, *moved),
            on_refused=lambda moved: self._loop.soon(self._reject, *moved),
            is_wanted=lambda moved: moved.lane.alive,
        )

    # --- bootstep ---------------------------------------------------------

    def start(self, consumer: Any) -> None:
        """Declare the topology; take the domain queues over from Celery."""
        topology = self._mesh.settings.topology
        try:
            declare(consumer.connection, topology)
            selected = self._selected_queues(consumer.app.amqp.queues)
            for queue in selected:
                self._timers.add(self._mesh.handlers[queue].timer)
        except ConfigError as error:
            logger.critical("%s", error)
            raise WorkerShutdown(ConfigError.exit_code) from error
        for queue in topology.domain_queues:
            consumer.task_consumer.cancel_by_queue(queue)
        self._lanes.update({queue: self._new_lane(queue) for queue in selected})
        self._courier.start()
        self._exposition.start()

    def register_with_event_loop(self, _consumer: Any, hub: Any) -> None:
        """Start consuming: the event loop is about to run."""
        self._loop.attach()
        connection = self._consumer.connection.connection
        self._reader = BurstReader(connection, hub, self._loop)
        hub.call_repeatedly(_TICK_SECONDS, self._tick)
        self._breaker.restart()
        self._caution.restart()
        if self._caution.is_active:
            hub.call_later(_PROBATION_SECONDS, self._relax)
        for lane in self._lanes.values():
            self._open(lane)

    def stop(self, consumer: Any) -> None:
        """Forget everything, before a reconnect or at the end: whatever is not
        acknowledged the broker delivers again."""
        for lane in (*self._lanes.values(), *self._retired):
            lane.alive = False
        self._lanes.clear()
        self._retired.clear()
        self._dispatcher.forget()
        if consumer.blueprint.state != bootsteps.RUN:
            self._courier.stop(within_seconds=5.0)
            self._exposition.stop()
            self._timers.stop(within_seconds=_TIMERS_STOP_SECONDS)
            self._loop.close()

    def drain(self) -> None:
        """Stop consuming; run the event loop until all that is held is settled.

        What waits for a broker that takes nothing at the moment comes again.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        try:
            for queue in list(self._lanes):
                self.remove(queue)
            while not self._dispatcher.idle or any(
                lane.unsettled for lane in self._retired
            ):
                held_up = self._dispatcher.idle and self._courier.is_held_up
                if held_up or state.should_terminate or time.monotonic() > deadline:
                    logger.warning("Stopping with batches unfinished; they come again")
                    break
                self._consumer.hub.run_once()
        except _CONNECTION_ERRORS as error:
            logger.warning("Connection lost while shutting down: %s", error)

    def _selected_queues(self, queues: Any) -> list[str]:
        """The domain queues to consume: those of ``-Q``, less and plus what remote
        control asked for since."""
        domain_queues = self._mesh.settings.topology.domain_queues
        return [
            queue
            for queue in queues.consume_from
            if queue in domain_queues and queue in self._mesh.handlers
        ]

    # --- remote control ---------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What is consumed, what rests, which sinks are down, and which of these are
        being tried, as JSON."""
        resting = {lane.queue: _rests(lane) for lane in self._lanes.values()}
        states = self._breaker.states().items()
        return {
            "consuming": [queue for queue, rests in resting.items() if not rests],
            "resting": [queue for queue, rests in resting.items() if rests],
            "down": self._breaker.reasons(),
            "half_open": [sink for sink, state in states if state is State.HALF_OPEN],
        }

    def handles(self, queue: str) -> bool:
        """Whether a queue is consumed here rather than by Celery."""
        return queue in self._mesh.handlers

    def add(self, queue: str) -> None:
        """Consume one more queue (``celery control add_consumer``)."""
        if queue not in self._lanes:
            lane = self._lanes[queue] = self._new_lane(queue)
            self._open(lane)
            self._timers.add(lane.handler.timer)

    def pump(self) -> None:
        """Give batches to a pool that has grown."""
        self._dispatcher.pump()

    def remove(self, queue: str) -> None:
        """Stop consuming a queue; what is held of it is finished."""
        lane = self._lanes.pop(queue, None)
        if lane is not None:
            self._retired.append(lane)
            if self._breaker.state(lane.handler.sinks) is State.CLOSED:
                lane.cancel()
                for deliveries in lane.take_all():
                    self._dispatcher.add(PendingBatch(lane, deliveries))
            else:
                self._rest(lane)

    # --- messages in ------------------------------------------------------

    def _new_lane(self, queue: str) -> Lane:
        mesh_settings = self._mesh.settings
        handler = self._mesh.handlers[queue]
        settings = mesh_settings.queues.for_queue(queue)
        lane = Lane(
            handler,
            settings,
            Settler(
                queue,
                settings.retry,
                mesh_settings.topology.retry_levels,
                self._consumer.hostname,
                lambda lost, why: handler.gives_up(lost, why, mesh_settings),
            ),
            # in the pool, one being gathered, and two on their way: the broker
            # must not wait for the acknowledgement of one batch to send the next
            prefetch=settings.batch.count * (self._dispatcher.pool_size + 3),
            on_full=self._on_full,
            on_open=self._on_open,
            on_dead=self._on_dead,
        )
        self._metrics.follow(lane)
        return lane

    def _open(self, lane: Lane) -> None:
        lane.open(self._consumer.connection, self._on_lost)
        self._steer_one(lane)

    def _on_full(self, lane: Lane, deliveries: list[Delivery]) -> None:
        self._dispatcher.add(PendingBatch(lane, deliveries))

    def _on_open(self, lane: Lane, buffer: Buffer) -> None:
        age_seconds = lane.settings.batch.age_ms / 1000
        if lane.is_trying:  # everything waits for this batch
            age_seconds = min(age_seconds, _TRIAL_AGE_SECONDS)
        self._consumer.hub.call_later(
            age_seconds, self._on_age, lane, buffer, buffer.opened_at
        )

    def _on_age(self, lane: Lane, buffer: Buffer, opened_at: float) -> None:
        if lane.alive and len(buffer) and buffer.opened_at == opened_at:
            buffer.due = True
            self._dispatcher.pump()

    def _on_dead(self, lane: Lane, adapted: Adapted) -> None:
        if adapted.dead is not None:
            dead = lane.settler.dead(adapted.delivery, adapted.dead, time.time())
            self._settle(lane, dead)

    def _on_lost(self, lane: Lane, reason: str) -> None:
        if lane.alive:
            self._loop.soon(self._reconnect, reason)

    # --- messages settled -------------------------------------------------

    def _on_finished(self, batch: FinishedBatch) -> None:
        lane, deliveries, task_id, started_at, result, reason = batch
        sinks = lane.handler.sinks
        now = time.time()
        if result is not None:
            settlement = lane.settler.settle(
                deliveries,
                result,
                verdicts=self._breaker.verdicts(sinks, result, started_at),
                task_id=task_id,
                now=now,
            )
            self._metrics.finished(lane.queue, result, settlement, now)
            self._settle(lane, settlement)
            self._breaker.ended(sinks, result, started_at)
            self._timers.wake(lane.handler.timer)
            return
        self._metrics.lost(lane.queue)
        if len(deliveries) > 1:
            logger.error(
                "Batch of %d messages of %s was lost (%s); running it in parts",
                len(deliveries),
                lane.queue,
                reason,
            )
            self._dispatcher.add_in_parts(PendingBatch(lane, deliveries))
        else:
            logger.error("A message of %s was lost: %s", lane.queue, reason)
            counts = self._breaker.state(sinks) is State.CLOSED
            self._settle(
                lane,
                lane.settler.lost(deliveries[0], reason, task_id, now, counts=counts),
            )
        self._breaker.ended(sinks, None, started_at)

    def _settle(self, lane: Lane, settlement: Settlement) -> None:
        if settlement.done:
            self._acknowledge(lane, settlement.done)
        if settlement.moved:
            moved = _Moved(lane, settlement)
            self._courier.send(Parcel(settlement.outgoing, moved))

    def _acknowledge(self, lane: Lane, tags: list[int]) -> None:
        if not lane.alive:
            return
        try:
            lane.acknowledge(tags)
        except _CONNECTION_ERRORS as error:
            self._reconnect(f"cannot acknowledge: {error}")

    def _on_moved(self, lane: Lane, settlement: Settlement) -> None:
        self._metrics.moved(lane.queue, settlement)
        self._acknowledge(lane, settlement.moved)

    def _reject(self, lane: Lane, settlement: Settlement) -> None:
        if lane.alive:
            lane.reject(settlement.moved)
            self._metrics.rejected(lane.queue, len(settlement.moved))

    # --- sinks that are down ----------------------------------------------

    def _steer(self) -> None:
        """Consume, try or pause each queue, as its sinks are."""
        for lane in tuple(self._retired):
            if self._breaker.state(lane.handler.sinks) is State.OPEN:
                self._rest(lane)
        for lane in self._lanes.values():
            self._steer_one(lane)
        self._dispatcher.pump()

    def _steer_one(self, lane: Lane) -> None:
        sinks = lane.handler.sinks
        window = self._caution.window(lane.queue)
        if window == 0:
            return
        match self._breaker.state(sinks):
            case State.CLOSED:
                lane.consume(at_most=window)
                if lane.queue in self._paused:
                    self._paused.remove(lane.queue)
                    logger.warning("Resumed %s", lane.queue)
            case State.HALF_OPEN:
                count = lane.settings.batch.count // self._breaker.shrinkage(sinks)
                lane.consume(at_most=max(1, min(count, window or count)))
            case State.OPEN:
                held = self._rest(lane)
                if lane.queue not in self._paused:
                    self._paused.add(lane.queue)
                    logger.warning("Paused %s; %d messages set aside", lane.queue, held)

    def _rest(self, lane: Lane) -> int:
        """Ask for no more messages; move those that are held and have not started
        back into the broker. Gives their number."""
        lane.cancel()
        held = [one for batch in lane.take_all() for one in batch]
        held += self._dispatcher.take_back(lane)
        if held:
            self._settle(lane, lane.settler.set_aside(held, time.time()))
        return len(held)

    # --- trouble ----------------------------------------------------------

    def on_broker_failed(self) -> None:
        """The broker failed while it delivered: some message it cannot deliver."""
        if not self._caution.is_active:
            logger.error(
                "The broker has a message that it cannot deliver. Queues are consumed "
                "one by one until its delivery limit has taken the message away"
            )
        self._caution.suspect(self._lanes)

    def _relax(self) -> None:
        self._caution.step()
        if self._caution.is_active:
            self._consumer.hub.call_later(_PROBATION_SECONDS, self._relax)
        self._steer()

    def _tick(self) -> None:
        now = time.monotonic()
        for task_id in self._dispatcher.overdue(now):
            self._reconnect(f"the pool does not answer batch {task_id}")
        for lane in self._lanes.values():
            try:
                reason = self._watch.stalled(lane, now)
            except amqp.ChannelError as error:
                reason = f"cannot ask for the length of {lane.queue}: {error}"
            if reason:
                self._reconnect(reason)
        self._reader.read()  # what a synchronous call has read ahead

    def _reconnect(self, reason: str) -> None:
        logger.error("Reconnecting to the broker: %s", reason)
        raise amqp.RecoverableConnectionError(reason)


def _rests(lane: Lane) -> bool:
    """Whether a queue waits for a sink; one that tries it does."""
    return lane.is_trying or not lane.is_consuming
