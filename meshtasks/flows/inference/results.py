"""Results of models: the record, and the messages that carry it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, NamedTuple, Required

from pydantic import ConfigDict, Field, with_config
from pydantic_core import to_json
from typing_extensions import TypedDict

from meshtasks.errors import SinkRejected
from meshtasks.flows.excerpts import rfc3339
from meshtasks.flows.inference.requests import ModelName, Origin, RequestId, Version
from meshtasks.flows.inference.stacking import Inference
from meshtasks.flows.inference.tensors import JsonTensors, json_tensor
from meshtasks.records.models import Number

AI_EXCHANGE = "ai"
#: The longest message id that AMQP can carry.
_ID_LIMIT_BYTES = 255


@with_config(ConfigDict(extra="allow"))
class InferenceResult(TypedDict, total=False):
    """What a model made of a request; other fields are those of the request.

    Attributes:
        request_id: of the request.
        model: its name.
        version: of the model that answered.
        outputs: its outputs; a result has these or ``error``.
        latency_ms: how long the model took to answer.
        error: why there are no outputs.
        timestamp: of what the inputs were about, or of the request (see
            :mod:`meshtasks.records.timestamps`).
    """

    request_id: Required[RequestId]
    model: Required[ModelName]
    version: Version | None
    outputs: JsonTensors | None
    latency_ms: Annotated[Number, Field(ge=0)] | None
    error: str | None
    timestamp: Any


class ResultTooLargeError(SinkRejected):
    """The result is larger than the queue of results takes."""


class ResultMessage(NamedTuple):
    """A message to publish; the fields of
    :class:`~meshtasks.amqp.publisher.Outgoing`, in its order."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    timestamp: float


def result_message(
    origin: Origin, inference: Inference, limit_bytes: int
) -> ResultMessage:
    """The message that brings an answer.

    The same request gives a message of the same id again.

    Args:
        origin: whom it is for.
        inference: the answer.
        limit_bytes: the largest body that the queue of results takes.

    Raises:
        SinkRejected: the answer cannot be a message.
    """
    body = _body(
        origin,
        version=inference.version,
        outputs=[json_tensor(output) for output in inference.outputs],
        latency_ms=round(inference.latency_ms, 3),
    )
    if len(body) > limit_bytes:
        message = (
            f"the result has {len(body):,} bytes; the queue of results takes "
            f"{limit_bytes:,} (max_message_bytes)"
        )
        raise ResultTooLargeError(message)
    return _message(origin, "result", body)


def error_message(origin: Origin, reason: str, limit_bytes: int) -> ResultMessage:
    """The message that says why there is no answer; a short one, at worst without
    the requester's own fields. Takes what :func:`result_message` takes."""
    body = _body(origin, error=reason)
    if len(body) > limit_bytes:
        body = _body(origin._replace(attributes={}), error=reason)
    return _message(origin, "error", body)


def _body(origin: Origin, **fields: Any) -> bytes:
    return to_json(
        {
            "request_id": origin.request_id,
            "model": origin.model,
            **fields,
            "timestamp": rfc3339(origin.time),
            **origin.attributes,
        }
    )


def _message(origin: Origin, kind: str, body: bytes) -> ResultMessage:
    name = f"{origin.model}/{origin.request_id}/{kind}"
    if len(name.encode()) > _ID_LIMIT_BYTES:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        name = f"{origin.model}/{digest}/{kind}"
    routing_key = f"ai.result.{origin.model}"
    return ResultMessage(AI_EXCHANGE, routing_key, body, name, origin.time)
