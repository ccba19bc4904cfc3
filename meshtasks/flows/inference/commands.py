"""The command ``infer``. A rerun is harmless: models have no memory, and the request's
message has the id of the call."""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import from_json, to_json

from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.tap import tapped
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import NoAnswer, SinkRejected
from meshtasks.flows.command import Arguments, Command
from meshtasks.flows.inference.messages import (
    AI_EXCHANGE,
    ModelName,
    RequestId,
    Version,
)
from meshtasks.flows.inference.tensors import JsonTensor
from meshtasks.flows.sinks import PUBLISHER, Sinks

#: Longest wait of ``infer``; it occupies a process of the worker meanwhile.
LONGEST_WAIT_SECONDS = 120.0


class Infer(Arguments):
    """Ask a model.

    Attributes:
        model: its name.
        inputs: its inputs.
        request_id: comes back with the result; the id of the call if not given.
        version: of the model; the server's choice if not given.
        wait_seconds: how long to wait for the result; not at all if not given.
    """

    model: ModelName
    inputs: Annotated[list[JsonTensor], Field(min_length=1)]
    request_id: RequestId | None = None
    version: Version | None = None
    wait_seconds: Annotated[float, Field(gt=0, le=LONGEST_WAIT_SECONDS)] | None = None


def infer(arguments: Infer, sinks: Sinks, call_id: str) -> dict[str, Any]:
    """Publish a request to a model, and wait for its result if told to.

    Raises:
        SinkRejected: the model's result is an error.
        NoAnswer: there was no result in time; the request goes on.
        Transient: the broker is unavailable.
    """
    request_id = arguments.request_id or call_id
    record = arguments.model_dump(exclude={"wait_seconds"}, exclude_none=True)
    request = Outgoing(
        AI_EXCHANGE,
        f"ai.model.{arguments.model}",
        to_json({**record, "request_id": request_id}),
        call_id,
        timestamp=time.time(),
    )
    if arguments.wait_seconds is None:
        sinks[PUBLISHER].publish([request])
        return {"request_id": request_id}
    results = f"ai.result.{arguments.model}"
    settings = sinks.settings
    with tapped(
        settings.env.amqp_url, settings.read(TOPOLOGY), results, [AI_EXCHANGE]
    ) as answers:
        sinks[PUBLISHER].publish([request])
        answer = answers.next(
            arguments.wait_seconds,
            lambda message: _is_result(message.body, request_id),
        )
    if answer is None:
        message = (
            f"model {arguments.model} gave no result within "
            f"{arguments.wait_seconds:g} s; the request goes on, and its result is "
            f"published to exchange {AI_EXCHANGE} as {results}"
        )
        raise NoAnswer(message)
    result: dict[str, Any] = from_json(answer.body)
    if (reason := result.get("error")) is not None:
        raise SinkRejected(str(reason))
    return result


def _is_result(body: bytes, request_id: str) -> bool:
    try:
        result = from_json(body)
    except ValueError:
        return False
    return isinstance(result, dict) and result.get("request_id") == request_id


COMMANDS: tuple[Command[Any], ...] = (
    Command("infer", Infer, infer, frozenset({"trigger"})),
)
