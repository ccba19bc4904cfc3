"""Messages of calls of commands and of their answers.

A call is a task message of Celery's protocol 2
(https://docs.celeryq.dev/en/stable/internals/protocol.html). It is built here, not by
Celery, so that it is published like all messages: persistent, mandatory, with confirms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import Topology
from meshtasks.text import clip

#: Longest text of the arguments that Flower shows.
_SHOWN_CHARS = 500
_NO_OTHER_TASKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

State = Literal["STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


class Answer(BaseModel):
    """A state of a call.

    Attributes:
        task_id: id of the call.
        state: Celery's name of the state.
        result: the command's return value, if it succeeded.
        error: why it failed, or is to be retried.
        at: time of this state, epoch seconds.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    state: State
    result: Any = None
    error: str | None = None
    at: float


def call_message(
    topology: Topology, name: str, arguments: Mapping[str, Any], call_id: str
) -> Outgoing:
    """The message that calls a command; answers go to the answers queue.

    Args:
        topology: gives exchange and routing key of the commands queue.
        name: name of the command.
        arguments: arguments of the command, JSON values.
        call_id: id of the call, a UUID.
    """
    way = topology.commands_binding
    return Outgoing(
        way.exchange,
        way.routing_key,
        json.dumps([[], arguments, _NO_OTHER_TASKS]).encode(),
        headers={
            "lang": "py",
            "task": name,
            "id": call_id,
            "root_id": call_id,
            "argsrepr": "()",
            "kwargsrepr": clip(repr(dict(arguments)), _SHOWN_CHARS),
            "retries": 0,
            "ignore_result": False,
        },
        properties={
            "content_encoding": "utf-8",
            "correlation_id": call_id,
            "reply_to": topology.answers_queue.name,
        },
    )


def answer_message(answer: Answer, queue: str) -> Outgoing:
    """The message that carries an answer to a queue."""
    return Outgoing(
        "",
        queue,
        answer.model_dump_json().encode(),
        timestamp=answer.at,
        properties={"correlation_id": answer.task_id},
    )
