"""Shelly's first generation: one value per topic below ``shellies/<id>/``.

Topics: https://shelly-api-docs.shelly.cloud/gen1/. ``sensor/temperature`` is in the
unit that the device is set to, and nothing in the message says which: sensornet.yaml
can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meshtasks.domain.text import clip
from producers.sensornet.payload import object_of, text_of
from producers.sensornet.report import Ignored, Report


class _Value(NamedTuple):
    kind: str
    unit: str | None = None


#: Topic behind the id, a number for ``+`` → what its body is.
_VALUES: Mapping[str, _Value] = {
    "sensor/temperature": _Value("temperature"),
    "sensor/humidity": _Value("humidity"),
    "sensor/battery": _Value("battery"),
    "sensor/lux": _Value("illuminance"),
    "sensor/motion": _Value("motion"),
    "sensor/flood": _Value("water_leak"),
    "sensor/smoke": _Value("smoke"),
    "sensor/state": _Value("open"),
    "sensor/vibration": _Value("vibration"),
    "ext_temperature/+": _Value("temperature", "°C"),
    "ext_humidity/+": _Value("humidity"),
    "temperature": _Value("chip_temperature", "°C"),
    "voltage": _Value("voltage"),
    "relay/power": _Value("power"),
    "relay/energy": _Value("energy", "Wmin"),
    "relay/+/power": _Value("power"),
    "relay/+/energy": _Value("energy", "Wmin"),
    "light/+/power": _Value("power"),
    "light/+/energy": _Value("energy", "Wmin"),
    "roller/+/power": _Value("power"),
    "roller/+/energy": _Value("energy", "Wmin"),
    "emeter/+/power": _Value("power"),
    "emeter/+/voltage": _Value("voltage"),
    "emeter/+/current": _Value("current"),
    "emeter/+/total": _Value("energy", "Wh"),
}

#: Fields of the status that motion sensors send.
_STATUS: Mapping[str, str] = {
    "motion": "motion",
    "vibration": "vibration",
    "lux": "illuminance",
    "bat": "battery",
}

#: Last levels of topics that carry no readings.
_OTHER_TOPICS = {"online": "availability", "command": "command", "set": "command"}

#: What a probe that is not there measures.
_NO_PROBE = 999.0


def parse(levels: Sequence[str], body: bytes) -> Report | Ignored:
    """The reading of a topic, or several of a motion sensor's status.

    Raises:
        InvalidMessage: the status is no JSON object, or a value no UTF-8.
    """
    if len(levels) < 2:  # noqa: PLR2004 - shellies/announce, shellies/command
        return Ignored("announcement")
    device, path = levels[0], levels[1:]
    if path[-1] in _OTHER_TOPICS:
        return Ignored(_OTHER_TOPICS[path[-1]])
    if list(path) == ["status"]:
        return _status(device, body)
    numbers = [level for level in path if level.isdecimal()]
    topic = "/".join("+" if level.isdecimal() else level for level in path)
    value = _VALUES.get(topic)
    if value is None:
        return Ignored("no reading")
    text = text_of(body)
    report = Report(device)
    part = _part(path[0], numbers)
    raw = None if _is_no_probe(value, text) else text
    report.add(value.kind, raw, clip("/".join(path)), unit=value.unit, part=part)
    return report


def _status(device: str, body: bytes) -> Report:
    status = object_of(body)
    report = Report(device, stamp=status.get("timestamp"))
    for field, kind in _STATUS.items():
        if field in status:
            report.add(kind, status[field], field)
    return report


def _part(first: str, numbers: Sequence[str]) -> str:
    """``ext_0`` for a probe, ``1`` for the second channel, nothing for the first."""
    if not numbers:
        return ""
    if first.startswith("ext_"):
        return f"ext_{numbers[0]}"
    return "" if numbers[0] == "0" else numbers[0]


def _is_no_probe(value: _Value, text: str) -> bool:
    try:
        return value.kind == "temperature" and float(clip(text)) == _NO_PROBE
    except ValueError:
        return False
