"""Units: their spellings, and their conversion to a canonical unit.

The spellings are those of UCUM (https://ucum.org/ucum, case-sensitive codes
``Cel [degF] K %``), those of Home Assistant's unit constants (``°C °F K %``), and those
that devices publish. The factors are constants, which a test compares with pint:
importing pint takes as long as the rest of a worker's start, and 30 MB.

A :class:`Quantity` is what a kind of sensor measures (:mod:`meshtasks.records.kinds`);
it has a queue and a measurement of its own. A :class:`Scale` has the units of a field
of a metric.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from meshtasks.errors import UnknownUnit
from meshtasks.text import clip

#: Decimals of a converted value. Rounding removes errors of binary fractions (98.6 °F
#: is 37 °C, not 37.00000000000001); six decimals are finer than any sensor.
DECIMALS = 6

V = TypeVar("V")

#: Units of absolute humidity. They cannot be converted to relative humidity without
#: the temperature of the air.
_ABSOLUTE_HUMIDITY = frozenset({"g/m³", "g/m3", "g/m^3", "g.m-3", "mg/m³", "kg/m³"})


class Affine(NamedTuple):
    """A conversion: ``canonical = value * scale + offset``."""

    scale: float
    offset: float


IDENTITY = Affine(1.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """What one kind of sensor measures.

    Attributes:
        kind: second word of the routing keys, and measurement of the points.
        title: name for use in a sentence, with its article.
        canonical_unit: unit in which values are stored.
        field: field of the points, named after the canonical unit.
        lowest: smallest possible value, in the canonical unit.
        highest: largest possible value, in the canonical unit.
        why: reason why other values are impossible, for error messages.
        units: unit as returned by :func:`spelled` → conversion to the canonical unit.
        shown: the units that an error message lists.
    """

    kind: str
    title: str
    canonical_unit: str
    field: str
    lowest: float
    highest: float
    why: str
    units: Mapping[str, Affine]
    shown: str

    def affine(self, unit: str) -> Affine:
        """The conversion from ``unit`` to the canonical unit.

        Raises:
            UnknownUnit: ``unit`` is not a unit of this quantity.
        """
        return _affine(self, unit)

    def impossible(self, value: float, unit: str) -> str:
        """Error message for an impossible value.

        Args:
            value: the value, in the canonical unit.
            unit: unit of the reading.
        """
        given = "" if unit == self.canonical_unit else f" (given in {unit})"
        return f"value: {value:g} {self.canonical_unit}{given} cannot be: {self.why}"


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The units of a field of metrics, which differ by factors only.

    Attributes:
        title: what is measured, for use in a sentence.
        factors: unit → factor to the unit in which values are stored. Units are spelled
            as in Home Assistant, normalised with NFKC (``m3`` for ``m³``).
    """

    title: str
    factors: Mapping[str, float]

    def factor(self, unit: str) -> float:
        """The factor by which a value in ``unit`` is multiplied.

        Case is ignored where the unit is unambiguous: ``kwh`` and ``HPA`` are accepted,
        ``mw`` (milliwatt or megawatt) is not.

        Raises:
            UnknownUnit: ``unit`` is not a unit of this scale.
        """
        return _factor(self, unit)


def spelled(unit: str) -> str:
    """Normalise a unit for look-up: with NFKC (``m3`` for ``m³``), and without white
    space and ``^``.

    UTF-8 that was read as Latin-1 and written as UTF-8 again is repaired: ``Â°C``.
    """
    # NFKC would convert º, which many keyboards have instead of °, to the letter o.
    text = unicodedata.normalize("NFKC", unit.replace("Â", "").replace("º", "°"))
    return "".join(text.split()).replace("^", "")


def _find(units: Mapping[str, V], unit: str) -> V | None:
    """Look up a unit; without regard to case if that is unambiguous."""
    spelling = spelled(unit)
    if (found := units.get(spelling)) is not None:
        return found
    folded = {
        value
        for known, value in units.items()
        if known.casefold() == spelling.casefold()
    }
    return folded.pop() if len(folded) == 1 else None


@lru_cache(maxsize=1024)
def _factor(scale: Scale, unit: str) -> float:
    factor = _find(scale.factors, unit)
    if factor is None:
        expected = ", ".join(scale.factors)
        message = (
            f'unit "{clip(unit)}" is not one of {scale.title}; expected {expected}'
        )
        raise UnknownUnit(message)
    return factor


@lru_cache(maxsize=1024)
def _affine(quantity: Quantity, unit: str) -> Affine:
    way = _find(quantity.units, unit)
    if way is None:
        raise UnknownUnit(_unknown(quantity, unit))
    return way


def _unknown(quantity: Quantity, unit: str) -> str:
    shown = clip(unit)
    if quantity.kind == "humidity" and unit.strip() in _ABSOLUTE_HUMIDITY:
        return (
            f'unit "{shown}" is absolute humidity; it needs the air temperature to '
            "become relative humidity, so convert it where both are measured and "
            "publish %"
        )
    return f'unit "{shown}" is not {quantity.title} unit; expected {quantity.shown}'


_JOULES_PER_KWH = 3.6e6
_JOULES_PER_CALORIE = 4.184
#: International Table BTU; 1 BTU/h is this value / 3600 in watts.
_JOULES_PER_BTU = 1055.056
#: 1 mmHg is 101325/760 Pa, 1 inHg is 25.4 mmHg (conventional millimetre of mercury).
_HPA_PER_MMHG = 1013.25 / 760
_HPA_PER_PSI = 68.947572931683
_HPA_PER_INCH_OF_WATER = 2.4908891
_CUBIC_FEET_PER_M3 = 35.3146667214886

PERCENT = Scale("percent", {"%": 1.0, "percent": 1.0, "pct": 1.0})
VOLTAGE = Scale(
    "voltage",
    {"V": 1.0, "mV": 1e-3, "μV": 1e-6, "uV": 1e-6, "kV": 1e3, "MV": 1e6}
    | {"volt": 1.0, "volts": 1.0},
)
CURRENT = Scale(
    "current",
    {"A": 1.0, "mA": 1e-3, "μA": 1e-6, "uA": 1e-6}
    | {"amp": 1.0, "amps": 1.0, "ampere": 1.0},
)
POWER = Scale(
    "power",
    {
        "W": 1.0,
        "mW": 1e-3,
        "kW": 1e3,
        "MW": 1e6,
        "GW": 1e9,
        "TW": 1e12,
        "watt": 1.0,
        "watts": 1.0,
        "BTU/h": _JOULES_PER_BTU / 3600,
    },
)
ENERGY = Scale(
    "energy",
    {
        "kWh": 1.0,
        "mWh": 1e-6,
        "Wh": 1e-3,
        "MWh": 1e3,
        "GWh": 1e6,
        "TWh": 1e9,
        "Wmin": 1 / 60_000,
        "Ws": 1 / _JOULES_PER_KWH,
        **{
            f"{prefix}{unit}": factor * joules / _JOULES_PER_KWH
            for unit, joules in (("J", 1.0), ("cal", _JOULES_PER_CALORIE))
            for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
        },
    },
)
PRESSURE = Scale(
    "pressure",
    {
        "hPa": 1.0,
        "mPa": 1e-5,
        "Pa": 0.01,
        "kPa": 10.0,
        "MPa": 1e4,
        "mbar": 1.0,
        "mb": 1.0,
        "cbar": 10.0,
        "bar": 1e3,
        "psi": _HPA_PER_PSI,
        "mmHg": _HPA_PER_MMHG,
        "inHg": 25.4 * _HPA_PER_MMHG,
        "inH2O": _HPA_PER_INCH_OF_WATER,
    },
)
ILLUMINANCE = Scale("illuminance", {"lx": 1.0, "lux": 1.0, "klx": 1e3})
PARTS_PER_MILLION = Scale("parts per million", {"ppm": 1.0, "ppb": 1e-3})
PARTS_PER_BILLION = Scale("parts per billion", {"ppb": 1.0, "ppm": 1e3})
MASS_CONCENTRATION = Scale(
    "mass concentration",
    {
        "μg/m3": 1.0,
        "ug/m3": 1.0,
        "mcg/m3": 1.0,
        "mg/m3": 1e3,
        "g/m3": 1e6,
        "μg/ft3": _CUBIC_FEET_PER_M3,
        "ug/ft3": _CUBIC_FEET_PER_M3,
    },
)
SIGNAL = Scale("signal strength", {"dBm": 1.0, "dB": 1.0})
#: Link quality indicator of Zigbee, 0 to 255, without a unit.
LINK_QUALITY = Scale("link quality", {"lqi": 1.0})
