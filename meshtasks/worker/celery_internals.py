"""Undocumented parts of Celery, billiard and kombu's event loop that the worker uses.

A copied or overridden method may stop working with any release, without an error.
``tests/unit/test_celery_internals.py`` compares each with the version for which it was
written, and names what to check. Methods of Celery's consumer are overridden in
``consumer.py``, and methods of its worker program in ``program.py``.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from copy import copy
from types import SimpleNamespace
from typing import Any
from weakref import ref

import amqp
from amqp.exceptions import ResourceLocked
from billiard.einfo import ExceptionInfo
from celery import current_app
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Tasks
from celery.worker.consumer.control import Control
from celery.worker.request import Request
from kombu.exceptions import InconsistencyError
from typing_extensions import override

from meshtasks.amqp.receiving import ReceivingConnection
from meshtasks.errors import text_of

logger = get_logger(__name__)

#: Maximum number of messages read at a time, so that results of the pool and timers do
#: not wait for more than a millisecond.
_BURST = 100


class EventLoop:
    """kombu's event loop, with callbacks that need not wait for a socket.

    kombu's hub runs callbacks of ``call_soon`` at the beginning of a turn, and then
    waits for its sockets, for up to a second. Other threads wake it, but a callback
    that is added in its own thread has to wait (kombu 5.7). With the solo pool, whose
    batches run in that thread, every batch had to.
    """

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self.later: Callable[..., object] = hub.call_later
        self.every: Callable[..., object] = hub.call_repeatedly
        self._wakened, self._waking = socket.socketpair()
        self._wakened.settimeout(0)
        self._waking.settimeout(0)

    def attach(self) -> None:
        """Watch the socket that wakes the hub. A reset hub has forgotten it."""
        self._hub.add_reader(self._wakened, self._on_wakened)

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Run a callback at the next turn; may be called from any thread."""
        self._hub.call_soon(callback, *args)
        with suppress(OSError):  # full, so that the hub wakes in any case; or closed
            self._waking.send(b"\0")

    def replace_reader(
        self, connection: ReceivingConnection, read: Callable[[], None]
    ) -> None:
        """Read from a connection with this function instead of kombu's."""
        self._hub.remove_reader(connection.sock)
        self._hub.add_reader(connection.sock, read)

    def turn(self) -> None:
        """Run one turn of the loop."""
        self._hub.run_once()

    def close(self) -> None:
        """Close the sockets."""
        self._hub.remove_reader(self._wakened)
        self._wakened.close()
        self._waking.close()

    def _on_wakened(self) -> None:
        with suppress(BlockingIOError):
            self._wakened.recv(4096)


class BurstReader:
    """Reads in bursts what has arrived from the broker.

    kombu's reader reads one message per turn of the event loop. Compared with a bare
    py-amqp consumer that only acknowledges, the worker without rules and archive
    (docs/benchmarks.md) then reached 0.64 of its rate, and 0.87 with bursts and reading
    ahead (medians of two and of four rounds, side by side).

    Args:
        on_channel_error: called with the reason for which the broker closed a channel;
            py-amqp has opened it again.
    """

    def __init__(
        self,
        connection: ReceivingConnection,
        loop: EventLoop,
        on_channel_error: Callable[[amqp.ChannelError], None],
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._on_channel_error = on_channel_error
        loop.replace_reader(connection, self.read)
        loop.soon(self.read)

    def read(self) -> None:
        """Process the frames that have arrived, up to one burst.

        Raises:
            amqp.RecoverableConnectionError: the connection is lost.
        """
        connection = self._connection
        if not connection.connected:
            reason = "the socket was disconnected"
            raise amqp.RecoverableConnectionError(reason)
        try:
            may_be_more = connection.read_arrived(_BURST)
        except amqp.ChannelError as error:
            may_be_more = True
            self._on_channel_error(error)
        if may_be_more:
            # the socket does not become readable for data that was read ahead
            self._loop.soon(self.read)


class RemoteControl(Control):  # type: ignore[misc]  # celery ships no types
    """Celery's step for remote control, which uses another queue if its own is taken.

    Each worker has a queue for remote control, named after the worker and exclusive to
    its connection. The broker refuses it to a second worker of that name. That worker
    may have been started without a name of its own, or it replaces a frozen process,
    whose connection the broker keeps for a minute or two. All such queues are bound to
    one fanout exchange, so their names do not matter.
    """

    requires = (Tasks,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.start = self._start

    def _start(self, consumer: Any) -> None:
        try:
            self.box.start(consumer)
        except (InconsistencyError, ResourceLocked):
            logger.warning(
                "Another worker is connected as %s, or the broker has not noticed yet "
                "that it is gone. This worker goes on in any case; if there are two, "
                "start each with a name of its own, such as -n two@%%h",
                consumer.hostname,
            )
            node = self.box.node
            node.mailbox = copy(node.mailbox)
            of_host = node.mailbox.get_queue
            node.mailbox.get_queue = lambda host: of_host(f"{host}.{uuid.uuid4()}")
            self.box.start(consumer)


class PoolRequest(Request):  # type: ignore[misc]  # celery ships no types
    """A request without a message, which runs in the pool under Celery's tracer.

    It is shown in events, in Flower and in ``inspect active`` like any task. It
    acknowledges nothing.

    Args:
        shown: positional and keyword arguments as monitors show them.
        time_limit_seconds: a request that runs longer is killed.
    """

    def __init__(
        self,
        consumer: Any,
        task: str,
        arguments: tuple[Any, ...],
        shown: tuple[str, str],
        time_limit_seconds: float,
    ) -> None:
        self._arguments = arguments
        self._time_limit_seconds = time_limit_seconds
        self._ended = False
        task_id = str(uuid.uuid4())
        argsrepr, kwargsrepr = shown
        headers = {"id": task_id, "root_id": task_id, "task": task, "lang": "py"}
        delivery_info = {"exchange": "", "routing_key": task, "redelivered": False}
        super().__init__(
            SimpleNamespace(delivery_info=delivery_info, properties={}),
            app=consumer.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=consumer.app.tasks[task],
            body=((), {}, {}),
            headers={**headers, "argsrepr": argsrepr, "kwargsrepr": kwargsrepr},
            decoded=True,
        )

    def succeeded(self, result: Any, runtime: float) -> None:
        """Process the task's result; called in the pool's thread if it has threads."""
        raise NotImplementedError

    def lost(self, reason: str) -> None:
        """Process a loss: the pool process died, or the task raised."""
        raise NotImplementedError

    def start(self, consumer: Any) -> None:
        """Give the request to the pool, and send the events of Celery's strategy."""
        self._tell_received()
        state.task_reserved(self)
        consumer.on_task_request(self)

    def _tell_received(self) -> None:
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.id,
            parent_id=None,
            retries=0,
            eta=None,
            expires=None,
        )

    @override
    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Send the request to the pool."""
        result = pool.apply_async(
            run_traced,
            args=(self.name, self.id, self.request_dict, self._arguments),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            timeout=self._time_limit_seconds,
            correlation_id=self.id,
        )
        self._apply_result = ref(result) if result is not None else None
        return result

    def start_in(self, thread: Executor) -> None:
        """Run the request in a thread of this process, with the same events."""
        self._tell_received()
        state.task_reserved(self)
        self.on_accepted(os.getpid(), time.time())
        trace = self.app.tasks[self.name].__trace__
        running = thread.submit(trace, self.id, self._arguments, {}, self.request_dict)
        running.add_done_callback(self._on_ran)

    def _on_ran(self, running: Future[Any]) -> None:
        if (error := running.exception()) is not None:
            self._fail(f"{type(error).__name__}: {error}")
            return
        result, fault, runtime, _text = running.result()
        self.on_success(((1 if fault else 0), result, runtime))

    @override
    def acknowledge(self) -> None:
        """Do nothing: there is no message."""

    @override
    def reject(self, requeue: bool = False) -> None:
        """Do nothing: there is no message."""

    @override
    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report that the request ran too long; the pool kills its process."""
        self._fail(f"the batch ran longer than {timeout:g} s (time_limit_seconds)")

    @override
    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        """Report the result of the pool process."""
        if isinstance(failed__retval__runtime, ExceptionInfo):
            self.on_failure(failed__retval__runtime)
            return
        failed, result, runtime = failed__retval__runtime
        if failed:
            self.on_failure(result)
        elif not self._ended:
            self._ended = True
            state.task_ready(self, successful=True)
            self.succeeded(result, runtime)

    @override
    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,
        return_ok: bool = False,
    ) -> None:
        """Report that the pool process died, or the task raised."""
        # billiard wraps the error with a traceback of its own
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        self._fail(f"{type(error).__name__}: {text_of(error)}")

    def _fail(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            state.task_ready(self)
            self.send_event("task-failed", exception=reason, traceback="")
            self.lost(reason)


def run_traced(
    name: str, task_id: str, context: dict[str, Any], arguments: tuple[Any, ...]
) -> tuple[int, Any, float]:
    """Run a task in the pool under Celery's tracer (signals, logging, request stack).

    Celery's own function for the pool returns only the ``repr`` of a result; this
    function returns the result.
    """
    trace = current_app.tasks[name].__trace__
    result, fault, runtime, _text = trace(task_id, arguments, {}, context)
    return (1 if fault else 0), result, runtime


def pool_size(consumer: Any) -> int:
    """Return the number of processes or threads of the pool of Celery's consumer."""
    return int(consumer.pool.num_processes)


def forks(consumer: Any) -> bool:
    """Whether the pool of Celery's consumer is a pool of processes."""
    return bool(consumer.pool.uses_semaphore)
