"""Tasmota: ``tele/<topic>/SENSOR`` with one object per sensor.

Format: https://tasmota.github.io/docs/MQTT/ and the page of each sensor; of Zigbee
bridges: https://tasmota.github.io/docs/Zigbee/. The answer to the command
``Status 10`` (``stat/<topic>/STATUS10``) contains the same object. ``RESULT`` contains
actions of buttons, or in firmware of 2020 what was received by Zigbee.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from meshtasks.producers.sensornet.payload import (
    DeviceTime,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    is_object,
    joined,
    meanings,
    object_of,
    value_at,
)

#: Name in the object of any sensor → meaning.
_VALUES: Mapping[str, Meaning] = {
    **meanings(
        {
            "temperature": "Temperature",
            "humidity": "Humidity",
            "dew_point": "DewPoint",
            "pressure": "Pressure",
            "illuminance": "Illuminance",
            "co2": "CarbonDioxide CO2",
            "eco2": "eCO2",
            "tvoc": "TVOC",
            "co": "CarbonMonoxide",
            "pm1": "PM1",
            "pm25": "PM2.5",
            "pm10": "PM10",
            "soil_moisture": "Moisture",
            "power": "Power",
            "voltage": "Voltage",
            "current": "Current",
            "energy": "Total Energy",
            "battery": "Battery",
            "rssi": "RSSI",
        }
    ),
    # The MLX90614 measures an object without contact.
    "OBJTMP": Meaning("temperature", part="object"),
    "AMBTMP": Meaning("temperature", part="ambient"),
}
#: Name in the object of a device behind a Zigbee bridge → meaning. Some names differ:
#: there Power is the state of a lamp, and Illuminance is logarithmic.
_ZIGBEE_VALUES: Mapping[str, Meaning] = {
    **meanings(
        {
            "temperature °C": "Temperature",
            "humidity": "Humidity",
            "pressure hPa": "Pressure",
            "battery": "BatteryPercentage",
            "voltage": "BatteryVoltage",
            "link_quality": "LinkQuality",
            "motion": "Occupancy",
            "open": "Contact",
            "water_leak": "Water",
            "smoke": "Fire",
            "carbon_monoxide": "CO",
            "target_temperature °C": "OccupiedHeatingSetpoint",
            "valve": "PIHeatingDemand",
            "action": "Click",
            "power": "ActivePower",
            "current": "RMSCurrent",
        }
    ),
    "LocalTemperature": Meaning("temperature", unit="°C", part="local"),
    "RMSVoltage": Meaning("voltage", part="rms"),
}
#: Kinds that a Zigbee device may have for each of its keys or sockets (endpoints).
_OF_ENDPOINT = frozenset({"action", "power", "voltage", "current"})
_NUMBERED = re.compile(r"(?P<value>[A-Za-z]+?)(?P<part>\d{1,2})")
#: Objects with the temperature of the processor or of its power management chip.
_CHIP = re.compile(r"ESP32|AXP\d+")
_OTHER = "state or result"
#: Objects that contain the objects of sensors.
_LORAWAN = "LwReceived"
_WRAPPERS = frozenset({"StatusSNS", "ZbReceived", "ZbInfo", "DS18x20", _LORAWAN})
#: Names with a sensor's identity. It is better than the name of its object: numbers of
#: probes (DS18B20-2) shift when one is added or fails, and the short address of a
#: Zigbee device changes.
_IDENTITIES = ("Id", "Address", "Name")
#: Names of values that describe others.
_DESCRIBING = frozenset({"TempUnit", "PressureUnit", *_IDENTITIES, "Device"})
#: Kind → name of its unit in the message.
_UNITS: Mapping[str, str] = {
    "temperature": "TempUnit",
    "dew_point": "TempUnit",
    "chip_temperature": "TempUnit",
    "pressure": "PressureUnit",
}


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """Parse the values of a telemetry message, or a button's action.

    Raises:
        InvalidMessage: the body of such a topic is not a JSON object.
    """
    match levels[-1]:
        case "SENSOR":
            values = document = object_of(body)
        case "ZbReceived" | "LwReceived" as wrapper:  # SetOption118
            values = document = {wrapper: object_of(body)}
        case "STATUS8" | "STATUS10":
            document = object_of(body)
            inner = document.get("StatusSNS")
            values = inner if isinstance(inner, dict) else {}
        case "RESULT" if b'"Action"' in body or b'"ZbReceived"' in body:
            values = document = object_of(body)
        case "LWT":
            return Ignored("availability")
        case _ if is_object(body):
            return Payload("", object_of(body), lambda _path, _raw: Passed(_OTHER))
        case _:
            return Ignored(_OTHER)
    # %topic%/%prefix%/ is as common as %prefix%/%topic%/.
    device = [level for level in levels[:-1] if level not in ("tele", "stat")]
    time = values.get("Time")

    stamp: object = DeviceTime(time) if isinstance(time, str) else None
    if isinstance(values.get("Epoch"), int):
        stamp = values["Epoch"]
    judge = partial(_judge, document, values)
    return Payload("/".join(device), document, judge, stamp)


def _judge(
    document: dict[str, Any], values: dict[str, Any], path: Path, raw: object
) -> Judgement:
    *parents, name = path
    if name in _DESCRIBING and isinstance(raw, str):
        return None
    if name in ("Time", "Epoch"):
        return None
    index = ""
    if name.isdecimal() and parents:  # an array: a meter's phases or channels
        index, name = str(int(name) + 1), parents.pop()
    if name == "Action" and parents:
        return Meaning("action", part=parents[-1])
    table = _ZIGBEE_VALUES if _is_zigbee(document, parents) else _VALUES
    known, number = table.get(name), ""
    if known is None and (numbered := _NUMBERED.fullmatch(name)):
        known, number = table.get(numbered["value"]), numbered["part"]
    if known is None:
        return Passed()
    kind = _kind(known.kind, document, parents)
    if kind is None:
        return Passed()
    if table is _ZIGBEE_VALUES and kind in _OF_ENDPOINT:
        endpoint = value_at(document, (*parents, "Endpoint"))
        number = str(endpoint) if isinstance(endpoint, int) and endpoint > 1 else ""
    unit = values.get(_UNITS.get(kind, ""))
    return known._replace(
        kind=kind,
        part=joined(*_parts(document, parents), known.part, number, index),
        unit=known.unit or (unit if isinstance(unit, str) and unit else None),
    )


def _kind(named: str, document: dict[str, Any], parents: Sequence[str]) -> str | None:
    """Return the kind of a value that has the name of a kind, or None.

    Only a meter of electricity gives energy. ``Total`` of a rain gauge are millimetres,
    and ``Energy`` of a radar or of lightning is the strength of a signal.
    """
    match named:
        case "energy" if "ENERGY" not in parents:
            has_power = value_at(document, (*parents, "Power")) is not None
            return named if has_power else None
        case "battery" if _LORAWAN in parents:
            return "voltage"
        case "temperature" if any(_CHIP.fullmatch(each) for each in parents):
            return "chip_temperature"
        case _:
            return named


def _is_zigbee(document: dict[str, Any], parents: Sequence[str]) -> bool:
    """Return whether an object is a device behind a Zigbee bridge."""
    held = value_at(document, tuple(parents))
    return "ZbReceived" in parents or (isinstance(held, dict) and "LinkQuality" in held)


def _parts(document: dict[str, Any], parents: Sequence[str]) -> list[str]:
    """Return the objects around a value, by their identities or else their names."""
    parts: list[str] = []
    for depth, name in enumerate(parents, 1):
        if name in _WRAPPERS:
            continue
        held = value_at(document, tuple(parents[:depth]))
        own = [held.get(key) for key in _IDENTITIES] if isinstance(held, dict) else []
        parts.append(
            next((each for each in own if isinstance(each, str) and each), name)
        )
    return parts
