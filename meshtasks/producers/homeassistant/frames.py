"""What Home Assistant sends over its websocket, once the connection is open
(https://developers.home-assistant.io/docs/api/websocket)."""

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

#: Deeper than any attribute that means something, and less than what parsers on the
#: way refuse.
_DEEPEST = 30
#: Python writes no numbers of more than 4,300 digits, and no store keeps this many.
_LARGEST = 10**308
_DIGITS = 400


class Context(TypedDict, total=False):
    """Why something happened.

    Attributes:
        id: shared by all events of one cause.
        parent_id: the context that led to this one, as that of the state change
            which triggered an automation.
        user_id: the user who did it, if it was one.
    """

    id: Required[str]
    parent_id: str | None
    user_id: str | None


@with_config(ConfigDict(extra="allow"))
class AutomationData(TypedDict, total=False):
    """The data of an ``automation_triggered`` event.

    Attributes:
        name: its friendly name.
        source: what triggered it, as a sentence.
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
    """An entity has another state, or other attributes; or is new, or gone."""

    event_type: Literal["state_changed"]
    data: StateChange


class AutomationTriggered(_Fired):
    """An automation begins to act."""

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
    """The answer to the command with this id."""

    type: Literal["result"]
    id: int
    success: bool
    result: Any = None
    error: Refusal | None = None


class PongFrame(_Frozen):
    """The answer to a ping."""

    type: Literal["pong"]


Frame = EventFrame | ResultFrame | PongFrame

_frame: TypeAdapter[Frame] = TypeAdapter(
    Annotated[EventFrame | ResultFrame | PongFrame, Field(discriminator="type")]
)


@with_config(ConfigDict(extra="allow"))
class CurrentState(TypedDict, total=False):
    """A state object of the answer to ``get_states``; its other fields are kept.

    Attributes:
        state: always text.
        last_updated: RFC 3339; when state or attributes last changed.
        context: of that change.
    """

    entity_id: Required[str]
    state: Required[str]
    attributes: Required[dict[str, Any]]
    last_updated: Required[str]
    context: Required[Context]


def decoded(message: str | bytes) -> list[object]:
    """The JSON of each frame in a message: one, or an array of them
    (``coalesce_messages``).

    Raises:
        UndecodableMessage: it is not JSON text.
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
    """A whole number; one of too many digits for Python as an infinite one."""
    return int(digits) if len(digits) < _DIGITS else float(digits)


def frame_of(content: object) -> Frame:
    """The frame that this JSON is.

    Raises:
        SchemaMismatch: it is no known frame.
    """
    try:
        return _frame.validate_python(content)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error


def plain(value: object, depth: int = 0) -> object:
    """The same value without what JSON cannot hold.

    Infinite numbers, NaN and what is nested too deep become null, half characters and
    bytes that are no text become replacement characters, other objects their text.
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
