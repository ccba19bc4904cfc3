"""What Home Assistant sends over its websocket
(https://developers.home-assistant.io/docs/api/websocket), and what happened there as
messages of the mesh; pure.

The same happening gives a message of the same id, however it became known: by its
event, after a gap, or to a second producer.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Required

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

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.producers.buffer import encode
from meshtasks.records.models import StateChange, explain
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described

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


HOME = "home.events"
SENSORS = "sensors"

_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://www.home-assistant.io/")
_MOTION = {"on": True, "off": False}
_CLIMATE = frozenset({"temperature", "humidity"})
#: Device classes of binary sensors that are on while a person is there; Zigbee2MQTT
#: calls its motion sensors "occupancy", radar sensors "presence" or "moving".
_PRESENCE = frozenset({"motion", "occupancy", "presence", "moving"})
#: Not K, in which lamps give their colour.
_DEGREES = frozenset({"°C", "°F"})
#: Fields of an automation's event that the mesh has other names for.
_RENAMED = frozenset({"entity_id", "source"})
#: Home Assistant's own rule for ids, but for underscores at the wrong places.
_ENTITY_ID = re.compile(r"([\da-z_]+)\.([\da-z_]+)")


class Gap(NamedTuple):
    """A time in which no events were received, only the states after it: from the last
    event to the states, in epoch seconds.
    """

    since: float
    until: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return max(0.0, self.until - self.since)

    def as_json(self) -> dict[str, str]:
        """Beginning and end in RFC 3339, as records carry it."""
        return {"since": rfc3339(self.since), "until": rfc3339(self.until)}


def rfc3339(epoch_seconds: float) -> str:
    """A moment as Home Assistant writes it."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()


def state_change(change: StateChange, time: float, gap: Gap | None = None) -> Outgoing:
    """An entity's change of state.

    Args:
        change: the data of its event, or what a comparison came to.
        time: epoch seconds; when it happened.
        gap: in which it did, if no events were received.

    Raises:
        SchemaMismatch: the entity id is not valid.
    """
    domain, object_id = _words(change["entity_id"])
    new = change.get("new_state")
    moment = str(new.get("last_updated") if new else time)
    route = HOME, f"home.{domain}.{object_id}.state_changed"
    return _message(route, {**change}, time, moment, gap)


def automation_trigger(
    automation: Mapping[str, Any], moment: str, time: float, gap: Gap | None = None
) -> Outgoing:
    """An automation began to act.

    Args:
        automation: ``entity_id``, and ``name`` and ``source`` if they are known.
        moment: when, as Home Assistant writes it.
        time: the same, epoch seconds.
        gap: in which it did, if no events were received.

    Raises:
        SchemaMismatch: the entity id is not valid.
    """
    domain, object_id = _words(automation["entity_id"])
    record = {
        **{key: value for key, value in automation.items() if key not in _RENAMED},
        "automation": automation["entity_id"],
        "trigger": automation.get("source"),
        "timestamp": moment,
    }
    route = HOME, f"home.{domain}.{object_id}.trigger"
    return _message(route, record, time, moment, gap)


def missed_trigger(change: StateChange, gap: Gap) -> Outgoing | None:
    """The trigger of an automation in a gap, found by its state, if there was
    one: the last of them.

    Raises:
        InvalidMessage: the entity id or the moment is not valid.
    """
    entity_id = change["entity_id"]
    old, new = (_attributes(change.get(key)) for key in ("old_state", "new_state"))
    triggered = new.get("last_triggered")
    if (
        not entity_id.startswith("automation.")
        or not isinstance(triggered, str)
        or triggered == old.get("last_triggered")
    ):
        return None
    time = epoch_seconds(triggered, gap.until)
    if time < gap.since:
        return None
    automation = {"entity_id": entity_id, "name": new.get("friendly_name")}
    return automation_trigger(automation, triggered, time, gap)


def kind_of_reading(change: StateChange) -> str | None:
    """Which readings an entity gives: ``temperature`` or ``humidity`` if it is such a
    sensor, ``motion`` if it is a binary sensor of a person's presence; else None.

    A sensor without a device class is one of temperature if it gives degrees.

    Raises:
        SchemaMismatch: the entity id is not valid.
    """
    domain, _ = _words(change["entity_id"])
    attributes = _attributes(change.get("new_state"))
    device_class = _text_of(attributes, "device_class")
    if domain == "binary_sensor":
        return "motion" if device_class in _PRESENCE else None
    if domain != "sensor":
        return None
    if attributes.get("device_class") is None:
        unit = _text_of(attributes, "unit_of_measurement")
        return "temperature" if unit in _DEGREES else None
    return device_class if device_class in _CLIMATE else None


def reading(
    change: StateChange, time: float, gap: Gap | None = None
) -> Outgoing | None:
    """The reading that a change of state is, if it is one: of a sensor of temperature
    or humidity, or of a binary sensor of motion that began or ended.

    Raises:
        SchemaMismatch: the entity id is not valid.
    """
    new = change.get("new_state")
    if new is None or (kind := kind_of_reading(change)) is None:
        return None
    _, object_id = _words(change["entity_id"])
    attributes = _attributes(new)
    record: dict[str, Any] = {"sensor_id": change["entity_id"]}
    if kind == "motion":
        motion = _MOTION.get(new["state"])
        old = change.get("old_state")
        if motion is None or (old and old["state"] == new["state"]):
            return None
        record["motion"] = motion
    elif (value := _number(new["state"])) is None:
        return None
    else:
        unit = _text_of(attributes, "unit_of_measurement")
        record |= {"value": value, "unit": unit}
    moment = str(new.get("last_updated"))
    name = _text_of(attributes, "friendly_name")
    record |= {"timestamp": moment, "name": name}
    return _message((SENSORS, f"sensors.{kind}.{object_id}"), record, time, moment, gap)


def _message(
    route: tuple[str, str],
    record: dict[str, Any],
    time: float,
    moment: str,
    gap: Gap | None,
) -> Outgoing:
    if gap:
        record["gap"] = gap.as_json()
    message_id = str(uuid.uuid5(_IDS, "\n".join((*route, moment))))
    return Outgoing(*route, _encoded(record), message_id, time)


def _encoded(record: dict[str, Any]) -> bytes:
    """The record as JSON, whatever integrations put into it."""
    try:
        return encode(record)
    except (TypeError, ValueError, RecursionError):
        return encode(plain(record))


def _text_of(attributes: Mapping[str, Any], name: str) -> str | None:
    """An attribute that is to be a text; None if it is missing, or something else."""
    value = attributes.get(name)
    return value if isinstance(value, str) else None


def _attributes(state: Any) -> dict[str, Any]:
    attributes = state.get("attributes") if state else None
    return attributes if isinstance(attributes, dict) else {}


def _words(entity_id: str) -> tuple[str, str]:
    """Domain and object id, each one word of a routing key."""
    if match := _ENTITY_ID.fullmatch(entity_id):
        return match[1], match[2]
    message = f"entity_id: expected domain.object_id, got {described(entity_id)}"
    raise SchemaMismatch(message)


def _number(state: str) -> float | None:
    """A state as a number; None for ``unavailable`` and ``unknown``."""
    try:
        number = float(state)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
