"""Commands as Celery tasks, consumed from the commands queue one by one, and their
states, which are published to the callers.

Celery trusts what it consumes: a message without an id, or with a body of the wrong
form, raises in its event loop. This ends the worker, and then the next one. So messages
are checked before Celery processes them. A message that is not a call of a command is
rejected, so that the broker dead-letters it.

A result backend is a store that can be queried later. The mesh has none: each state of
a command is a message, published with a confirm to the answers queue, and only for a
caller that named this queue in ``reply_to`` (docs/decisions/0007). Celery notifies its
backend of every way in which a task can end, including a killed process and a time
limit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

from celery import Celery, states
from celery.backends.base import DisabledBackend
from celery.utils.log import get_logger
from typing_extensions import override

from meshtasks.amqp.calls import Answer, answer_message
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import PublishUnconfirmed, SchemaMismatch, Transient, Unroutable
from meshtasks.flows.contract import Command
from meshtasks.flows.sinks import PUBLISHER
from meshtasks.outcome import REASON_LIMIT_CHARS
from meshtasks.text import clip
from meshtasks.worker.mesh import mesh_of
from meshtasks.worker.runner import thread_sinks

logger = get_logger(__name__)


def register_commands(
    app: Celery, settings: Settings, commands: Mapping[str, Command[Any]]
) -> None:
    """Register a Celery task for each command, with the name of the command."""
    for command in commands.values():
        _register(app, settings, command)


def _register(app: Celery, settings: Settings, command: Command[Any]) -> None:
    def run(task: Any, *positional: Any, **arguments: Any) -> dict[str, Any]:
        if positional:
            message = f"{command.name} takes its arguments by name, in kwargs"
            raise SchemaMismatch(message)
        return command.call(arguments, thread_sinks(settings), task.request.id)

    limits = settings.read(QUEUES).for_queue(settings.read(TOPOLOGY).commands_queue)
    run.__doc__ = command.run.__doc__
    app.task(
        run,
        name=command.name,
        bind=True,
        shared=False,
        typing=False,  # a wrong argument fails the task, with the reason
        acks_late=True,
        reject_on_worker_lost=True,  # delivered again, up to the queue's delivery limit
        ignore_result=False,
        track_started=True,
        autoretry_for=(Transient,),
        max_retries=limits.retry.max_retries,
        retry_backoff=limits.retry.retry_backoff,
        retry_backoff_max=limits.retry.retry_backoff_max,
        retry_jitter=limits.retry.retry_jitter,
        time_limit=limits.time_limit_seconds,
    )


_TEXTS = (
    *("eta", "expires", "root_id", "parent_id"),
    *("argsrepr", "kwargsrepr", "shadow", "origin"),
)
_NOT_TAKEN = ("group", "stamps", "stamped_headers")


def fault_of(
    headers: object, properties: Mapping[str, Any], body: object, names: Collection[str]
) -> str | None:
    """Return why a message is not a call of a command; None if it is one.

    The form is that of Celery's message protocol 2
    (https://docs.celeryq.dev/en/stable/internals/protocol.html), in JSON.
    """
    if not isinstance(headers, Mapping):
        return "it has no headers"
    faults = chain(
        _header_faults(headers, names),
        _content_faults(properties.get("content_type"), body),
    )
    return next(faults, None)


def _header_faults(headers: Mapping[str, Any], names: Collection[str]) -> Iterator[str]:
    task, call_id = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or task not in names:
        yield f"{clip(str(task))!r} is no command"
    if not isinstance(call_id, str) or not call_id:
        yield "it has no id"
    for name in _TEXTS:
        if not isinstance(headers.get(name), str | None):
            yield f"its header {name} is no text"
    if not isinstance(headers.get("retries"), int | None):
        yield "its header retries is no number"
    match headers.get("timelimit"):
        case None | [int() | float() | None, int() | float() | None]:
            pass
        case _:
            yield "its header timelimit is not two numbers"
    for name in _NOT_TAKEN:
        if headers.get(name):
            yield f"it has a header {name}, which commands do not take"


def _content_faults(content_type: object, body: object) -> Iterator[str]:
    if content_type != "application/json":
        yield f"its content type is {content_type!r}, not application/json"
    if isinstance(body, bytes | bytearray | memoryview):
        body = bytes(body)
    elif not isinstance(body, str):
        yield "it has no body"
        return
    try:
        parts = json.loads(body)
    except (ValueError, RecursionError) as error:
        yield f"its body is not JSON: {error}"
        return
    match parts:
        case [list(), dict(), dict() as others]:
            if called := [name for name, signature in others.items() if signature]:
                yield f"it calls other tasks ({', '.join(called)})"
        case _:
            yield "its body is not [args, kwargs, embed]"


class AnswersBackend(DisabledBackend):  # type: ignore[misc]  # celery ships no types
    """Publishes the states of commands; cannot be queried."""

    @override
    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> None:
        """Publish a state to the caller.

        A state that cannot be published is logged and dropped, because it would not
        help to run the command again.
        """
        settings = mesh_of(self.app).settings
        queue = settings.read(TOPOLOGY).answers_queue.name
        if getattr(request, "reply_to", None) != queue:
            return
        answer = Answer(
            task_id=task_id,
            state=state,
            result=result if state == states.SUCCESS else None,
            error=_error(result) if isinstance(result, BaseException) else None,
            at=time.time(),
        )
        try:
            thread_sinks(settings)[PUBLISHER].publish([answer_message(answer, queue)])
        except (PublishUnconfirmed, Unroutable) as error:
            text = "Cannot publish that command %s is %s: %s"
            logger.error(text, task_id, state, error)  # noqa: TRY400 - says it all


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:REASON_LIMIT_CHARS]
