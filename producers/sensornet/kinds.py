"""The kinds of readings that devices give, and the unit each is stored in.

A kind's field names the unit that its metric has: ``pressure_hpa``. Readings for
the ``sensors`` exchange keep the device's unit, since the handlers there convert.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

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


def _state(name: str, words: Mapping[str, bool] | None = None) -> Kind:
    return Kind(name, name, form="state", words=words or {})


def _temperature(name: str, field: str) -> Kind:
    lowest = TEMPERATURE.lowest
    sentinels = _NO_TEMPERATURE
    return Kind(name, field, "°C", TEMPERATURE, lowest=lowest, no_value=sentinels)


def _amount(
    name: str, field: str, unit: str, scale: Scale, highest: float = math.inf
) -> Kind:
    """Of something that cannot be less than nothing: -1 is for "not known"."""
    minus_one = frozenset({-1.0})
    return Kind(
        name, field, unit, scale, lowest=0.0, highest=highest, no_value=minus_one
    )


def _share(name: str) -> Kind:
    return _amount(name, f"{name}_percent", "%", PERCENT, highest=100.0)


def _mass(name: str) -> Kind:
    return _amount(name, f"{name}_ug_per_m3", "µg/m³", MASS_CONCENTRATION)


def _parts(name: str) -> Kind:
    return _amount(name, f"{name}_ppm", "ppm", PARTS_PER_MILLION)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _temperature("temperature", "temperature_celsius"),
        Kind(
            *("humidity", "humidity_percent", "%", HUMIDITY),
            lowest=HUMIDITY.lowest,
            highest=HUMIDITY.highest,
            no_value=_NO_HUMIDITY,
        ),
        _state("motion"),
        # Temperatures of no room: a chip's, a dew point, what a thermostat aims at.
        _temperature("chip_temperature", "chip_celsius"),
        _temperature("dew_point", "dew_point_celsius"),
        _temperature("target_temperature", "target_celsius"),
        _share("battery"),
        _state("battery_low"),
        _amount("voltage", "voltage_volts", "V", VOLTAGE),
        # Power and current may flow back.
        Kind("current", "current_amperes", "A", CURRENT),
        Kind("power", "power_watts", "W", POWER),
        Kind("energy", "energy_kwh", "kWh", ENERGY),
        _amount("illuminance", "illuminance_lux", "lx", ILLUMINANCE),
        _amount("pressure", "pressure_hpa", "hPa", PRESSURE),
        _parts("co2"),
        _parts("eco2"),
        _parts("co"),
        _amount("tvoc", "tvoc_ppb", "ppb", PARTS_PER_BILLION),
        _mass("voc"),
        _mass("pm1"),
        _mass("pm25"),
        _mass("pm10"),
        _share("soil_moisture"),
        _share("valve"),
        _share("position"),
        Kind("rssi", "rssi_dbm", "dBm", SIGNAL),
        _amount("link_quality", "link_quality", "lqi", LINK_QUALITY),
        _state("open", {"open": True, "opened": True, "close": False, "closed": False}),
        _state("locked", _LOCKED),
        _state("water_leak"),
        _state("smoke"),
        _state("carbon_monoxide"),
        _state("gas"),
        _state("tamper"),
        _state("vibration"),
        # What a button was: ``single``, ``hold``.
        Kind("action", "action", form="event"),
    )
}
