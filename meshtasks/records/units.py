"""Units: their spellings, and the way from each to a canonical one.

The spellings are those of UCUM (https://ucum.org/ucum, case-sensitive codes
``Cel [degF] K %``), of Home Assistant's unit constants (``°C °F K %``) and those
that devices are seen to publish. The factors are written down, and a test asks
pint about them: to load pint takes as long as all the rest of a worker's start, and
30 MB.

A :class:`Quantity` is a kind of sensor with a queue and a measurement of its own
(:mod:`meshtasks.records.kinds`); a :class:`Scale` holds the units of a metric's field.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from meshtasks.errors import UnknownUnit
from meshtasks.text import clip

#: Decimals kept of a converted value. It hides what binary fractions add
#: (98.6 °F is 37 °C, not 37.00000000000001) and is finer than any sensor.
DECIMALS = 6

V = TypeVar("V")

#: An absolute humidity says how much water is in the air, not how near the air
#: is to saturation; that depends on its temperature.
_ABSOLUTE_HUMIDITY = frozenset({"g/m³", "g/m3", "g/m^3", "g.m-3", "mg/m³", "kg/m³"})


class Affine(NamedTuple):
    """``canonical = value * scale + offset``."""

    scale: float
    offset: float


IDENTITY = Affine(1.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """What one kind of sensor measures.

    Attributes:
        kind: second word of its routing keys, and the measurement of its points.
        title: its name in a sentence.
        canonical_unit: unit that values are stored in.
        field: field of its points, named for the canonical unit.
        lowest: smallest possible value, canonical unit.
        highest: largest possible value, canonical unit.
        why: why no other value can be.
        units: unit, as :func:`spelled` → the way to the canonical one.
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
        """The way from ``unit`` to the canonical unit.

        Raises:
            UnknownUnit: it is not a unit of this quantity.
        """
        return _affine(self, unit)

    def impossible(self, value: float, unit: str) -> str:
        """Sentence for a value (canonical unit) outside the possible range.

        Args:
            value: the value, in the canonical unit.
            unit: the unit it was given in.
        """
        given = "" if unit == self.canonical_unit else f" (given in {unit})"
        return f"value: {value:g} {self.canonical_unit}{given} cannot be: {self.why}"


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The units of one thing, each a multiple of the others.

    Attributes:
        title: what is measured, in a sentence.
        factors: unit → factor to the unit that values are stored in. These are
            spelled as in Home Assistant, in Unicode's compatible form (``m3``).
    """

    title: str
    factors: Mapping[str, float]

    def factor(self, unit: str) -> float:
        """What a value in ``unit`` is multiplied with.

        ``kwh`` and ``HPA`` are understood, since no other unit is spelled so but
        for its case; ``mw`` is not: it may be a milliwatt or a megawatt.

        Raises:
            UnknownUnit: it is not a unit of this.
        """
        return _factor(self, unit)


def spelled(unit: str) -> str:
    """A unit in the one spelling that it is looked up by: in Unicode's compatible form
    (``m3`` for ``m³``), without white space and ``^``."""
    # NFKC makes an o of the ordinal that stands on keyboards beside the degree
    text = unicodedata.normalize("NFKC", unit.replace("º", "°"))
    return "".join(text.split()).replace("^", "")


def _find(units: Mapping[str, V], unit: str) -> V | None:
    """What belongs to a unit: by its spelling, or but for upper and lower case if no
    other unit is spelled so."""
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
#: The international table's; 1 BTU/h is a 3600th of it in watts.
_JOULES_PER_BTU = 1055.056
#: 1 mmHg is 101325/760 Pa, 1 inHg is 25.4 mmHg (conventional millimetre of mercury).
_HPA_PER_MMHG = 1013.25 / 760
_HPA_PER_PSI = 68.947572931683
_HPA_PER_INCH_OF_WATER = 2.4908891
_CUBIC_FEET_PER_M3 = 35.3146667214886

PERCENT = Scale("percent", {"%": 1.0, "percent": 1.0, "pct": 1.0})
VOLTAGE = Scale(
    "voltage", {"V": 1.0, "mV": 1e-3, "μV": 1e-6, "uV": 1e-6, "kV": 1e3, "MV": 1e6}
)
CURRENT = Scale("current", {"A": 1.0, "mA": 1e-3, "μA": 1e-6, "uA": 1e-6})
POWER = Scale(
    "power",
    {
        "W": 1.0,
        "mW": 1e-3,
        "kW": 1e3,
        "MW": 1e6,
        "GW": 1e9,
        "TW": 1e12,
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
#: Zigbee's link quality indicator, 0 to 255, has no unit.
LINK_QUALITY = Scale("link quality", {"lqi": 1.0})
