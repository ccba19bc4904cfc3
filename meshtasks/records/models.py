"""Models of the records in JSON, and descriptions of their faults.

A model is a ``TypedDict``, because pydantic validates an array of a hundred readings in
0.8 µs each, and in 1.0 to 1.3 µs with a ``BaseModel``. Readings, of which there are
most, have a second, faster model: :class:`Reading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple, Required

from msgspec import Meta, Struct
from pydantic import ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from meshtasks.text import described

#: A finite JSON number: not text, ``true`` or ``false``, NaN or Infinity.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@with_config(ConfigDict(extra="allow"))
class SensorReading(TypedDict, total=False):
    """A reading of a sensor; other fields are kept in the archive.

    Attributes:
        value: a number, in ``unit``.
        sensor_id: id of the sensor; default: the end of the routing key.
        unit: unit of ``value``; default: that of the kind.
        timestamp: RFC 3339 with a zone, or Unix time; default: the message's AMQP
            timestamp, else the time of receipt.
        location: where the sensor is.
    """

    value: Required[Number]
    sensor_id: str | None
    unit: str | None
    timestamp: Any
    location: str | None


class Reading(Struct, gc=False, forbid_unknown_fields=True):
    """A valid :class:`SensorReading` as handlers get it, without other fields.

    msgspec decodes an array of these in 0.25 µs each, pydantic in 0.8 µs. It accepts
    less: pydantic validates the records that msgspec refuses, for example those with
    other fields, and explains their faults.

    The attributes are those of :class:`SensorReading`; null and missing fields are
    None. ``timestamp`` is still text if msgspec does not know its format.
    """

    value: float
    sensor_id: str | None = None
    unit: str | None = None
    timestamp: Annotated[datetime, Meta(tz=True)] | int | float | None = None
    location: str | None = None


@with_config(ConfigDict(extra="allow"))
class Metric(TypedDict, total=False):
    """A metric at one time: a single value, or several named ones.

    Attributes:
        name: the measurement, such as ``disk``.
        value: a number, true, false or text.
        fields: name → value; null is no value. A metric has these or ``value``.
        tags: name → text, such as ``host`` and ``mount``; null and blank are no value.
        timestamp: like that of a reading.
    """

    name: Required[str]
    value: Any
    fields: dict[str, Any] | None
    tags: dict[str, Any] | None
    timestamp: Any


@with_config(ConfigDict(extra="allow"))
class Motion(TypedDict, total=False):
    """A motion sensor began or ceased to detect motion.

    Attributes:
        motion: true while it detects motion.
        sensor_id: id of the sensor; default: the end of the routing key.
        timestamp: like that of a reading.
        location: where the sensor is.
    """

    motion: Required[Annotated[bool, Field(strict=True)]]
    sensor_id: str | None
    timestamp: Any
    location: str | None


@with_config(ConfigDict(extra="allow"))
class EntityState(TypedDict, total=False):
    """A state of Home Assistant; attributes, context and other fields are kept.

    Attributes:
        state: always text: ``"on"``, ``"21.5"``, ``"unavailable"``.
        last_updated: time of the last change of state or attributes, RFC 3339.
    """

    state: Required[str]
    last_updated: Any


@with_config(ConfigDict(extra="allow"))
class StateChange(TypedDict, total=False):
    """The data of Home Assistant's ``state_changed`` event.

    See https://www.home-assistant.io/docs/configuration/events/.

    Attributes:
        entity_id: such as ``light.kitchen``.
        old_state: state before; null for a new entity.
        new_state: state now; null for a removed entity.
    """

    entity_id: Required[Annotated[str, Field(min_length=1)]]
    old_state: EntityState | None
    new_state: EntityState | None


@with_config(ConfigDict(extra="allow"))
class AutomationTrigger(TypedDict, total=False):
    """An automation was triggered.

    Attributes:
        automation: such as ``automation.lamp_on``.
        trigger: what triggered it: text, or an object.
        timestamp: like that of a reading.
    """

    automation: Required[Annotated[str, Field(min_length=1)]]
    trigger: Any
    timestamp: Any


_EXPECTED = {
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
    "list_type": "an array",
    "none_required": "null",
}


class Fault(NamedTuple):
    """One fault of a record.

    Attributes:
        place: path of the value at fault, as keys and indexes.
        reason: what is wrong with the value, without the path.
    """

    place: tuple[str | int, ...]
    reason: str


def faults(errors: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """The faults in pydantic's ``errors()``, with texts for people."""
    return [Fault(tuple(error["loc"]), _reason(error)) for error in errors]


def explain(error: ValidationError) -> str:
    """Text of a validation error: its first fault, and the number of others.

    Example:
        ``value: expected a number, got the text "21,5"``
    """
    found = error.errors(include_url=False)
    ((where, text),) = faults(found[:1])
    if place := ".".join(map(str, where)):
        text = f"{place}: {text}"
    more = len(found) - 1
    return f"{text} (and {more} more)" if more else text


def _reason(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "json_invalid":
            return f"the body is not valid JSON: {error['ctx']['error']}"
        case "missing":
            return "this field is missing"
        case "extra_forbidden":
            return "there is no such field"
        case kind if kind in _EXPECTED:
            return f"expected {_EXPECTED[kind]}, got {described(error['input'])}"
        case _:
            message = error["msg"]
            reason = message[:1].lower() + message[1:]
            return f"{reason}, got {described(error['input'])}"
