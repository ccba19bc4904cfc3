"""Zigbee2MQTT: one JSON object per device, with whatever the device exposes.

Topics and messages: https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html.
Each message contains the whole cached state, so a value may be a repeated old one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from meshtasks.errors import SchemaMismatch
from meshtasks.producers.sensornet.payload import (
    REPEATED,
    SETTING,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
    is_object,
    joined,
    meanings,
    number_of,
    object_of,
)

#: Attributes that have the name of their kind.
_NAMED_AS_KIND = (
    "temperature humidity pressure co2 eco2 co pm1 pm25 pm10 soil_moisture battery "
    "battery_low voltage current power energy water_leak smoke carbon_monoxide gas "
    "tamper vibration position action"
)
#: Attribute → meaning. A device may have several attributes of one kind; the usual one
#: has no part, the others have their name as part.
_ATTRIBUTES: Mapping[str, Meaning] = {
    **{kind: Meaning(kind) for kind in _NAMED_AS_KIND.split()},
    **meanings(
        {
            "motion": "occupancy",
            "illuminance": "illuminance illuminance_lux",
            "tvoc": "voc",
            "chip_temperature": "device_temperature",
            "link_quality": "linkquality",
            "locked": "lock_state",
            "target_temperature": "current_heating_setpoint",
            "valve": "pi_heating_demand",
        }
    ),
    "contact": Meaning("open", inverted=True),  # true means closed
    **meanings(
        {
            "temperature": "local_temperature external_temperature floor_temperature "
            "outdoor_temperature indoor_temperature room_temperature water_temperature "
            "soil_temperature probe_temperature temperature_probe "
            "external_measured_room_sensor",
            "chip_temperature": "cpu_temperature chip_temperature",
            "dew_point": "dew_point",
            "humidity": "local_humidity external_humidity",
            "motion": "presence motion moving",
            "target_temperature": "occupied_heating_setpoint "
            "unoccupied_heating_setpoint occupied_cooling_setpoint "
            "unoccupied_cooling_setpoint current_cooling_setpoint",
            "battery": "battery_percentage",
            "voltage": "battery_voltage",
            "energy": "produced_energy consumed_energy",
            "tvoc": "tvoc voc_parts",
            "valve": "valve_position valve_opening_degree",
            "action": "click",
        },
        as_part=True,
    ),
}

#: Last levels of topics without readings.
_OTHER_TOPICS = {"availability": "availability", "set": "command", "get": "command"}

#: Attributes of devices with several endpoints or phases end in the name of one:
#: ``power_2``, ``power_l1``, ``voltage_phase_b``, ``temperature_left``.
_OF_A_PART = re.compile(
    r"(?P<attribute>[a-z0-9_]+?)_(?P<part>l?\d{1,2}|ep\d|(?:phase_)?[abc]"
    r"|left|right|center|top|bottom|upper|lower)"
)
#: Names of objects with settings of a device.
_SETTINGS = re.compile(
    r"threshold|limit|calibrat|setting|config|schedule|program|preset|alarm|option"
    r"|holiday|week|target"
)

#: Batteries send mV, mains V, both without the unit. No battery has less than a volt,
#: and mains have less than a kilovolt.
_MILLIVOLTS_FROM = 1000


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """Parse the values of a device's message.

    Raises:
        InvalidMessage: the body of a device's topic is not a JSON object.
    """
    if levels[0] == "bridge":
        return Ignored("bridge")
    if len(levels) > 1:
        for level in levels[-2:]:
            if reason := _OTHER_TOPICS.get(level):
                return Ignored(reason)
        if not is_object(body):
            return _attribute(levels, body)
    state = object_of(body)
    has_lux = "illuminance_lux" in state

    def judge_of_state(path: Path, raw: object) -> Judgement:
        if path == ("illuminance",) and has_lux:
            return Passed(REPEATED)  # the raw value, sent by firmware before 2025
        return _judge(path, raw)

    return Payload("/".join(levels), state, judge_of_state, state.get("last_seen"))


def _attribute(levels: Sequence[str], body: bytes) -> Payload:
    """Parse a topic of one attribute, as sent with ``output: attribute``."""
    *device, attribute = levels

    def judge(path: Path, raw: object) -> Judgement:
        return Passed() if path else _known(attribute, (), raw)

    return Payload("/".join(device), document_of(body), judge, name=attribute)


def _judge(path: Path, raw: object) -> Judgement:
    *parents, attribute = path
    if path == ("last_seen",):
        return None
    if any(_SETTINGS.search(parent) for parent in parents):
        return Passed(SETTING)
    return _known(attribute, parents, raw)


def _known(attribute: str, parents: Sequence[str], raw: object) -> Judgement:
    """Classify an attribute by its name and the objects around it."""
    known, part = _ATTRIBUTES.get(attribute), ""
    if attribute == "state" and raw in ("LOCK", "UNLOCK"):
        known = Meaning("locked", part=attribute)
    if known is None and (found := _OF_A_PART.fullmatch(attribute)):
        known, part = _ATTRIBUTES.get(found["attribute"]), found["part"]
    if known is None or _is_of_another_kind(known.kind, raw):
        return Passed()
    if known.kind == "voltage":
        known = known._replace(usual=_voltage_unit(raw))
    return known._replace(part=joined(*parents, known.part, part))


def _is_of_another_kind(kind: str, raw: object) -> bool:
    """Return whether an attribute that has the name of a kind measures another one.

    Numbers called ``gas`` are the m³ of a meter, or percents of the explosive limit;
    called ``vibration``, a strength. The ``pressure`` of a mat is true or false. Blinds
    are ``moving`` in a direction.
    """
    if isinstance(raw, bool):
        return kind == "pressure"
    if kind == "motion" and raw in ("UP", "STOP", "DOWN"):
        return True
    is_number = isinstance(raw, int | float) and raw >= 0  # -1 means no value
    return is_number and kind in ("gas", "vibration")


def _voltage_unit(raw: object) -> str | None:
    try:
        return "mV" if number_of(raw) >= _MILLIVOLTS_FROM else "V"
    except SchemaMismatch:
        return None  # the report counts it as without a value
