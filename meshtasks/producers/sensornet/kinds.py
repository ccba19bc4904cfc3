"""Kinds of readings of devices, with their units, and names that devices use for them.

The field of a kind contains the unit of its metric: ``pressure_hpa``. Readings for the
exchange ``sensors`` keep the unit of the device; the handlers there convert it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from meshtasks.errors import UnknownUnit
from meshtasks.records.kinds import HUMIDITY, TEMPERATURE
from meshtasks.records.units import (
    CURRENT,
    DECIMALS,
    ENERGY,
    ILLUMINANCE,
    LINK_QUALITY,
    MASS_CONCENTRATION,
    PARTS_PER_BILLION,
    PARTS_PER_MILLION,
    PERCENT,
    POWER,
    PRESSURE,
    SIGNAL,
    VOLTAGE,
    Quantity,
    Scale,
)

#: Temperatures that mean "no value", in °C or in the device's unit: -127 (a DS18x20
#: without probe), 999 (Shelly's add-on without probe), -327.68 (Zigbee's invalid 16-bit
#: value). 85 °C is not one of them: a DS18x20 sends it before its first measurement,
#: but a boiler can be that hot.
_NO_TEMPERATURE = frozenset({-127.0, 999.0, -327.68})
#: -1, and Zigbee's 0xFFFF in hundredths of a percent.
_NO_HUMIDITY = frozenset({-1.0, 655.35})


_OPEN = {"open": True, "opened": True, "close": False, "closed": False}
_LOCKED: Mapping[str, bool] = {
    **dict.fromkeys(("locked", "lock"), True),
    **dict.fromkeys(("unlocked", "unlock", "not_fully_locked"), False),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reading.

    Attributes:
        name: second word of its routing keys on ``sensors``, and its name in
            sensornet.yaml.
        field: field of its metric; it contains the unit.
        unit: default unit of its readings; empty for a state.
        scale: conversion between units.
        form: whether its readings are numbers, states (true or false) or events.
        lowest: lowest possible value, in the unit of ``field``.
        highest: highest possible value, in the unit of ``field``.
        no_value: numbers that devices send for "no value".
        words: texts that mean true or false for this state only.
    """

    name: str
    field: str
    unit: str = ""
    scale: Scale | Quantity | None = None
    form: Literal["number", "state", "event"] = "number"
    lowest: float = -math.inf
    highest: float = math.inf
    no_value: frozenset[float] = frozenset()
    words: Mapping[str, bool] = dataclasses.field(default_factory=dict)

    def converted(self, value: float, unit: str) -> float:
        """Return a value in the unit of :attr:`field`.

        Raises:
            UnknownUnit: the unit is not one of this kind.
        """
        match self.scale:
            case Quantity() as quantity:
                factor, offset = quantity.affine(unit)
            case Scale() as scale:
                factor, offset = scale.factor(unit), 0.0
            case None:
                message = f"{self.name} has no unit"
                raise UnknownUnit(message)
        return round(value * factor + offset, DECIMALS)


def _kinds() -> Iterator[Kind]:
    # Only the first is the temperature of a room.
    for name, field in (
        ("temperature", "temperature_celsius"),
        ("chip_temperature", "chip_celsius"),
        ("dew_point", "dew_point_celsius"),
        ("target_temperature", "target_celsius"),
    ):
        lowest, no_value = TEMPERATURE.lowest, _NO_TEMPERATURE
        yield Kind(name, field, "°C", TEMPERATURE, lowest=lowest, no_value=no_value)
    yield Kind(
        *("humidity", "humidity_percent", "%", HUMIDITY),
        lowest=HUMIDITY.lowest,
        highest=HUMIDITY.highest,
        no_value=_NO_HUMIDITY,
    )
    # Power and current are negative when they flow back.
    yield Kind("current", "current_amperes", "A", CURRENT)
    yield Kind("power", "power_watts", "W", POWER)
    yield Kind("energy", "energy_kwh", "kWh", ENERGY)
    yield Kind("rssi", "rssi_dbm", "dBm", SIGNAL)
    # Never negative: devices send -1 for "not known".
    for names, suffix, unit, scale in (
        ("battery soil_moisture valve position", "_percent", "%", PERCENT),
        ("voltage", "_volts", "V", VOLTAGE),
        ("illuminance", "_lux", "lx", ILLUMINANCE),
        ("pressure", "_hpa", "hPa", PRESSURE),
        ("co2 eco2 co", "_ppm", "ppm", PARTS_PER_MILLION),
        ("tvoc", "_ppb", "ppb", PARTS_PER_BILLION),
        ("voc pm1 pm25 pm10", "_ug_per_m3", "µg/m³", MASS_CONCENTRATION),
        ("link_quality", "", "lqi", LINK_QUALITY),
    ):
        highest = 100.0 if unit == "%" else math.inf
        for name in names.split():
            yield Kind(
                *(name, f"{name}{suffix}", unit, scale),
                lowest=0.0,
                highest=highest,
                no_value=frozenset({-1.0}),
            )
    states = "motion battery_low water_leak smoke carbon_monoxide gas tamper vibration"
    for name in states.split():
        yield Kind(name, name, form="state")
    yield Kind("open", "open", form="state", words=_OPEN)
    yield Kind("locked", "locked", form="state", words=_LOCKED)
    # Presses of a button, such as ``single`` and ``hold``.
    yield Kind("action", "action", form="event")


KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _kinds()}


#: Longest sensor name. A routing key has at most 255 bytes, and other words precede it.
_LONGEST_BYTES = 200
_DIGEST_BYTES = 4

#: Longest text that is cached: names of devices are shorter.
_CACHED_CHARS = 64

_NOT_OF_A_WORD = re.compile(r"[^\w-]+")


def word(text: str) -> str:
    """Return a text as one word of a routing key, in lower case.

    ``Wohnzimmer Süd`` → ``wohnzimmer_süd``. Letters of any script, digits, ``_`` and
    ``-`` are kept; everything else becomes ``_``. If nothing is left, the word is a
    digest of the text.
    """
    return _word(text) if len(text) <= _CACHED_CHARS else _word.__wrapped__(text)


@lru_cache(maxsize=8_192)
def _word(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    if found := _NOT_OF_A_WORD.sub("_", plain).strip("_"):
        return found
    return f"x{_digest(text)}"


def name(*levels: str) -> str:
    """Return the name of a sensor: its levels as words, joined by dots.

    A slash separates levels too: ``kitchen/floor lamp`` → ``kitchen.floor_lamp``. Empty
    levels are left out. A name that is too long for a routing key is cut, and ends in a
    digest of the whole name.
    """
    words = [word(each) for level in levels for each in level.split("/") if each]
    joined = ".".join(words) or word("")
    encoded = joined.encode()
    if len(encoded) <= _LONGEST_BYTES:
        return joined
    kept = encoded[: _LONGEST_BYTES - 2 * _DIGEST_BYTES - 1].decode(errors="ignore")
    return f"{kept.rstrip('.')}-{_digest(joined)}"


def _digest(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()


#: Device class of sensors → kind:
#: https://www.home-assistant.io/integrations/sensor#device-class
SENSOR_CLASSES: Mapping[str, str] = {
    **{
        kind: kind
        for kind in (
            *("temperature", "humidity", "battery", "voltage", "current", "power"),
            *("energy", "illuminance", "pressure", "pm1", "pm25", "pm10"),
        )
    },
    "atmospheric_pressure": "pressure",
    "carbon_dioxide": "co2",
    "carbon_monoxide": "co",
    "volatile_organic_compounds": "voc",
    "volatile_organic_compounds_parts": "tvoc",
    "moisture": "soil_moisture",
    "signal_strength": "rssi",
}


class State(NamedTuple):
    """Kind of a class of binary sensors.

    Attributes:
        inverted: whether ``on`` means that the kind is false.
    """

    kind: str
    inverted: bool = False


#: Device class of binary sensors → state:
#: https://www.home-assistant.io/integrations/binary_sensor#device-class
BINARY_CLASSES: Mapping[str, State] = {
    **dict.fromkeys(("motion", "occupancy", "presence", "moving"), State("motion")),
    **dict.fromkeys(("door", "window", "garage_door", "opening"), State("open")),
    "lock": State("locked", inverted=True),
    "moisture": State("water_leak"),
    "battery": State("battery_low"),
    **{
        kind: State(kind)
        for kind in ("smoke", "carbon_monoxide", "gas", "tamper", "vibration")
    },
}

#: Kinds that are not recognised by name: ``button_action``, ``car_position``.
_NOT_BY_NAME = frozenset({"action", "position", "valve", "link_quality"})
_NAME = re.compile(
    "(?:(?P<of>.*)_)?(?P<kind>"
    + "|".join(sorted(KINDS.keys() - _NOT_BY_NAME, key=len, reverse=True))
    + r")(?:_\d+)?"
)
#: Names of temperatures of processors, and of target temperatures.
_CHIP = re.compile(
    r"(?:.*_)?(?:internal|chip|cpu|mcu|esp|esp32|processor|core|soc|die)"
)
_TARGET = re.compile(r"(?:.*_)?(?:target|set|setpoint|desired)")


def kind_in_name(object_id: str, *, is_binary: bool = False) -> str | None:
    """Return the kind that a name ends in: ``kitchen_temperature`` → ``temperature``.

    Args:
        is_binary: whether the kind must be a state; otherwise it must be a number.
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
