"""Requests to models and their results, as records and messages. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Required

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import to_json
from typing_extensions import TypedDict

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, SchemaMismatch, SinkRejected
from meshtasks.flows.inference.tensors import (
    Inference,
    JsonTensor,
    JsonTensors,
    json_tensor,
)
from meshtasks.records.envelope import Envelope, record_id
from meshtasks.records.models import Number, explain
from meshtasks.records.timestamps import moment_of, rfc3339
from meshtasks.text import without_surrogates

AI_EXCHANGE = "ai"
#: The longest message id that AMQP can carry.
_ID_LIMIT_BYTES = 255

#: Name of a model: a directory on the server, and a part of URLs and routing keys.
ModelName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, strict=True)
]


Version = Annotated[
    str,
    BeforeValidator(lambda given: str(given) if type(given) is int else given),
    Field(pattern="^[1-9][0-9]{0,9}$", strict=True),
]
RequestId = Annotated[str, Field(min_length=1, max_length=255, strict=True)]


@with_config(ConfigDict(extra="allow"))
class InferenceRequest(TypedDict, total=False):
    """A request to a model; other fields are returned with the result.

    Attributes:
        model: name of the model on Triton.
        inputs: at least one tensor.
        request_id: returned with the result; default: the message's id.
        version: of the model, a whole number; default: the server's choice.
        timestamp: time of the inputs; like that of a reading.
    """

    model: Required[ModelName]
    inputs: Required[Annotated[JsonTensors, Field(min_length=1)]]
    request_id: RequestId | None
    version: Version | None
    timestamp: Any


@with_config(ConfigDict(extra="allow"))
class InferenceResult(TypedDict, total=False):
    """The result of a request to a model; other fields are those of the request.

    Attributes:
        request_id: id of the request.
        model: name of the model.
        version: version of the model that ran.
        outputs: tensors; a result has these or ``error``.
        latency_ms: time that the model took, in milliseconds.
        error: reason why there are no outputs.
        timestamp: time of the inputs, else of the request; like that of a reading.
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


_REQUEST: TypeAdapter[InferenceRequest] = TypeAdapter(InferenceRequest)
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)
_REQUEST_ID: TypeAdapter[str] = TypeAdapter(RequestId)

#: Fields with a meaning in the mesh; all others are the requester's own.
_OURS = frozenset(
    {
        *("request_id", "model", "version", "inputs", "timestamp"),
        *("outputs", "latency_ms", "error"),
    }
)


class RequestOrigin(NamedTuple):
    """The data of a request that its result repeats.

    Attributes:
        time: time of the request's data, or else of the request; epoch seconds.
        attributes: the requester's own fields.
    """

    model: str
    request_id: str
    time: float
    attributes: Mapping[str, Any]


class ModelRequest(NamedTuple):
    """A valid request; its model may still reject it.

    Attributes:
        version: version of the model; empty for the server's choice.
        single: whether to send it alone, not stacked with others.
    """

    origin: RequestOrigin
    version: str
    inputs: list[JsonTensor]
    single: bool = False


def request_of(record: dict[str, Any], envelope: Envelope) -> ModelRequest:
    """Return the request in a record.

    Raises:
        InvalidMessage: the record is not a valid request; the message has the reason.
    """
    try:
        valid = _REQUEST.validate_python(record)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error
    origin = RequestOrigin(
        valid["model"],
        _request_id(record, envelope),
        moment_of(valid.get("timestamp"), envelope),
        _attributes(record),
    )
    return ModelRequest(origin, valid.get("version") or "", valid["inputs"])


def origin_of(record: dict[str, Any], envelope: Envelope) -> RequestOrigin | None:
    """Return the origin for the result of a record that is not a valid request.

    If the record names no model, the model of the routing key (``ai.model.<model>``)
    is used. None if there is neither, because the result would have no routing key.
    """
    for model in (record.get("model"), envelope.key_tail):
        if _is_valid(_MODEL_NAME, model):
            break
    else:
        return None
    try:
        time = moment_of(record.get("timestamp"), envelope)
    except InvalidMessage:
        time = envelope.received_at
    request_id = _request_id(record, envelope)
    return RequestOrigin(str(model), request_id, time, _attributes(record))


def _request_id(record: dict[str, Any], envelope: Envelope) -> str:
    """Return the id of the record, else of the message, else one made from the record
    that a rerun makes again."""
    given = record.get("request_id")
    if _is_valid(_REQUEST_ID, given):
        return str(given)
    if envelope.message_id and envelope.body.lstrip()[:1] == b"{":
        return without_surrogates(envelope.message_id)
    time = envelope.timestamp or envelope.received_at
    return record_id(envelope, to_json(record), 0, time)


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _OURS}


def _is_valid(adapter: TypeAdapter[str], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def result_message(
    origin: RequestOrigin, inference: Inference, limit_bytes: int
) -> Outgoing:
    """Return the message of a result. Its id is the same for the same request.

    Args:
        limit_bytes: maximum size of a message in the queue of results.

    Raises:
        SinkRejected: the result has no JSON form, or is too large.
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


def error_message(origin: RequestOrigin, reason: str, limit_bytes: int) -> Outgoing:
    """Return the message of a result that is an error. The requester's own fields are
    omitted if the message would be larger than ``limit_bytes``."""
    body = _body(origin, error=reason)
    if len(body) > limit_bytes:
        body = _body(origin._replace(attributes={}), error=reason)
    return _message(origin, "error", body)


def _body(origin: RequestOrigin, **fields: Any) -> bytes:
    return to_json(
        {
            "request_id": origin.request_id,
            "model": origin.model,
            **fields,
            "timestamp": rfc3339(origin.time),
            **origin.attributes,
        }
    )


def _message(origin: RequestOrigin, kind: str, body: bytes) -> Outgoing:
    name = f"{origin.model}/{origin.request_id}/{kind}"
    if len(name.encode()) > _ID_LIMIT_BYTES:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        name = f"{origin.model}/{digest}/{kind}"
    key = f"ai.result.{origin.model}"
    return Outgoing(AI_EXCHANGE, key, body, name, timestamp=origin.time)
