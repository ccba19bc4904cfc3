"""Zigbee2MQTT: one JSON object per device, with whatever the device exposes.

Topics and messages: https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html.
Each message holds the whole cached state, so a value may be an old one said again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshtasks.domain.errors import SchemaMismatch
from producers.sensornet.payload import number_of, object_of, text_of
from producers.sensornet.report import Ignored, Report

#: Attribute → kind. ``contact`` is apart: it is true while closed.
_KINDS: Mapping[str, str] = {
    "temperature": "temperature",
    "local_temperature": "temperature",
    "humidity": "humidity",
    "occupancy": "motion",
    "presence": "motion",
    "motion": "motion",
    "battery": "battery",
    "voltage": "voltage",
    "current": "current",
    "power": "power",
    "energy": "energy",
    "illuminance": "illuminance",
    "illuminance_lux": "illuminance",
    "pressure": "pressure",
    "co2": "co2",
    "pm25": "pm25",
    "pm10": "pm10",
    "soil_moisture": "soil_moisture",
    "device_temperature": "chip_temperature",
    "linkquality": "link_quality",
    "water_leak": "water_leak",
    "smoke": "smoke",
    "vibration": "vibration",
    "contact": "open",
}

#: Last levels of topics that carry no readings.
_OTHER_TOPICS = {"availability": "availability", "set": "command", "get": "command"}

#: Devices with several endpoints number their attributes: ``power_2``, ``power_l1``.
_NUMBERED = re.compile(r"(?P<attribute>[a-z0-9_]+?)_(?P<part>l?\d{1,2})")

#: Batteries are given in mV, mains in V, and neither says so: there are no batteries
#: of less than a volt, and no mains above a kilovolt.
_MILLIVOLTS_FROM = 1000


def parse(levels: Sequence[str], body: bytes) -> Report | Ignored:
    """The readings of a device's message.

    Raises:
        InvalidMessage: the body of a device's topic is no JSON object.
    """
    if levels[0] == "bridge":
        return Ignored("bridge")
    if len(levels) > 1:
        for level in levels[-2:]:
            if reason := _OTHER_TOPICS.get(level):
                return Ignored(reason)
        if not text_of(body).startswith("{"):
            return _attribute(levels, text_of(body))
    state = object_of(body)
    report = Report("/".join(levels), stamp=state.get("last_seen"))
    for attribute, raw in state.items():
        if attribute == "illuminance" and "illuminance_lux" in state:
            continue  # the raw value of the sensor, by firmware before 2025
        _add(report, attribute, raw)
    return report


def _attribute(levels: Sequence[str], text: str) -> Report | Ignored:
    """With ``output: attribute`` each attribute has a topic of its own."""
    report = Report("/".join(levels[:-1]))
    if not _add(report, levels[-1], text):
        return Ignored("no reading")
    return report


def _add(report: Report, attribute: str, raw: Any) -> bool:
    """Take an attribute in; whether it is one of those that are known."""
    part = ""
    if attribute not in _KINDS:
        numbered = _NUMBERED.fullmatch(attribute)
        if not numbered:
            return False
        attribute, part = numbered["attribute"], numbered["part"]
    kind = _KINDS.get(attribute)
    if kind is None:
        return False
    unit = _voltage_unit(raw) if kind == "voltage" else None
    inverted = attribute == "contact"
    report.add(kind, raw, attribute, unit=unit, part=part, inverted=inverted)
    return True


def _voltage_unit(raw: Any) -> str | None:
    try:
        return "mV" if number_of(raw) >= _MILLIVOLTS_FROM else "V"
    except SchemaMismatch:
        return None  # it has no value either, and the report says so
