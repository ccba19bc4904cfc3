"""What became of a command, told to whoever asked: Celery's result backend here.

A result backend is a store that anybody may ask later. The mesh has none: the answer
to a command is a message, confirmed, to the answers queue, and only for a caller that
named that queue in ``reply_to`` (docs/decisions/0007). Celery itself tells a backend of
every way a task can end, a killed process and a time limit included.
"""

from __future__ import annotations

import time
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.utils.log import get_logger
from typing_extensions import override

from meshtasks.amqp.calls import Answer, answer_message
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import PublishUnconfirmed, Unroutable
from meshtasks.flows.sinks import PUBLISHER
from meshtasks.outcome import REASON_LIMIT_CHARS
from meshtasks.worker.mesh import mesh_of
from meshtasks.worker.runner import thread_sinks

logger = get_logger(__name__)


class AnswersBackend(DisabledBackend):  # type: ignore[misc]  # celery ships no types
    """Publishes the states of commands; answers no questions."""

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

        A state that cannot be published is logged and given up: running the command
        again would help nobody.
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
            text = "Cannot tell that command %s is %s: %s"
            logger.error(text, task_id, state, error)  # noqa: TRY400 - says it all


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:REASON_LIMIT_CHARS]
