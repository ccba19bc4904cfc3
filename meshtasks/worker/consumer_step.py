"""The bootstep that feeds the pool with batches from the domain queues.

The consuming process does as little as possible per message: py-amqp's callback
adds the bytes to an open batch. A batch goes to the pool when it is full, or when
it is due and the pool has room.

Every trouble with the broker takes one way out: raise a connection error into
Celery's event loop, which closes everything and starts this step again.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import amqp
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Tasks

from meshtasks.amqp.declare import declare
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.republisher import PublishRequest, Republisher
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import ConfigError
from meshtasks.flows.circuit import State
from meshtasks.worker.batching import Adapted, Buffer
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.dispatch import Dispatcher, FinishedBatch, PendingBatch
from meshtasks.worker.loop import Loop
from meshtasks.worker.mesh import Mesh, mesh_of
from meshtasks.worker.metrics import Exposition, WorkerMetrics
from meshtasks.worker.probation import Probation
from meshtasks.worker.queue_consumer import QueueConsumer
from meshtasks.worker.reading import BurstReader
from meshtasks.worker.resolution import OutcomeResolver, Resolution
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
#: A queue on probation is consumed for so long before it may have more messages.
_PROBATION_SECONDS = 0.5
#: A timer's run may be waiting for a slow service.
_TIMERS_STOP_SECONDS = 15.0


class ConsumerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Consumes the selected domain queues in batches."""

    requires = (Tasks,)

    def __init__(self, celery_consumer: Any, **kwargs: Any) -> None:
        super().__init__(celery_consumer, **kwargs)
        celery_consumer.consumer_step = self
        self._celery_consumer = celery_consumer
        self._mesh: Mesh = mesh_of(celery_consumer.app)
        self._consumers: dict[str, QueueConsumer] = {}
        self._retired: list[QueueConsumer] = []
        self._paused: set[str] = set()  # queues, since that was logged
        self._loop = Loop(celery_consumer.hub)
        self._breaker = Breaker(self._steer, celery_consumer.hub.call_later)
        self._dispatcher = Dispatcher(
            celery_consumer,
            self._loop,
            self._consumers.values,
            admits=lambda consumer: self._breaker.admits(consumer.handler.sink_names),
            on_started=lambda consumer, at: self._breaker.began(
                consumer.handler.sink_names, at
            ),
            on_finished=self._on_finished,
        )
        self._watch = ProgressWatch()
        self._probation = Probation()
        settings = self._mesh.settings
        self._metrics = WorkerMetrics(celery_consumer.hostname, self._breaker)
        self._exposition = Exposition(self._metrics.registry, settings.env)
        self._timers = Timers(settings, self._metrics.called)
        self._republisher = Republisher(Publisher(settings.env.amqp_url))

    # --- bootstep ---------------------------------------------------------

    def start(self, celery_consumer: Any) -> None:
        """Declare the topology; take the domain queues over from Celery."""
        topology = self._mesh.settings.read(TOPOLOGY)
        try:
            declare(celery_consumer.connection, topology)
            selected = self._selected_queues(celery_consumer.app.amqp.queues)
            for queue in selected:
                self._timers.add(self._mesh.handlers[queue].timer)
        except ConfigError as error:
            logger.critical("%s", error)
            raise WorkerShutdown(ConfigError.exit_code) from error
        for queue in topology.domain_queues:
            celery_consumer.task_consumer.cancel_by_queue(queue)
        self._consumers.update({queue: self._new_consumer(queue) for queue in selected})
        self._republisher.start()
        self._exposition.start()

    def register_with_event_loop(self, _celery_consumer: Any, hub: Any) -> None:
        """Start consuming: the event loop is about to run."""
        self._loop.attach()
        connection = self._celery_consumer.connection.connection
        self._reader = BurstReader(connection, hub, self._loop)
        hub.call_repeatedly(_TICK_SECONDS, self._tick)
        self._breaker.restart()
        self._probation.restart()
        if self._probation.is_active:
            hub.call_later(_PROBATION_SECONDS, self._relax)
        for consumer in self._consumers.values():
            self._open(consumer)

    def stop(self, celery_consumer: Any) -> None:
        """Forget everything, before a reconnect or at the end: whatever is not
        acknowledged the broker delivers again."""
        for consumer in (*self._consumers.values(), *self._retired):
            consumer.alive = False
        self._consumers.clear()
        self._retired.clear()
        self._dispatcher.forget()
        if celery_consumer.blueprint.state != bootsteps.RUN:
            self._republisher.stop(within_seconds=5.0)
            self._exposition.stop()
            self._timers.stop(within_seconds=_TIMERS_STOP_SECONDS)
            self._loop.close()

    def drain(self) -> None:
        """Stop consuming; run the event loop until all that is held is resolved.

        What waits for a broker that takes nothing at the moment comes again.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        try:
            for queue in list(self._consumers):
                self.remove(queue)
            while not self._dispatcher.idle or any(
                consumer.unresolved for consumer in self._retired
            ):
                held_up = self._dispatcher.idle and self._republisher.is_held_up
                if held_up or state.should_terminate or time.monotonic() > deadline:
                    logger.warning("Stopping with batches unfinished; they come again")
                    break
                self._celery_consumer.hub.run_once()
        except _CONNECTION_ERRORS as error:
            logger.warning("Connection lost while shutting down: %s", error)

    def _selected_queues(self, queues: Any) -> list[str]:
        """The domain queues to consume: those of ``-Q``, less and plus what remote
        control asked for since."""
        domain_queues = self._mesh.settings.read(TOPOLOGY).domain_queues
        return [
            queue
            for queue in queues.consume_from
            if queue in domain_queues and queue in self._mesh.handlers
        ]

    # --- remote control ---------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What is consumed, what rests, which sinks are down, and which of these are
        being tried, as JSON."""
        resting = {
            consumer.queue: _rests(consumer) for consumer in self._consumers.values()
        }
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
        if queue not in self._consumers:
            consumer = self._consumers[queue] = self._new_consumer(queue)
            self._open(consumer)
            self._timers.add(consumer.handler.timer)

    def pump(self) -> None:
        """Give batches to a pool that has grown."""
        self._dispatcher.pump()

    def remove(self, queue: str) -> None:
        """Stop consuming a queue; what is held of it is finished."""
        consumer = self._consumers.pop(queue, None)
        if consumer is not None:
            self._retired.append(consumer)
            if self._breaker.state(consumer.handler.sink_names) is State.CLOSED:
                consumer.cancel()
                for deliveries in consumer.take_all():
                    self._dispatcher.add(PendingBatch(consumer, deliveries))
            else:
                self._rest(consumer)

    # --- messages in ------------------------------------------------------

    def _new_consumer(self, queue: str) -> QueueConsumer:
        mesh_settings = self._mesh.settings
        handler = self._mesh.handlers[queue]
        settings = mesh_settings.read(QUEUES).for_queue(queue)
        consumer = QueueConsumer(
            handler,
            settings,
            OutcomeResolver(
                queue,
                settings.retry,
                mesh_settings.read(TOPOLOGY).retry_levels,
                self._celery_consumer.hostname,
                lambda lost, why: handler.gives_up(lost, why, mesh_settings),
            ),
            # in the pool, one being gathered, and two on their way: the broker
            # must not wait for the acknowledgement of one batch to send the next
            prefetch=settings.batch.count * (self._dispatcher.pool_size + 3),
            on_full=self._on_full,
            on_open=self._on_open,
            on_dead=self._on_dead,
        )
        self._metrics.follow(consumer)
        return consumer

    def _open(self, consumer: QueueConsumer) -> None:
        consumer.open(self._celery_consumer.connection, self._on_lost)
        self._steer_one(consumer)

    def _on_full(self, consumer: QueueConsumer, deliveries: list[Delivery]) -> None:
        self._dispatcher.add(PendingBatch(consumer, deliveries))

    def _on_open(self, consumer: QueueConsumer, buffer: Buffer) -> None:
        due = self._on_due, consumer, buffer, buffer.opened_at
        if seconds := consumer.gathering_seconds(time.monotonic()):
            self._celery_consumer.hub.call_later(seconds, *due)
        else:  # with what else has arrived already
            self._loop.soon(*due)

    def _on_due(
        self, consumer: QueueConsumer, buffer: Buffer, opened_at: float
    ) -> None:
        if consumer.alive and len(buffer) and buffer.opened_at == opened_at:
            buffer.due = True
            self._dispatcher.pump()

    def _on_dead(self, consumer: QueueConsumer, adapted: Adapted) -> None:
        if adapted.dead is not None:
            dead = consumer.resolver.dead(adapted.delivery, adapted.dead, time.time())
            self._resolve(consumer, dead)

    def _on_lost(self, consumer: QueueConsumer, reason: str) -> None:
        if consumer.alive:
            self._loop.soon(self._reconnect, reason)

    # --- messages resolved -------------------------------------------------

    def _on_finished(self, batch: FinishedBatch) -> None:
        consumer, deliveries, task_id, started_at, result, reason = batch
        sinks = consumer.handler.sink_names
        now = time.time()
        if result is not None:
            resolution = consumer.resolver.resolve(
                deliveries,
                result,
                verdicts=self._breaker.verdicts(sinks, result, started_at),
                task_id=task_id,
                now=now,
            )
            self._metrics.finished(consumer.queue, result, resolution, now)
            self._resolve(consumer, resolution)
            self._breaker.ended(sinks, result, started_at)
            self._timers.wake(consumer.handler.timer)
            return
        self._metrics.lost(consumer.queue)
        if len(deliveries) > 1:
            logger.error(
                "Batch of %d messages of %s was lost (%s); running it in parts",
                len(deliveries),
                consumer.queue,
                reason,
            )
            self._dispatcher.add_in_parts(PendingBatch(consumer, deliveries))
        else:
            logger.error("A message of %s was lost: %s", consumer.queue, reason)
            counts = self._breaker.state(sinks) is State.CLOSED
            self._resolve(
                consumer,
                consumer.resolver.lost(
                    deliveries[0], reason, task_id, now, counts=counts
                ),
            )
        self._breaker.ended(sinks, None, started_at)

    def _resolve(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        if resolution.done:
            self._acknowledge(consumer, resolution.done)
        if resolution.moved:
            self._republisher.send(
                PublishRequest(
                    resolution.outgoing,
                    partial(self._on_published, consumer, resolution),
                    is_wanted=lambda: consumer.alive,
                )
            )

    def _on_published(
        self, consumer: QueueConsumer, resolution: Resolution, error: Exception | None
    ) -> None:
        """What stands for messages is in the broker, or never will be; called in the
        republisher's thread."""
        if error is None:
            self._loop.soon(self._on_moved, consumer, resolution)
            return
        logger.critical(
            "Left to the broker's own dead-lettering, since publishing is refused "
            "(is the topology whole? meshtasks topology check): %s",
            error,
        )
        self._loop.soon(self._reject, consumer, resolution)

    def _acknowledge(self, consumer: QueueConsumer, tags: list[int]) -> None:
        if not consumer.alive:
            return
        try:
            consumer.acknowledge(tags)
        except _CONNECTION_ERRORS as error:
            self._reconnect(f"cannot acknowledge: {error}")

    def _on_moved(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        self._metrics.moved(consumer.queue, resolution)
        self._acknowledge(consumer, resolution.moved)

    def _reject(self, consumer: QueueConsumer, resolution: Resolution) -> None:
        if consumer.alive:
            consumer.reject(resolution.moved)
            self._metrics.rejected(consumer.queue, len(resolution.moved))

    # --- sinks that are down ----------------------------------------------

    def _steer(self) -> None:
        """Consume, try or pause each queue, as its sinks are."""
        for consumer in tuple(self._retired):
            if self._breaker.state(consumer.handler.sink_names) is State.OPEN:
                self._rest(consumer)
        for consumer in self._consumers.values():
            self._steer_one(consumer)
        self._dispatcher.pump()

    def _steer_one(self, consumer: QueueConsumer) -> None:
        sinks = consumer.handler.sink_names
        window = self._probation.window(consumer.queue)
        if window == 0:
            return
        match self._breaker.state(sinks):
            case State.CLOSED:
                consumer.consume(at_most=window)
                if consumer.queue in self._paused:
                    self._paused.remove(consumer.queue)
                    logger.warning("Resumed %s", consumer.queue)
            case State.HALF_OPEN:
                count = consumer.settings.batch.count // self._breaker.shrinkage(sinks)
                consumer.consume(at_most=max(1, min(count, window or count)))
            case State.OPEN:
                held = self._rest(consumer)
                if consumer.queue not in self._paused:
                    self._paused.add(consumer.queue)
                    logger.warning(
                        "Paused %s; %d messages set aside", consumer.queue, held
                    )

    def _rest(self, consumer: QueueConsumer) -> int:
        """Ask for no more messages; move those that are held and have not started
        back into the broker. Gives their number."""
        consumer.cancel()
        held = [one for batch in consumer.take_all() for one in batch]
        held += self._dispatcher.take_back(consumer)
        if held:
            self._resolve(consumer, consumer.resolver.set_aside(held, time.time()))
        return len(held)

    # --- trouble ----------------------------------------------------------

    def on_broker_failed(self) -> None:
        """The broker failed while it delivered: some message it cannot deliver."""
        if not self._probation.is_active:
            logger.error(
                "The broker has a message that it cannot deliver. Queues are consumed "
                "one by one until its delivery limit has taken the message away"
            )
        self._probation.suspect(self._consumers)

    def _relax(self) -> None:
        self._probation.step()
        if self._probation.is_active:
            self._celery_consumer.hub.call_later(_PROBATION_SECONDS, self._relax)
        self._steer()

    def _tick(self) -> None:
        now = time.monotonic()
        for task_id in self._dispatcher.overdue(now):
            self._reconnect(f"the pool does not answer batch {task_id}")
        for consumer in self._consumers.values():
            try:
                reason = self._watch.stalled(consumer, now)
            except amqp.ChannelError as error:
                reason = f"cannot ask for the length of {consumer.queue}: {error}"
            if reason:
                self._reconnect(reason)
        self._reader.read()  # what a synchronous call has read ahead

    def _reconnect(self, reason: str) -> None:
        logger.error("Reconnecting to the broker: %s", reason)
        raise amqp.RecoverableConnectionError(reason)


def _rests(consumer: QueueConsumer) -> bool:
    """Whether a queue waits for a sink; one that tries it does."""
    return consumer.is_trying or not consumer.is_consuming
