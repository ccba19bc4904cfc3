"""Frames of Home Assistant's websocket.

The protocol is documented at https://developers.home-assistant.io/docs/api/websocket.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Required

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.records.models import StateChange, explain

#: Deepest nesting of JSON that is kept: more than any useful attribute has, and less
#: than the limits of parsers on the way.
_DEEPEST = 30
#: Limit of integers. Stores cannot hold larger numbers, and Python does not print
#: integers of more than 4,300 digits. From 400 digits on they are read as infinite.
_LARGEST = 10**308
_DIGITS = 400


class Context(TypedDict, total=False):
    """Why something happened.

    Attributes:
        id: shared by all events of one cause.
        parent_id: context that led to this one, such as that of the state change which
            triggered an automation.
        user_id: user who caused it, if a user did.
    """

    id: Required[str]
    parent_id: str | None
    user_id: str | None


@with_config(ConfigDict(extra="allow"))
class AutomationData(TypedDict, total=False):
    """Data of an ``automation_triggered`` event.

    Attributes:
        entity_id: of the automation.
        name: its friendly name.
        source: what triggered it, as text.
    """

    entity_id: Required[str]
    name: str | None
    source: str | None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Fired(_Frozen):
    time_fired: AwareDatetime
    context: Context


class StateChanged(_Fired):
    """An entity was added, was removed, or changed its state or attributes."""

    event_type: Literal["state_changed"]
    data: StateChange


class AutomationTriggered(_Fired):
    """An automation was triggered."""

    event_type: Literal["automation_triggered"]
    data: AutomationData


Event = StateChanged | AutomationTriggered


class EventFrame(_Frozen):
    """An event of a subscription."""

    type: Literal["event"]
    event: Annotated[Event, Field(discriminator="event_type")]


class Refusal(_Frozen):
    """Why a command failed."""

    code: str
    message: str = ""


class ResultFrame(_Frozen):
    """Result of the command with this id."""

    type: Literal["result"]
    id: int
    success: bool
    result: Any = None
    error: Refusal | None = None


class PongFrame(_Frozen):
    """Answer to a ping."""

    type: Literal["pong"]


Frame = EventFrame | ResultFrame | PongFrame
_frame: TypeAdapter[Frame] = TypeAdapter(
    Annotated[EventFrame | ResultFrame | PongFrame, Field(discriminator="type")]
)


@with_config(ConfigDict(extra="allow"))
class CurrentState(TypedDict, total=False):
    """A state object in the result of ``get_states``; other fields are kept.

    Attributes:
        state: always text.
        last_updated: time of the last change of state or attributes, RFC 3339.
        context: context of that change.
    """

    entity_id: Required[str]
    state: Required[str]
    attributes: Required[dict[str, Any]]
    last_updated: Required[str]
    context: Required[Context]


def decoded(message: str | bytes) -> list[object]:
    """Return the JSON of each frame in a message.

    A message is one frame, or an array of frames (``coalesce_messages``).

    Raises:
        UndecodableMessage: the message is not JSON text.
    """
    if isinstance(message, bytes):
        raise UndecodableMessage("a binary message")
    try:
        content = plain(json.loads(message, parse_int=_integer))
    except (ValueError, RecursionError) as error:
        message = f"not JSON: {error}"
        raise UndecodableMessage(message) from error
    return content if isinstance(content, list) else [content]


def _integer(digits: str) -> float:
    """Return an integer; an infinite float if it has too many digits for Python."""
    return int(digits) if len(digits) < _DIGITS else float(digits)


def frame_of(content: object) -> Frame:
    """Validate the JSON of a frame.

    Raises:
        SchemaMismatch: it is not a known frame.
    """
    try:
        return _frame.validate_python(content)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error


def plain(value: object, depth: int = 0) -> object:
    """Return the value without anything that JSON cannot represent.

    NaN, infinite and huge numbers and values that are nested too deep become null.
    Surrogates, and bytes that are not UTF-8, become replacement characters. Other
    objects become their text.
    """
    result: object
    match value:
        case None | bool():
            result = value
        case str():
            result = _unicode(value)
        case int():
            result = value if abs(value) < _LARGEST else None
        case float():
            result = value if math.isfinite(value) else None
        case bytes():
            result = value.decode("utf-8", "replace")
        case Mapping() if depth < _DEEPEST:
            result = {
                _unicode(str(key)): plain(each, depth + 1)
                for key, each in value.items()
            }
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            result = [plain(each, depth + 1) for each in value]
        case Mapping() | list() | tuple() | set() | frozenset():
            result = None
        case _:
            result = _unicode(str(value))
    return result


def _unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
