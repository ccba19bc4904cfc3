"""What a sensor kind measures, the spellings of its units, and the way to its
canonical unit.

The spellings are those of UCUM (https://ucum.org/ucum, case-sensitive codes
``Cel [degF] K %``), of Home Assistant's unit constants (``°C °F K %``) and those
that devices are seen to publish. The five factors are written down, and a test asks
pint about them: to load pint takes as long as all the rest of a worker's start, and
30 MB.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict

from meshtasks.domain.errors import UnknownUnit
from meshtasks.domain.text import clip

#: Decimals kept of a converted value. It hides what binary fractions add
#: (98.6 °F is 37 °C, not 37.00000000000001) and is finer than any sensor.
DECIMALS = 6

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
        spellings: lower-case spelling of a unit → the way to the canonical one.
        shown: the spellings that an error message lists.
    """

    kind: str
    title: str
    canonical_unit: str
    field: str
    lowest: float
    highest: float
    why: str
    spellings: Mapping[str, Affine]
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


def _spelled(units: Mapping[str, Affine]) -> dict[str, Affine]:
    """``{"a|b": way}`` → ``{"a": way, "b": way}``."""
    return {
        spelling: way
        for spellings, way in units.items()
        for spelling in spellings.split("|")
    }


TEMPERATURE = Quantity(
    kind="temperature",
    title="a temperature",
    canonical_unit="°C",
    field="celsius",
    lowest=-273.15,
    highest=math.inf,
    why="absolute zero is -273.15 °C",
    spellings=_spelled(
        {
            "°c|c|cel|celsius|degc|deg c|degree_celsius|degrees celsius": IDENTITY,
            "°f|f|[degf]|fahrenheit|degf|deg f|degree_fahrenheit|degrees fahrenheit": (
                Affine(5 / 9, -160 / 9)
            ),
            "k|°k|kelvin|degk": Affine(1.0, -273.15),
        }
    ),
    shown="°C, °F, K (also C, F, degC, degF, Cel, [degF], celsius, fahrenheit, kelvin)",
)

HUMIDITY = Quantity(
    kind="humidity",
    title="a relative humidity",
    canonical_unit="%",
    field="percent",
    lowest=0.0,
    highest=100.0,
    why="relative humidity is between 0 and 100 %",
    spellings=_spelled(
        {
            "%|%rh|% rh|rh%|%{rh}|[%rh]|percent|pct": IDENTITY,
            "1|{fraction}|{ratio}|fraction|ratio": Affine(100.0, 0.0),
        }
    ),
    shown="%, %RH, percent, or fraction (0 to 1)",
)

QUANTITIES: Mapping[str, Quantity] = {
    quantity.kind: quantity for quantity in (TEMPERATURE, HUMIDITY)
}


@lru_cache(maxsize=1024)
def _affine(quantity: Quantity, unit: str) -> Affine:
    spelling = unicodedata.normalize("NFKC", unit.strip().replace("º", "°")).casefold()
    way = quantity.spellings.get(spelling)
    if way is None:
        raise UnknownUnit(_unknown(quantity, unit))
    return way


def _unknown(quantity: Quantity, unit: str) -> str:
    shown = clip(unit)
    if quantity is HUMIDITY and unit.strip() in _ABSOLUTE_HUMIDITY:
        return (
            f'unit "{shown}" is absolute humidity; it needs the air temperature to '
            "become relative humidity, so convert it where both are measured and "
            "publish %"
        )
    return f'unit "{shown}" is not {quantity.title} unit; expected {quantity.shown}'


def _known_units(units: dict[str, str]) -> dict[str, str]:
    for kind, unit in units.items():
        if kind not in QUANTITIES:
            message = f'"{kind}" is not a sensor kind; expected {", ".join(QUANTITIES)}'
            raise ValueError(message)
        try:
            QUANTITIES[kind].affine(unit)
        except UnknownUnit as error:
            raise ValueError(str(error)) from error
    return units


class KindsConfig(BaseModel):
    """config/kinds.yaml.

    Attributes:
        default_units: sensor kind → unit of readings that name none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_units: Annotated[dict[str, str], AfterValidator(_known_units)] = {}

    def default_unit(self, quantity: Quantity) -> str:
        """Unit of a reading that names none; canonical unless configured."""
        return self.default_units.get(quantity.kind, quantity.canonical_unit)
