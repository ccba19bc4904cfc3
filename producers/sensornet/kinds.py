"""The kinds of readings that devices give, and the unit each is stored in.

A kind's field names the unit that its metric has: ``pressure_hpa``. Readings for
the ``sensors`` exchange keep the device's unit, since the handlers there convert.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from meshtasks.domain.errors import UnknownUnit
from meshtasks.domain.text import clip
from meshtasks.domain.units import DECIMALS, HUMIDITY, TEMPERATURE, Quantity


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of reading is.

    Attributes:
        name: second word of its routing keys on ``sensors``, and its name in
            sensornet.yaml.
        field: field of its metric, named for the unit.
        unit: unit of a reading that names none; empty for a state.
        factors: spelling of a unit → factor to the unit of ``field``.
        quantity: knows the units instead, where the mesh has them already.
        is_state: true or false rather than a number.
    """

    name: str
    field: str
    unit: str = ""
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    quantity: Quantity | None = None
    is_state: bool = False

    def converted(self, value: float, unit: str) -> float:
        """A value in the unit of :attr:`field`.

        Raises:
            UnknownUnit: the unit is not one of this kind.
        """
        if self.quantity is not None:
            scale, offset = self.quantity.affine(unit)
            return round(value * scale + offset, DECIMALS)
        factor = self.factors.get(unit.strip())
        if factor is None:
            expected = ", ".join(self.factors)
            message = (
                f'unit "{clip(unit)}" is not one of {self.name}; expected {expected}'
            )
            raise UnknownUnit(message)
        return round(value * factor, DECIMALS)


def _state(name: str) -> Kind:
    return Kind(name, name, is_state=True)


#: 1 mmHg is 101325/760 Pa, 1 inHg is 25.4 mmHg (conventional millimetre of mercury).
_HPA_PER_MMHG = 1013.25 / 760

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("temperature", "temperature_celsius", "°C", quantity=TEMPERATURE),
        Kind("humidity", "humidity_percent", "%", quantity=HUMIDITY),
        _state("motion"),
        # A chip's temperature and a dew point are no temperatures of a room.
        Kind("chip_temperature", "chip_celsius", "°C", quantity=TEMPERATURE),
        Kind("dew_point", "dew_point_celsius", "°C", quantity=TEMPERATURE),
        Kind("battery", "battery_percent", "%", {"%": 1.0}),
        Kind("voltage", "voltage_volts", "V", {"V": 1.0, "mV": 1e-3}),
        Kind("current", "current_amperes", "A", {"A": 1.0, "mA": 1e-3}),
        Kind("power", "power_watts", "W", {"W": 1.0, "kW": 1e3}),
        Kind(
            "energy",
            "energy_kwh",
            "kWh",
            {"kWh": 1.0, "Wh": 1e-3, "Wmin": 1 / 60_000, "MWh": 1e3},
        ),
        Kind("illuminance", "illuminance_lux", "lx", {"lx": 1.0, "lux": 1.0}),
        Kind(
            "pressure",
            "pressure_hpa",
            "hPa",
            {
                "hPa": 1.0,
                "mbar": 1.0,
                "kPa": 10.0,
                "Pa": 0.01,
                "mmHg": _HPA_PER_MMHG,
                "inHg": 25.4 * _HPA_PER_MMHG,
            },
        ),
        Kind("co2", "co2_ppm", "ppm", {"ppm": 1.0}),
        Kind("pm25", "pm25_ug_per_m3", "µg/m³", {"µg/m³": 1.0, "μg/m³": 1.0}),
        Kind("pm10", "pm10_ug_per_m3", "µg/m³", {"µg/m³": 1.0, "μg/m³": 1.0}),
        Kind("soil_moisture", "soil_moisture_percent", "%", {"%": 1.0}),
        Kind("rssi", "rssi_dbm", "dBm", {"dBm": 1.0, "dB": 1.0}),
        # Zigbee's link quality indicator, 0 to 255, has no unit.
        Kind("link_quality", "link_quality", "lqi", {"lqi": 1.0}),
        _state("open"),
        _state("water_leak"),
        _state("smoke"),
        _state("vibration"),
    )
}
