"""Tasmota: ``tele/<topic>/SENSOR`` with one object per sensor.

Format: https://tasmota.github.io/docs/MQTT/ and the page of each sensor. The answer
to the command ``Status 10`` (``stat/<topic>/STATUS10``) holds the same object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from producers.sensornet.payload import object_of
from producers.sensornet.report import Ignored, LocalTime, Report

_KINDS: Mapping[str, str] = {
    "Temperature": "temperature",
    "Humidity": "humidity",
    "DewPoint": "dew_point",
    "Pressure": "pressure",
    "Illuminance": "illuminance",
    "CarbonDioxide": "co2",
    "PM2.5": "pm25",
    "PM10": "pm10",
    "Moisture": "soil_moisture",
    "Power": "power",
    "Voltage": "voltage",
    "Current": "current",
    "Total": "energy",
}
_IN_TEMPERATURE_UNIT = frozenset({"temperature", "dew_point", "chip_temperature"})
_NUMBERED = re.compile(r"(?P<value>[A-Za-z]+?)(?P<part>\d{1,2})")
#: The processor's own temperature.
_CHIP = "ESP32"


def parse(levels: Sequence[str], body: bytes) -> Report | Ignored:
    """The readings of a telemetry message.

    Raises:
        InvalidMessage: the body of a SENSOR topic is no JSON object.
    """
    match levels[-1]:
        case "SENSOR":
            values = object_of(body)
        case "STATUS8" | "STATUS10":
            inner = object_of(body).get("StatusSNS")
            values = inner if isinstance(inner, dict) else {}
        case "LWT":
            return Ignored("availability")
        case _:
            return Ignored("state or result")
    # %topic%/%prefix%/ is as common as %prefix%/%topic%/.
    device = [level for level in levels[:-1] if level not in ("tele", "stat")]
    stamp = values.get("Time")
    report = Report(
        "/".join(device), stamp=LocalTime(stamp) if isinstance(stamp, str) else None
    )
    for sensor, group in values.items():
        if isinstance(group, dict):
            _add_group(report, sensor, group, values)
    return report


def _add_group(
    report: Report, sensor: str, group: dict[str, Any], values: dict[str, Any]
) -> None:
    # Numbers of probes (DS18B20-2) shift when one is added or fails; ids do not.
    probe = group.get("Id")
    part = probe if isinstance(probe, str) and probe else sensor
    for name, raw in group.items():
        value, number = name, ""
        if name not in _KINDS and (numbered := _NUMBERED.fullmatch(name)):
            value, number = numbered["value"], numbered["part"]
        kind = _KINDS.get(value)
        if kind is None:
            continue
        if sensor == _CHIP and kind == "temperature":
            kind = "chip_temperature"
        place = f"{sensor}.{name}"
        unit = _unit(kind, values)
        if isinstance(raw, list):  # a meter of several phases or channels
            for index, each in enumerate(raw, 1):
                channel = f"{part}/{index}"
                report.add(kind, each, f"{place}.{index}", unit=unit, part=channel)
        else:
            sub = f"{part}/{number}" if number else part
            report.add(kind, raw, place, unit=unit, part=sub)


def _unit(kind: str, values: Mapping[str, Any]) -> str | None:
    """The unit that the message names for a kind, once for all its sensors."""
    if kind in _IN_TEMPERATURE_UNIT:
        named = values.get("TempUnit")
    elif kind == "pressure":
        named = values.get("PressureUnit")
    else:
        return None
    return named if isinstance(named, str) and named else None
