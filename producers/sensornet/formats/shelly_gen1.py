"""Shelly's first generation: one value per topic below ``shellies/<id>/``.

Topics: https://shelly-api-docs.shelly.cloud/gen1/. ``sensor/temperature`` is in the
unit that the device is set to, and nothing in the message says which: sensornet.yaml
can. Motion sensors and radiator valves send their status as JSON, too, and buttons
what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshtasks.text import clip
from producers.sensornet.payload import (
    REPEATED,
    UNAVAILABLE,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
    object_of,
    value_at,
)

#: Topic behind the id, ``+`` for a number → what its body is.
_TOPICS: Mapping[str, Meaning] = {
    "sensor/temperature": Meaning("temperature"),
    "sensor/humidity": Meaning("humidity"),
    "sensor/battery": Meaning("battery"),
    "sensor/lux": Meaning("illuminance"),
    "sensor/motion": Meaning("motion"),
    "sensor/flood": Meaning("water_leak"),
    "sensor/smoke": Meaning("smoke"),
    "sensor/gas": Meaning("gas"),
    "sensor/state": Meaning("open"),
    "sensor/vibration": Meaning("vibration"),
    "ext_temperature/+": Meaning("temperature", unit="°C"),
    "ext_humidity/+": Meaning("humidity"),
    "temperature": Meaning("chip_temperature", unit="°C"),
    "voltage": Meaning("voltage"),
    "adc/+": Meaning("voltage"),
    "relay/power": Meaning("power"),
    "relay/energy": Meaning("energy", unit="Wmin"),
    "emeter/+/power": Meaning("power"),
    "emeter/+/voltage": Meaning("voltage"),
    "emeter/+/current": Meaning("current"),
    "emeter/+/total": Meaning("energy", unit="Wh"),
    "roller/+/pos": Meaning("position"),
    **{f"{each}/+/power": Meaning("power") for each in ("relay", "light", "roller")},
    **{
        f"{each}/+/energy": Meaning("energy", unit="Wmin")
        for each in ("relay", "light", "roller")
    },
}
#: Place in a status → what it is.
_STATUS: Mapping[Path, Meaning] = {
    ("motion",): Meaning("motion"),
    ("vibration",): Meaning("vibration"),
    ("lux",): Meaning("illuminance"),
    ("bat",): Meaning("battery"),
    ("bat", "value"): Meaning("battery"),
    ("bat", "voltage"): Meaning("voltage"),
    ("tmp", "value"): Meaning("temperature"),
    ("hum", "value"): Meaning("humidity"),
    ("lux", "value"): Meaning("illuminance"),
    ("target_t", "value"): Meaning("target_temperature"),
    ("pos",): Meaning("valve"),
    # Of radiator valves, whose status is shorter than what they tell of themselves.
    ("thermostats", "0", "pos"): Meaning("valve"),
    ("thermostats", "0", "tmp", "value"): Meaning("temperature"),
    ("thermostats", "0", "target_t", "value"): Meaning("target_temperature"),
}
#: The same temperature in Fahrenheit, where the one in Celsius stands beside it.
_IN_FAHRENHEIT = frozenset({"temperature_f", "ext_temperature_f/+"})
#: What describes the value beside it.
_DESCRIBING = frozenset({"units", "is_valid"})
#: Words of the gas detector for how much there is.
_GAS: Mapping[str, bool] = {"none": False, "mild": True, "heavy": True}
#: Last levels of topics that carry no readings.
_OTHER_TOPICS = {
    "online": "availability",
    "command": "command",
    "set": "command",
    "announce": "announcement",
    "settings": "announcement",
}


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """The value of a topic, or all of a status.

    Raises:
        InvalidMessage: a status is no JSON object, or a value no UTF-8.
    """
    if len(levels) < 2:  # noqa: PLR2004 - shellies/announce, shellies/command
        return Ignored("announcement")
    device, path = levels[0], levels[1:]
    if path[-1] in _OTHER_TOPICS:
        return Ignored(_OTHER_TOPICS[path[-1]])
    if list(path) in (["status"], ["info"]):
        return _status(device, object_of(body))
    if path[0] == "input_event":
        return _input(device, path, object_of(body))
    name = clip("/".join(path))
    document = document_of(body)
    topic = "/".join("+" if level.isdecimal() else level for level in path)
    known = _TOPICS.get(topic)
    if topic == "sensor/gas" and isinstance(document, str):
        document = _GAS.get(document, document)
    part = _part(path)

    def judge(path: Path, _raw: object) -> Judgement:
        if topic in _IN_FAHRENHEIT:
            return Passed(REPEATED)
        return known._replace(part=part) if known and not path else Passed()

    return Payload(device, document, judge, name=name)


def _status(device: str, status: dict[str, Any]) -> Payload:
    def judge(path: Path, _raw: object) -> Judgement:
        if path == ("timestamp",) or (len(path) > 1 and path[-1] in _DESCRIBING):
            return None
        if value_at(status, (*path[:-1], "is_valid")) is False:
            return Passed(UNAVAILABLE)
        known = _STATUS.get(path)
        if known is None:
            return Passed()
        if known.kind == "motion":  # the time is that of the last motion
            return known._replace(stamp=status.get("timestamp"))
        unit = value_at(status, (*path[:-1], "units")) if len(path) > 1 else None
        return known._replace(unit=unit) if isinstance(unit, str) else known

    return Payload(device, status, judge)


def _input(device: str, path: Sequence[str], event: dict[str, Any]) -> Payload:
    """``{"event": "S", "event_cnt": 3}``: a short push, the third since the start."""

    def judge(place: Path, _raw: object) -> Judgement:
        return Meaning("action", part=_part(path)) if place == ("event",) else Passed()

    return Payload(device, event, judge)


def _part(path: Sequence[str]) -> str:
    """``ext_0`` for a probe, ``1`` for the second channel, nothing for the first."""
    number = next((level for level in path if level.isdecimal()), "")
    if number and path[0] in ("ext_temperature", "ext_humidity"):
        return f"ext_{number}"
    if number and path[0] == "adc":
        return f"adc_{number}"
    return "" if number == "0" else number
