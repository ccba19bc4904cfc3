"""Home Assistant's device classes, and kinds from names."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    "pm25": "pm25",
    "pm10": "pm10",
    "moisture": "soil_moisture",
    "signal_strength": "rssi",
}

#: Of binary sensors, of those that are on for what the kind is true for:
#: https://www.home-assistant.io/integrations/binary_sensor#device-class
BINARY_CLASSES: Mapping[str, str] = {
    "motion": "motion",
    "occupancy": "motion",
    "presence": "motion",
    "moving": "motion",
    "door": "open",
    "window": "open",
    "garage_door": "open",
    "opening": "open",
    "moisture": "water_leak",
    "smoke": "smoke",
    "vibration": "vibration",
}

_NAME = re.compile(
    rf"(?:.*_)?(?P<kind>{'|'.join(sorted(KINDS, key=len, reverse=True))})(?:_\d+)?"
)


def kind_in_name(object_id: str) -> str | None:
    """The kind that a name ends in: ``kitchen_temperature`` is a temperature."""
    found = _NAME.fullmatch(object_id.casefold())
    return found["kind"] if found else None
