"""A batch as one Celery request.

It shows in events, in Flower and in ``inspect active`` like any task; only its
acknowledgement is not Celery's, because it stands for many messages.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import ref

from billiard.einfo import ExceptionInfo
from celery import current_app
from celery.worker.request import Request
from celery.worker.state import task_ready
from typing_extensions import override

from meshtasks.amqp.delivery import Wire
from meshtasks.outcome import Dead, Retry
from meshtasks.worker.results import BatchResult

#: ``None`` as result: the pool process was lost, or the task itself failed.
OnResult = Callable[["BatchRequest", BatchResult | None, str], None]


class BatchRequest(Request):  # type: ignore[misc]  # celery ships no types
    """One batch of messages of one queue, to be run in the pool.

    Args:
        celery_consumer: the worker's consumer.
        queue: the queue, whose name is the task's.
        wires: the messages.
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
        time_limit_seconds: float,
        on_result: OnResult,
    ) -> None:
        self._wires = wires
        self._on_result = on_result
        self._time_limit_seconds = time_limit_seconds
        self._finished = False
        task_id = str(uuid.uuid4())
        size_bytes = sum(len(wire[0]) for wire in wires)
        headers = {
            "id": task_id,
            "root_id": task_id,
            "task": queue,
            "lang": "py",
            "argsrepr": f"({len(wires)} messages, {size_bytes} bytes)",
            "kwargsrepr": f"{{'queue': '{queue}'}}",
        }
        message = SimpleNamespace(
            delivery_info={"exchange": "", "routing_key": queue, "redelivered": False},
            properties={},
        )
        super().__init__(
            message,
            app=celery_consumer.app,
            hostname=celery_consumer.hostname,
            eventer=celery_consumer.event_dispatcher,
            task=celery_consumer.app.tasks[queue],
            body=((), {}, {}),
            headers=headers,
            decoded=True,
        )

    def announce(self) -> None:
        """Send ``task-received``, which Celery's own strategy would send."""
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
        """Send the batch to the pool."""
        result = pool.apply_async(
            run_batch,
            args=(self.name, self.id, self.request_dict, self._wires),
            accept_callback=self.on_accepted,
            timeout_callback=self.on_timeout,
            callback=self.on_success,
            error_callback=self.on_failure,
            timeout=self._time_limit_seconds,
            correlation_id=self.id,
        )
        self._apply_result = ref(result) if result is not None else None
        return result

    @override
    def acknowledge(self) -> None:
        """Nothing: the messages are acknowledged when they are resolved."""

    @override
    def reject(self, requeue: bool = False) -> None:
        """Nothing: as for :meth:`acknowledge`."""

    @override
    def on_timeout(self, soft: bool, timeout: float) -> None:
        """The batch ran too long; the pool kills its process."""
        self._lost(f"the batch ran longer than {timeout:g} s (time_limit_seconds)")

    @override
    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        """The pool process answered."""
        if isinstance(failed__retval__runtime, ExceptionInfo):
            self.on_failure(failed__retval__runtime)
            return
        failed, result, runtime = failed__retval__runtime
        if failed:
            self.on_failure(result)
            return
        if self._finished:
            return
        self._finished = True
        task_ready(self, successful=True)
        self._announce_end(result, runtime)
        self._on_result(self, result, "")

    def _announce_end(self, result: BatchResult, runtime: float) -> None:
        """Tell monitors: a batch with a dead letter has failed, one that all goes back
        to wait is retried, and all else has succeeded."""
        said = {"result": repr(result), "runtime": runtime}
        worst = _worst_of(result)
        if worst is None:
            self.send_event("task-succeeded", **said)
            return
        kind = "task-failed" if isinstance(worst, Dead) else "task-retried"
        reason = f"{worst.error_type}: {worst.reason} ({result!r})"
        self.send_event(kind, exception=reason, traceback=worst.traceback, **said)

    @override
    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,
        return_ok: bool = False,
    ) -> None:
        """The pool process died, or the task raised."""
        self._lost(f"{type(exc_info.exception).__name__}: {exc_info.exception}")

    def _lost(self, reason: str) -> None:
        if self._finished:
            return
        self._finished = True
        task_ready(self)
        self.send_event("task-failed", exception=reason, traceback="")
        self._on_result(self, None, reason)


def run_batch(
    name: str, task_id: str, context: dict[str, Any], wires: list[Wire]
) -> tuple[int, Any, float]:
    """Run the batch under Celery's tracer (signals, logging, request stack).

    Celery's own pool function returns only the ``repr`` of a result; this
    returns the result.
    """
    trace = current_app.tasks[name].__trace__
    result, fault, runtime, _text = trace(task_id, (wires,), {}, context)
    return (1 if fault else 0), result, runtime


def _worst_of(result: BatchResult) -> Retry | Dead | None:
    """The first dead letter; else the first retry, if all messages go back to wait."""
    outcomes = [failure.outcome for failure in result.failures]
    if result.dead:
        return next(each for each in outcomes if isinstance(each, Dead))
    failed = {failure.position for failure in result.failures}
    return outcomes[0] if outcomes and len(failed) == result.messages else None
