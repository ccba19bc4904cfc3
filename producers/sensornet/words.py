"""Home Assistant's device classes, and kinds from names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from producers.sensornet.kinds import KINDS

#: Of sensors: https://www.home-assistant.io/integrations/sensor#device-class
SENSOR_CLASSES: Mapping[str, str] = {
    "temperature": "temperature",
    "humidity": "humidity",
    "battery": "battery",
    "voltage": "voltage",
    "current": "current",
    "power": "power",
    "energy": "energy",
    "illuminance": "illuminance",
    "pressure": "pressure",
    "atmospheric_pressure": "pressure",
    "carbon_dioxide": "co2",
    "carbon_monoxide": "co",
    "volatile_organic_compounds": "voc",
    "volatile_organic_compounds_parts": "tvoc",
    "pm1": "pm1",
    "pm25": "pm25",
    "pm10": "pm10",
    "moisture": "soil_moisture",
    "signal_strength": "rssi",
}


class State(NamedTuple):
    """What a class of binary sensors is.

    Attributes:
        kind: the state.
        inverted: whether ``on`` means that the kind is false.
    """

    kind: str
    inverted: bool = False


#: Of binary sensors: https://www.home-assistant.io/integrations/binary_sensor#device-class
BINARY_CLASSES: Mapping[str, State] = {
    "motion": State("motion"),
    "occupancy": State("motion"),
    "presence": State("motion"),
    "moving": State("motion"),
    "door": State("open"),
    "window": State("open"),
    "garage_door": State("open"),
    "opening": State("open"),
    "lock": State("locked", inverted=True),
    "moisture": State("water_leak"),
    "smoke": State("smoke"),
    "carbon_monoxide": State("carbon_monoxide"),
    "gas": State("gas"),
    "tamper": State("tamper"),
    "vibration": State("vibration"),
    "battery": State("battery_low"),
}

#: Kinds that a name is not taken for: ``button_action``, ``car_position``.
_NOT_BY_NAME = frozenset({"action", "position", "valve", "link_quality"})
_NAME = re.compile(
    "(?:(?P<of>.*)_)?(?P<kind>"
    + "|".join(sorted(KINDS.keys() - _NOT_BY_NAME, key=len, reverse=True))
    + r")(?:_\d+)?"
)
#: Temperatures of a processor, and those that somebody wishes for.
_CHIP = re.compile(
    r"(?:.*_)?(?:internal|chip|cpu|mcu|esp|esp32|processor|core|soc|die)"
)
_TARGET = re.compile(r"(?:.*_)?(?:target|set|setpoint|desired)")


def kind_in_name(object_id: str, *, is_binary: bool = False) -> str | None:
    """The kind that a name ends in: ``kitchen_temperature`` is a temperature.

    Args:
        object_id: the name.
        is_binary: whether it is one of a binary sensor, which is no number.
    """
    found = _NAME.fullmatch(object_id.casefold())
    if found is None:
        return None
    kind = found["kind"]
    if kind == "temperature" and found["of"]:
        if _CHIP.fullmatch(found["of"]):
            kind = "chip_temperature"
        elif _TARGET.fullmatch(found["of"]):
            kind = "target_temperature"
    elif kind == "humidity" and found["of"] and found["of"].endswith("soil"):
        kind = "soil_moisture"
    expected = "state" if is_binary else "number"
    return kind if KINDS[kind].form == expected else None
