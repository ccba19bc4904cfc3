"""The bootstep that feeds the pool with batches from the domain queues.

The consuming process does as little as possible per message: py-amqp's callback adds
the bytes to an open batch. A batch goes to the pool when it is full, or when it is due
and the pool has room.

A lost connection is handled in one way: a connection error is raised in Celery's event
loop, which closes everything and starts this step again. If the broker closes the
channel of one queue, or refuses it, only that queue is opened again. What the broker
refuses at the start ends the worker; later it is tried until it is accepted.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import amqp
from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Tasks

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.republisher import Republisher
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.errors import ConfigError
from meshtasks.flows.circuit import State
from meshtasks.flows.contract import Handler
from meshtasks.worker.batching import Buffer
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.broker import Recovery, end_worker
from meshtasks.worker.celery_internals import BurstReader, EventLoop, forks
from meshtasks.worker.completion import CONNECTION_ERRORS, Completion, Counts
from meshtasks.worker.dispatch import Dispatcher, FinishedBatch, PendingBatch
from meshtasks.worker.flow_control import SHARE_SECONDS, FlowControl, Sharing
from meshtasks.worker.mesh import Mesh, mesh_of
from meshtasks.worker.queue_consumer import QueueConsumer
from meshtasks.worker.recording import Recorder
from meshtasks.worker.resolution import OutcomeResolver
from meshtasks.worker.timers import Timers

logger = get_logger(__name__)

#: Maximum wait of a warm shutdown for the batches that are held.
_DRAIN_SECONDS = 60.0
_TICK_SECONDS = 1.0
_PARTITIONS = "the consumers of partitions"
#: Number of batches of its queues after which a closed circuit counts as steady.
_STEADY_BATCHES = 10
#: Maximum wait for the run of a timer, which may wait for a slow service.
_TIMERS_STOP_SECONDS = 15.0


class ConsumerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery ships no types
    """Consumes the selected domain queues in batches.

    Attributes:
        recovery: gets again what the broker refuses or has closed.
    """

    requires = (Tasks,)

    def __init__(self, celery_consumer: Any, **kwargs: Any) -> None:
        super().__init__(celery_consumer, **kwargs)
        celery_consumer.consumer_step = self
        self._celery_consumer = celery_consumer
        self._mesh: Mesh = mesh_of(celery_consumer.app)
        settings = self._mesh.settings
        loop = self._loop = EventLoop(celery_consumer.hub)
        breaker = self._breaker = Breaker(
            self._on_circuits_changed,
            loop.later,
            waits_in=self._waits_in(),
            is_consumed=lambda queue: queue in self._consumers,
            steady_seconds=self._steady_seconds(),
            on_circuit=self._on_circuit,
        )
        name = celery_consumer.hostname
        is_forking = forks(celery_consumer)
        self._recorder = Recorder(settings.env, name, "worker", forks=is_forking)
        self._metrics = _counts_of(name, breaker, settings.env)
        self._timers = Timers(settings, self._metrics.called, forks=is_forking)
        self._republisher = Republisher(Publisher(settings.env.amqp_url))
        self._consumers: dict[str, QueueConsumer] = {}
        self._dispatcher = Dispatcher(
            celery_consumer, loop, self._consumers.values, breaker, self._on_finished
        )
        self._completion = Completion(
            loop,
            breaker,
            self._metrics,
            self._recorder,
            self._republisher,
            run_in_parts=self._dispatcher.add_in_parts,
            reconnect=self._reconnect,
        )
        self.recovery = Recovery(
            self._mesh.settings.read(TOPOLOGY),
            lambda: celery_consumer.connection,
            loop,
            self._consumers,
            replace=self._replace,
            open_=self._open,
            reconnect=self._reconnect,
        )
        self._flow = FlowControl(
            self._consumers,
            breaker,
            loop.later,
            self._dispatcher.take_back,
            self._completion.set_aside,
            self.recovery.on_refused,
        )
        self._sharing = Sharing(
            self._consumers.values,
            lambda consumer: consumer.gathered + self._dispatcher.waiting_of(consumer),
            self._renew,
        )

    def _waits_in(self) -> dict[str, str]:
        """Return by sink the queue in which its data may wait."""
        keys = (
            key for handler in self._mesh.handlers.values() for key in handler.sinks
        )
        return {key.name: key.waits_in for key in keys if key.waits_in}

    def _steady_seconds(self) -> dict[str, float]:
        """Return by sink how long a circuit must be closed to count as steady: the time
        in which its slowest queue collects some batches."""
        queues = self._mesh.settings.read(QUEUES)
        seconds: dict[str, float] = {}
        for queue, handler in self._mesh.handlers.items():
            gathers = queues.for_queue(queue).batch.age_ms / 1000
            for sink in handler.sink_names:
                seconds[sink] = max(seconds.get(sink, 0.0), gathers * _STEADY_BATCHES)
        return seconds

    # --- bootstep ---------------------------------------------------------

    def serve_metrics(self) -> None:
        """Serve the metrics, even if the broker is unavailable."""
        self._metrics.start()

    def start(self, celery_consumer: Any) -> None:
        """Take over the domain queues from Celery."""
        topology = self._mesh.settings.read(TOPOLOGY)
        try:
            selected = self._selected_queues(celery_consumer.app.amqp.queues)
            for queue in selected:
                self._timers.add(self._mesh.handlers[queue].timer)
        except ConfigError as error:
            end_worker(error, error)
        for queue in topology.domain_queues:
            celery_consumer.task_consumer.cancel_by_queue(queue)
        for queue in selected:
            for source in topology.names_of(queue):
                self._consumers[source] = self._new_consumer(queue, source)
        self._republisher.start()
        self._recorder.start()
        self._note_queues()

    def register_with_event_loop(self, _celery_consumer: Any, _hub: Any) -> None:
        """Start consuming; called when the event loop is about to run."""
        self._loop.attach()
        connection = self._celery_consumer.connection.connection
        self._reader = BurstReader(
            connection, self._loop, self.recovery.on_channel_error
        )
        if (events := self._celery_consumer.event_dispatcher) is not None:
            connection = events.connection.connection
            BurstReader(
                connection, self._loop, partial(self.recovery.on_events_refused, events)
            )
        self._loop.every(_TICK_SECONDS, self._tick)
        self._breaker.restart()
        self._flow.restart()
        self._recorder.connection("")
        if not self.recovery.has_consumed:
            self._open_all()
        # Commands are consumed before; if that is refused, nothing was delivered.
        self._loop.soon(self._start_consuming)
        self._loop.every(SHARE_SECONDS, self._share)

    def _start_consuming(self) -> None:
        if self.recovery.has_consumed:
            self._open_all()
        self.recovery.consumes()
        self._share()
        self._metrics.connected(is_connected=True)

    def _open_all(self) -> None:
        for consumer in tuple(self._consumers.values()):
            self._open(consumer)

    def stop(self, celery_consumer: Any) -> None:
        """Drop everything, before a reconnect or at the end. The broker delivers
        unacknowledged messages again."""
        self._metrics.connected(is_connected=False)
        self._sharing.restart()
        self.recovery.forget()
        self._flow.forget()
        self._dispatcher.forget()
        if celery_consumer.blueprint.state != bootsteps.RUN:
            self._dispatcher.stop()
            self._republisher.stop(within_seconds=5.0)
            self._metrics.stop()
            self._timers.stop(within_seconds=_TIMERS_STOP_SECONDS)
            self._recorder.stop(within_seconds=5.0)
            self._loop.close()
        else:
            self._recorder.connection("the connection was lost")

    def drain(self) -> None:
        """Stop consuming, and run the event loop until all held messages are resolved.

        Messages that wait for a broker that accepts no messages are delivered again.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        try:
            for queue in {one.queue for one in self._consumers.values()}:
                self._remove(queue)
            while not self._dispatcher.idle or any(
                consumer.unresolved for consumer in self._flow.retired
            ):
                held_up = self._dispatcher.idle and self._republisher.is_held_up
                if held_up or state.should_terminate or time.monotonic() > deadline:
                    logger.warning("Stopping with batches unfinished; they come again")
                    break
                self._loop.turn()
            self._flush_events()
        except CONNECTION_ERRORS as error:
            logger.warning("Connection lost while shutting down: %s", error)

    def _selected_queues(self, queues: Any) -> list[str]:
        """Return the domain queues to consume: those of ``-Q``, with the changes that
        remote control has requested."""
        domain_queues = self._mesh.settings.read(TOPOLOGY).domain_queues
        return [
            queue
            for queue in queues.consume_from
            if queue in domain_queues and queue in self._mesh.handlers
        ]

    # --- remote control ---------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the queues that are consumed and paused, and the circuits that are
        open and half-open, as JSON."""
        consumers = self._consumers.values()
        queues = dict.fromkeys(one.queue for one in consumers)
        paused = {one.queue for one in consumers if self._flow.is_paused(one)}
        states = self._breaker.states().items()
        return {
            "consuming": [queue for queue in queues if queue not in paused],
            "resting": [queue for queue in queues if queue in paused],
            "down": self._breaker.reasons(),
            "half_open": [sink for sink, state in states if state is State.HALF_OPEN],
        }

    def handles(self, queue: str) -> bool:
        """Whether this step consumes the queue, and not Celery."""
        return queue in self._mesh.handlers

    def add(self, queue: str) -> None:
        """Consume another queue (``celery control add_consumer``)."""
        for source in self._mesh.settings.read(TOPOLOGY).names_of(queue):
            if source not in self._consumers:
                consumer = self._consumers[source] = self._new_consumer(queue, source)
                self._open(consumer)
                self._timers.add(consumer.handler.timer)
        self._note_queues()

    def pump(self) -> None:
        """Give batches to the pool after it has grown."""
        self._dispatcher.pump()

    def remove(self, queue: str) -> None:
        """Stop consuming a queue; its held messages are finished."""
        self._remove(queue)
        self._note_queues()

    def _remove(self, queue: str) -> None:
        for source in self._mesh.settings.read(TOPOLOGY).names_of(queue):
            consumer = self._consumers.pop(source, None)
            if consumer is None:
                continue
            consumer.is_leaving = False
            self._flow.retired.append(consumer)
            if self._breaker.state(consumer.sinks) is State.CLOSED:
                consumer.cancel()
                for deliveries in consumer.take_all():
                    self._dispatcher.add(PendingBatch(consumer, deliveries))
            else:
                self._flow.pause(consumer)

    def _note_queues(self) -> None:
        queues = sorted({consumer.queue for consumer in self._consumers.values()})
        self._recorder.goes("worker", self._celery_consumer.hostname, " ".join(queues))

    # --- consuming --------------------------------------------------------

    def _new_consumer(self, queue: str, source: str) -> QueueConsumer:
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
                lambda lost, why: handler.on_exhausted(lost, why, mesh_settings),
                source,
                handler.originals,
                to_its_end=handler.in_thread,
            ),
            # those in the pool, one that collects, and two in transit: the broker must
            # not wait for the acknowledgement of one batch before it sends the next
            prefetch=settings.batch.count * self._batches_held(handler),
            on_full=self._on_full,
            on_open=self._on_open,
            on_dead=self._completion.dead_on_arrival,
        )
        self._metrics.follow(consumer)
        return consumer

    def _batches_held(self, handler: Handler) -> int:
        """Return the maximum number of batches of a queue to hold; batches of pending
        points are large."""
        return 2 if handler.in_thread else self._dispatcher.pool_size + 3

    def _renew(self, consumer: QueueConsumer) -> None:
        """Give up a partition, and consume it again behind other consumers."""
        self._open(self._replace(consumer))

    def _replace(self, consumer: QueueConsumer) -> QueueConsumer:
        """Close a consumer, whose messages the broker requeues; return a new one."""
        self._dispatcher.take_back(consumer)
        consumer.close()
        source = consumer.source
        new = self._consumers[source] = self._new_consumer(consumer.queue, source)
        return new

    def _share(self) -> None:
        try:
            self._sharing.share(self._celery_consumer.connection)
        except amqp.ChannelError as error:
            self._sharing.restart()
            why = f"Cannot ask for the consumers of a partition: {error}"
            self.recovery.refusals.note(_PARTITIONS, why)
        else:
            self.recovery.refusals.over(_PARTITIONS)

    def _open(self, consumer: QueueConsumer) -> None:
        if self._consumers.get(consumer.source) is not consumer:
            return  # the connection was lost, or the queue is no longer wanted
        try:
            consumer.open(self._celery_consumer.connection, self.recovery.on_lost)
        except amqp.ChannelError as error:
            self.recovery.on_refused(consumer, error)
        self._flow.apply_to(consumer)
        self.recovery.opened(consumer)

    def _on_full(self, consumer: QueueConsumer, deliveries: list[Delivery]) -> None:
        self._dispatcher.add(PendingBatch(consumer, deliveries))
        if consumer.is_unfit:
            self._loop.soon(self._fit, consumer)

    def _on_open(self, consumer: QueueConsumer, buffer: Buffer) -> None:
        if consumer.is_new:
            self._loop.soon(self._fit, consumer, buffer)
        due = self._on_due, consumer, buffer, buffer.opened_at
        if seconds := consumer.gathering_seconds(time.monotonic()):
            self._loop.later(seconds, *due)
        else:  # together with other messages that have already arrived
            self._loop.soon(*due)

    def _fit(self, consumer: QueueConsumer, buffer: Buffer | None = None) -> None:
        """Adjust the prefetch of a consumer, once the size of its messages is known."""
        if buffer is not None and len(buffer):
            consumer.note_size(buffer)
        if consumer.alive and consumer.is_consuming and consumer.is_unfit:
            self._flow.apply_to(consumer)

    def _on_due(
        self, consumer: QueueConsumer, buffer: Buffer, opened_at: float
    ) -> None:
        if consumer.alive and len(buffer) and buffer.opened_at == opened_at:
            buffer.due = True
            self._dispatcher.pump()

    def _on_circuit(self, sink: str, reason: str) -> None:
        if reason:
            self._recorder.goes("sink", sink, reason)
        else:
            self._recorder.ended("sink", sink)

    def _on_circuits_changed(self) -> None:
        self._flow.apply()
        self._dispatcher.pump()

    def _on_finished(self, batch: FinishedBatch) -> None:
        self._completion.batch_ended(batch)
        if batch.result is not None and batch.consumer.handler.timer is not None:
            self._timers.wake()

    # --- failures of the broker -------------------------------------------

    def on_broker_failed(self) -> None:
        """Handle a failure of the broker on a message that it cannot deliver."""
        self._flow.broker_failed()

    def _tick(self) -> None:
        now = time.monotonic()
        for task_id in self._dispatcher.overdue(now):
            self._reconnect(f"the pool does not answer batch {task_id}")
        self.recovery.tick(now)
        self._sharing.leave()
        self._flush_events()
        self._reader.read()  # data that a synchronous call has read ahead

    def _flush_events(self) -> None:
        """Publish the events of the last second as one message."""
        if (events := self._celery_consumer.event_dispatcher) is not None:
            events.flush()

    def _reconnect(self, reason: str) -> None:
        logger.error("Reconnecting to the broker: %s", reason)
        raise amqp.RecoverableConnectionError(reason)


def _counts_of(name: str, breaker: Breaker, env: Environment) -> Counts:
    if not env.metrics_ports:
        return Counts()
    from meshtasks.worker.metrics import WorkerMetrics  # noqa: PLC0415 - large

    return WorkerMetrics(name, breaker, env)
