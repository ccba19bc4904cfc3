"""Requests to models: the record, and what of it comes back with the answer."""

from __future__ import annotations

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

from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.inference.tensors import JsonTensor, JsonTensors
from meshtasks.records.envelope import Envelope, record_id
from meshtasks.records.models import explain
from meshtasks.records.timestamps import moment_of

#: Name of a model: a directory on the server, a part of its URL and of routing keys.
ModelName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, strict=True)
]


def _as_text(version: object) -> object:
    return str(version) if type(version) is int else version


Version = Annotated[
    str, BeforeValidator(_as_text), Field(pattern="^[1-9][0-9]{0,9}$", strict=True)
]
RequestId = Annotated[str, Field(min_length=1, max_length=255, strict=True)]


@with_config(ConfigDict(extra="allow"))
class InferenceRequest(TypedDict, total=False):
    """A request to a model; other fields come back with the result.

    Attributes:
        model: its name.
        inputs: its inputs, at least one.
        request_id: comes back with the result; missing or null: the message's id.
        version: of the model, a whole number; missing or null: the server's choice.
        timestamp: of what the inputs are about (see
            :mod:`meshtasks.records.timestamps`).
    """

    model: Required[ModelName]
    inputs: Required[Annotated[JsonTensors, Field(min_length=1)]]
    request_id: RequestId | None
    version: Version | None
    timestamp: Any


_REQUEST: TypeAdapter[InferenceRequest] = TypeAdapter(InferenceRequest)
_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)
_REQUEST_ID: TypeAdapter[str] = TypeAdapter(RequestId)

#: Fields that the mesh gives a meaning; all others are the requester's own.
_OURS = frozenset(
    {
        *("request_id", "model", "version", "inputs", "timestamp"),
        *("outputs", "latency_ms", "error"),
    }
)


class Origin(NamedTuple):
    """Whom an answer is for, and what it is about.

    Attributes:
        model: the model that was asked, for the answer's routing key.
        request_id: of the request.
        time: epoch seconds; of the request's data, else of the request.
        attributes: the requester's own fields.
    """

    model: str
    request_id: str
    time: float
    attributes: Mapping[str, Any]


class Request(NamedTuple):
    """A request that is one, though perhaps not one that its model can take.

    Attributes:
        origin: whom the answer is for.
        version: of the model; empty for the server's choice.
        inputs: as they came.
        alone: not to be stacked with others.
    """

    origin: Origin
    version: str
    inputs: list[JsonTensor]
    alone: bool = False


def request_of(record: dict[str, Any], envelope: Envelope) -> Request:
    """The request in a record.

    Raises:
        InvalidMessage: it is none; the text says why.
    """
    try:
        valid = _REQUEST.validate_python(record)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error
    origin = Origin(
        valid["model"],
        _request_id(record, envelope),
        moment_of(valid.get("timestamp"), envelope),
        _attributes(record),
    )
    return Request(origin, valid.get("version") or "", valid["inputs"])


def origin_of(record: dict[str, Any], envelope: Envelope) -> Origin | None:
    """Whom to tell that a record is not a request.

    The model is that of the routing key (``ai.model.<model>``) where the record
    names none. None if neither does: nobody could be waiting for the answer.
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
    return Origin(str(model), request_id, time, _attributes(record))


def _request_id(record: dict[str, Any], envelope: Envelope) -> str:
    """The requester's id; else the message's; else one that a rerun gives again."""
    given = record.get("request_id")
    if _is_valid(_REQUEST_ID, given):
        return str(given)
    if envelope.message_id and envelope.body.lstrip()[:1] == b"{":
        return envelope.message_id.encode("utf-8", "replace").decode()
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
