"""Tasmota: ``tele/<topic>/SENSOR`` with one object per sensor.

Format: https://tasmota.github.io/docs/MQTT/ and the page of each sensor; of bridges for
Zigbee https://tasmota.github.io/docs/Zigbee/. The answer to the command ``Status 10``
(``stat/<topic>/STATUS10``) holds the same object, and ``RESULT`` what a button was, or
what firmware of 2020 received by Zigbee.
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

#: In the object of any sensor.
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
    # Of the MLX90614, which looks at something from afar.
    "OBJTMP": Meaning("temperature", part="object"),
    "AMBTMP": Meaning("temperature", part="ambient"),
}
#: The same of devices behind a Zigbee bridge, where some names are others: Power is
#: whether a lamp is on, and Illuminance a logarithm.
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
#: Kinds of which a Zigbee device has one for each of its keys or sockets.
_OF_ENDPOINT = frozenset({"action", "power", "voltage", "current"})
_NUMBERED = re.compile(r"(?P<value>[A-Za-z]+?)(?P<part>\d{1,2})")
#: The processor's own temperature, and that of the chip which feeds it.
_CHIP = re.compile(r"ESP32|AXP\d+")
_OTHER = "state or result"
#: Objects around those of the sensors.
_WRAPPERS = frozenset({"StatusSNS", "ZbReceived", "ZbInfo", "DS18x20"})
#: What names a sensor better than its position: numbers of probes (DS18B20-2) shift
#: when one is added or fails, and so does the short address of a Zigbee device.
_IDENTITIES = ("Id", "Address", "Name")
#: Values that describe others.
_DESCRIBING = frozenset({"TempUnit", "PressureUnit", *_IDENTITIES, "Device"})
#: By which unit of the message a kind is measured.
_UNITS: Mapping[str, str] = {
    "temperature": "TempUnit",
    "dew_point": "TempUnit",
    "chip_temperature": "TempUnit",
    "pressure": "PressureUnit",
}


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """The values of a telemetry message, or what a button was.

    Raises:
        InvalidMessage: the body of such a topic is no JSON object.
    """
    match levels[-1]:
        case "SENSOR":
            values = document = object_of(body)
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
    if name.isdecimal() and parents:  # a meter of several phases or channels
        index, name = str(int(name) + 1), parents.pop()
    if name == "Action" and parents:
        return Meaning("action", part=parents[-1])
    table = _ZIGBEE_VALUES if _is_zigbee(document, parents) else _VALUES
    known, number = table.get(name), ""
    if known is None and (numbered := _NUMBERED.fullmatch(name)):
        known, number = table.get(numbered["value"]), numbered["part"]
    if known is None:
        return Passed()
    kind = known.kind
    if table is _ZIGBEE_VALUES and kind in _OF_ENDPOINT:
        endpoint = value_at(document, (*parents, "Endpoint"))
        number = str(endpoint) if isinstance(endpoint, int) and endpoint > 1 else ""
    if kind == "temperature" and any(_CHIP.fullmatch(each) for each in parents):
        kind = "chip_temperature"
    unit = values.get(_UNITS.get(kind, ""))
    return known._replace(
        kind=kind,
        part=joined(*_parts(document, parents), known.part, number, index),
        unit=known.unit or (unit if isinstance(unit, str) and unit else None),
    )


def _is_zigbee(document: dict[str, Any], parents: Sequence[str]) -> bool:
    """Whether an object is a device behind a Zigbee bridge."""
    held = value_at(document, tuple(parents))
    return "ZbReceived" in parents or (isinstance(held, dict) and "LinkQuality" in held)


def _parts(document: dict[str, Any], parents: Sequence[str]) -> list[str]:
    """The names of the objects that hold a value, of each its own if it has one."""
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
