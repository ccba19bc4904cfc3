"""Celery's consumer, with the steps of the mesh in its blueprint."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import amqp
from amqp.exceptions import AccessRefused, NotAllowed
from celery.exceptions import CPendingDeprecationWarning, WorkerShutdown
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from typing_extensions import override

from meshtasks.amqp.connecting import refusal
from meshtasks.worker.broker import REFUSED_SECONDS, end_worker
from meshtasks.worker.celery_internals import RemoteControl
from meshtasks.worker.commands import fault_of
from meshtasks.worker.consumer_step import ConsumerStep
from meshtasks.worker.mesh import mesh_of

logger = get_logger(__name__)

#: Celery's steps that are left out or replaced. Delayed delivery would declare 28
#: exchanges and queues for quorum queues, and bind every domain queue to them. Gossip
#: and mingle trust any account with the right to publish events: a single `{}` ended
#: every worker that received it.
_NOT_CELERYS = ("DelayedDelivery", "Gossip", "Mingle", "Control")
#: Maximum wait between two attempts to connect.
_CONNECT_EVERY_SECONDS = 30.0
#: While the broker is unavailable, the failed attempts 1, 2, 4, 8 … are logged, and
#: then one in this number, which is one per hour.
_LOG_EVERY = 120
#: Maximum wait for each response of the broker when connections are closed.
_FAREWELL_SECONDS = 1.0


class MeshConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Consumes domain queues in batches, and commands as Celery does."""

    consumer_step: ConsumerStep
    first_connection_attempt: bool

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps without some of them, and the steps of the mesh."""

        default_steps = (
            *(
                step
                for step in Consumer.Blueprint.default_steps
                if not step.endswith(_NOT_CELERYS)
            ),
            RemoteControl,
            ConsumerStep,
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs.get("worker_options") or {}
        # The step that consumes commands requires Mingle.
        kwargs["worker_options"] = {**options, "without_mingle": True}
        kwargs["initial_prefetch_count"] = commands_at_once(
            kwargs["app"], kwargs["controller"]
        )
        super().__init__(*args, **kwargs)

    @override
    def start(self) -> None:
        """Consume until the worker is to stop. On a warm shutdown, first finish what is
        held here: once Celery's own shutdown begins, the pool accepts no more work."""
        self.consumer_step.serve_metrics()  # before the first attempt to connect
        try:
            super().start()
        except WorkerShutdown:
            self.consumer_step.drain()
            raise

    @override
    def ensure_connected(self, conn: Any) -> Any:
        """Connect, and repeat this while the broker is unavailable.

        If the broker refuses the account or the virtual host at the start, another
        attempt would not help. Later, the broker may be one that is being set up again.

        Raises:
            WorkerShutdown: the broker refuses at the start, or the worker is to stop.
        """
        away = _Away(conn.as_uri())
        while True:
            try:
                conn.ensure_connection(
                    away.failed,
                    max_retries=None,
                    interval_max=_CONNECT_EVERY_SECONDS,
                    callback=maybe_shutdown,
                )
            except (AccessRefused, NotAllowed) as error:
                refused = refusal(conn, error)
                if self.first_connection_attempt:
                    end_worker(f"meshtasks: {refused}", error)
                away.failed(refused, _CONNECT_EVERY_SECONDS)
                conn.close()
                _wait(_CONNECT_EVERY_SECONDS)
                continue
            away.over()
            self.first_connection_attempt = False
            return conn

    @override
    def connect(self) -> Any:
        """Connect, and declare the topology before Celery's step consumes commands."""
        self.connection = super().connect()
        self.consumer_step.recovery.declare(self.connection)
        return self.connection

    @override
    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Handle a lost connection: reconnect, to another node if possible. If the
        broker refuses what Celery's steps need, wait before.

        Raises:
            WorkerShutdown: the broker refuses it at the start, or the worker is to
                stop.
        """
        is_refused = isinstance(exc, amqp.ChannelError)
        if is_refused:
            self.consumer_step.recovery.refused(exc)
        else:
            self.connection.distrust()
        if isinstance(exc, amqp.InternalError):
            self.consumer_step.on_broker_failed()
        with warnings.catch_warnings():  # about a setting that is as it should be
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        if is_refused:
            _wait(REFUSED_SECONDS)

    @override
    def shutdown(self) -> None:
        """Close the connections. A broker under an alarm does not respond to this."""
        events = self.event_dispatcher.connection if self.event_dispatcher else None
        for connection in (self.connection, events):
            if connection is not None and connection.connected:
                connection.connection.sock.settimeout(_FAREWELL_SECONDS)
        super().shutdown()

    @override
    def on_send_event_buffered(self) -> None:
        """Do nothing: the consumer step publishes what is buffered once a second, and
        not at the end of every batch."""

    @override
    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decompressed; Celery would acknowledge
        it."""
        logger.error("A message that is not a command is dead-lettered: %s", exc)
        message.reject_log_error(logger, self.connection_errors)

    @override
    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return the function that is called with each message of commands."""
        receive = super().create_task_handler(*args, **kwargs)
        commands = mesh_of(self.app).commands

        def receive_call(message: Any) -> None:
            fault = fault_of(
                message.headers, message.properties, message.body, commands
            )
            if fault is None:
                receive(message)
            else:
                logger.error(
                    "A message that is not a command is dead-lettered: %s", fault
                )
                message.reject_log_error(logger, self.connection_errors)

        return receive_call

    @override
    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """Consume another queue, as requested by remote control; also called after
        every reconnect."""
        if self.consumer_step.handles(queue):
            queues = self.app.amqp.queues
            queues.select_add(queues[queue])
            self.consumer_step.add(queue)
        else:
            super().add_task_queue(queue, *args, **kwargs)

    @override
    def cancel_task_queue(self, queue: str) -> None:
        """Stop consuming a queue, as requested by remote control."""
        if self.consumer_step.handles(queue):
            self.consumer_step.remove(queue)
        super().cancel_task_queue(queue)


def commands_at_once(app: Any, controller: Any) -> int:
    """Return how many commands a worker takes from the broker at once.

    A command may wait two minutes for a model. So if the worker also consumes domain
    queues, one process of the pool is kept free of commands, if there are several. With
    one process, a batch waits for one command at most.
    """
    processes = int(controller.concurrency)
    alone = not set(app.amqp.queues.consume_from) & set(mesh_of(app).handlers)
    return processes if alone else max(1, processes - 1)


class _Away:
    """Logs that the broker is unavailable, less and less often.

    Args:
        broker: URL of the broker, without a password.
    """

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._attempts = 0
        self._since = time.monotonic()

    def failed(self, error: Exception, again_in_seconds: float) -> None:
        """Count a failed attempt, and log it if it is due."""
        self._attempts += 1
        power_of_two = self._attempts & (self._attempts - 1) == 0
        if (power_of_two and self._attempts < _LOG_EVERY) or not (
            self._attempts % _LOG_EVERY
        ):
            logger.error(
                "Cannot connect to %s: %s. Trying again in %d s, and for as long as it "
                "takes (attempt %d)",
                self._broker,
                error,
                again_in_seconds,
                self._attempts,
            )

    def over(self) -> None:
        """Log that the broker is available again."""
        if self._attempts:
            away_seconds = time.monotonic() - self._since
            logger.warning("Connected again after %.0f s", away_seconds)


def _wait(seconds: float) -> None:
    """Wait, unless the worker is to stop.

    Raises:
        WorkerShutdown: the worker is to stop.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        maybe_shutdown()
        time.sleep(0.5)
