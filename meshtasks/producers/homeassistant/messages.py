"""Messages of the mesh made from events and states of Home Assistant; no side effects.

The same change or trigger always gets the same message id, whether it is known from its
event, from a comparison after a gap, or by a second producer.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import SchemaMismatch
from meshtasks.producers.buffer import encode
from meshtasks.producers.homeassistant.frames import plain
from meshtasks.records.models import StateChange
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described

HOME = "home.events"
SENSORS = "sensors"

_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://www.home-assistant.io/")
_MOTION = {"on": True, "off": False}
_CLIMATE = frozenset({"temperature", "humidity"})
#: Device classes of binary sensors that are on while a person is present. Zigbee2MQTT
#: calls motion sensors "occupancy", and radar sensors "presence" or "moving".
_PRESENCE = frozenset({"motion", "occupancy", "presence", "moving"})
#: Units of temperature sensors. K is excluded: lamps give their colour in it.
_DEGREES = frozenset({"°C", "°F"})
#: Fields of an automation's event that have other names in the mesh.
_RENAMED = frozenset({"entity_id", "source"})
#: As Home Assistant's own rule for ids, but underscores are allowed everywhere.
_ENTITY_ID = re.compile(r"([\da-z_]+)\.([\da-z_]+)")


class Gap(NamedTuple):
    """A time without events, from the last event to the next comparison of states.

    Attributes:
        since: beginning in epoch seconds.
        until: end in epoch seconds.
    """

    since: float
    until: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return max(0.0, self.until - self.since)

    def as_json(self) -> dict[str, str]:
        """Return beginning and end in RFC 3339, as in records."""
        return {"since": rfc3339(self.since), "until": rfc3339(self.until)}


def rfc3339(epoch_seconds: float) -> str:
    """Return a time in Home Assistant's format."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()


def state_change(change: StateChange, time: float, gap: Gap | None = None) -> Outgoing:
    """Return the message of a state change.

    Args:
        change: data of its event, or result of a comparison.
        time: time of the change in epoch seconds.
        gap: the gap in which it happened, if no event was received.

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
    """Return the message of an automation's trigger.

    Args:
        automation: ``entity_id``, and ``name`` and ``source`` if known.
        moment: time of the trigger in Home Assistant's format.
        time: the same in epoch seconds.
        gap: the gap in which it happened, if no event was received.

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
    """Return the trigger of an automation in a gap, if its state shows one.

    Of several triggers in the gap only the last is known.

    Raises:
        InvalidMessage: the entity id or the time is not valid.
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
    """Return the kind of an entity's readings, or None if it gives none.

    Sensors of temperature and humidity give ``temperature`` and ``humidity``; binary
    sensors of a person's presence give ``motion``. A sensor without a device class is
    one of temperature if its unit is °C or °F.

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
    """Return the reading in a state change, or None if there is none.

    Sensors of temperature and humidity give a reading at each change; binary sensors
    of motion give one when motion begins or ends.

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
    """Return the record as JSON, without values that JSON cannot represent."""
    try:
        return encode(record)
    except (TypeError, ValueError, RecursionError):
        return encode(plain(record))


def _text_of(attributes: Mapping[str, Any], name: str) -> str | None:
    """Return an attribute, or None if it is missing or not text."""
    value = attributes.get(name)
    return value if isinstance(value, str) else None


def _attributes(state: Any) -> dict[str, Any]:
    attributes = state.get("attributes") if state else None
    return attributes if isinstance(attributes, dict) else {}


def _words(entity_id: str) -> tuple[str, str]:
    """Return domain and object id, each one word of a routing key."""
    if match := _ENTITY_ID.fullmatch(entity_id):
        return match[1], match[2]
    message = f"entity_id: expected domain.object_id, got {described(entity_id)}"
    raise SchemaMismatch(message)


def _number(state: str) -> float | None:
    """Return a state as a number; None for ``unavailable``, ``unknown`` and others."""
    try:
        number = float(state)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
