"""The kinds of readings that devices give, the unit each is stored in, and the names
that devices have for them and for themselves.

A kind's field names the unit that its metric has: ``pressure_hpa``. Readings for
the ``sensors`` exchange keep the device's unit, since the handlers there convert.
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

#: What DS18x20 (-127) and Shelly's add-on (999) measure without a probe, and what
#: Zigbee's 16 bits hold for "invalid", in °C and in the device's own unit. 85 °C, which
#: a DS18x20 shows before its first measurement, may as well be a boiler's.
_NO_TEMPERATURE = frozenset({-127.0, 999.0, -327.68})
#: Zigbee's 0xFFFF, in hundredths of a percent.
_NO_HUMIDITY = frozenset({-1.0, 655.35})


_OPEN = {"open": True, "opened": True, "close": False, "closed": False}
_LOCKED: Mapping[str, bool] = {
    **dict.fromkeys(("locked", "lock"), True),
    **dict.fromkeys(("unlocked", "unlock", "not_fully_locked"), False),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of reading is.

    Attributes:
        name: second word of its routing keys on ``sensors``, and its name in
            sensornet.yaml.
        field: field of its metric, named for the unit.
        unit: unit of a reading that names none; empty for a state.
        scale: knows the units.
        lowest: smallest value there can be, in the unit of ``field``.
        no_value: numbers by which devices send that they have no value.
        words: of a state, texts that are true or false for it alone.
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
        """A value in the unit of :attr:`field`.

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
    # All but the first are of no room: a chip's, a dew point, a thermostat's aim.
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
    # Power and current may flow back.
    yield Kind("current", "current_amperes", "A", CURRENT)
    yield Kind("power", "power_watts", "W", POWER)
    yield Kind("energy", "energy_kwh", "kWh", ENERGY)
    yield Kind("rssi", "rssi_dbm", "dBm", SIGNAL)
    # What cannot be less than nothing: -1 is for "not known".
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
    # What a button was: ``single``, ``hold``.
    yield Kind("action", "action", form="event")


KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _kinds()}


#: A routing key has at most 255 bytes; this leaves room for what stands before.
_LONGEST_BYTES = 200
_DIGEST_BYTES = 4

#: A device has few names; a longer text is none of them.
_CACHED_CHARS = 64

_NOT_OF_A_WORD = re.compile(r"[^\w-]+")


def word(text: str) -> str:
    """One word of a routing key: letters, digits, ``_`` and ``-``, in lower case.

    ``Wohnzimmer Süd`` → ``wohnzimmer_süd``. Letters of any script are kept; blanks,
    dots and signs become ``_``. Of a text without letters its digest is the word.
    """
    return _word(text) if len(text) <= _CACHED_CHARS else _word.__wrapped__(text)


@lru_cache(maxsize=8_192)
def _word(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    if found := _NOT_OF_A_WORD.sub("_", plain).strip("_"):
        return found
    return f"x{_digest(text)}"


def name(*levels: str) -> str:
    """The name of a sensor: its levels as words, joined by dots.

    ``kitchen/floor lamp`` is two levels, so ``kitchen.floor_lamp``; empty levels are
    left out. A name too long for a routing key ends in a digest of all of it.
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


#: Of sensors: https://www.home-assistant.io/integrations/sensor#device-class
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
    """What a class of binary sensors is; inverted if ``on`` means that the kind is
    false."""

    kind: str
    inverted: bool = False


#: Of binary sensors: https://www.home-assistant.io/integrations/binary_sensor#device-class
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

#: Kinds that a name is not taken for: ``button_action``, ``car_position``.
_NOT_BY_NAME = frozenset({"action", "position", "valve", "link_quality"})
_NAME = re.compile(
    "(?:(?P<of>.*)_)?(?P<kind>"
    + "|".join(sorted(KINDS.keys() - _NOT_BY_NAME, key=len, reverse=True))
    + r")(?:_\d+)?"
)
#: Temperatures of a processor, and those that are aimed at.
_CHIP = re.compile(
    r"(?:.*_)?(?:internal|chip|cpu|mcu|esp|esp32|processor|core|soc|die)"
)
_TARGET = re.compile(r"(?:.*_)?(?:target|set|setpoint|desired)")


def kind_in_name(object_id: str, *, is_binary: bool = False) -> str | None:
    """The kind that a name ends in: ``kitchen_temperature`` is a temperature. That
    of a binary sensor is no number."""
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
