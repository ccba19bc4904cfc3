"""What a sensor kind measures, the spellings of its units, and the way to its
canonical unit.

The spellings are those of UCUM (https://ucum.org/ucum, case-sensitive codes
``Cel [degF] K %``), of Home Assistant's unit constants (``°C °F K %``) and those
that devices are seen to publish. pint knows the factors; it is asked once, since
a conversion through pint takes five times as long as all the rest of a reading.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from meshtasks.domain.errors import UnknownUnit
from meshtasks.domain.text import clip

if TYPE_CHECKING:
    from pint import UnitRegistry

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
        canonical_pint: pint's name of that unit.
        field: field of its points, named for the canonical unit.
        lowest: smallest possible value, canonical unit.
        highest: largest possible value, canonical unit.
        why: why no other value can be.
        spellings: lower-case spelling of a unit → pint's name of it.
        shown: the spellings that an error message lists.
    """

    kind: str
    title: str
    canonical_unit: str
    canonical_pint: str
    field: str
    lowest: float
    highest: float
    why: str
    spellings: Mapping[str, str]
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


def _spelled(**spellings: str) -> dict[str, str]:
    """``unit="a|b"`` → ``{"a": unit, "b": unit}``."""
    return {
        spelling: unit
        for unit, alternatives in spellings.items()
        for spelling in alternatives.split("|")
    }


TEMPERATURE = Quantity(
    kind="temperature",
    title="a temperature",
    canonical_unit="°C",
    canonical_pint="degree_Celsius",
    field="celsius",
    lowest=-273.15,
    highest=math.inf,
    why="absolute zero is -273.15 °C",
    spellings=_spelled(
        degree_Celsius="°c|c|cel|celsius|degc|deg c|degree_celsius|degrees celsius",
        degree_Fahrenheit=(
            "°f|f|[degf]|fahrenheit|degf|deg f|degree_fahrenheit|degrees fahrenheit"
        ),
        kelvin="k|°k|kelvin|degk",
    ),
    shown="°C, °F, K (also C, F, degC, degF, Cel, [degF], celsius, fahrenheit, kelvin)",
)

HUMIDITY = Quantity(
    kind="humidity",
    title="a relative humidity",
    canonical_unit="%",
    canonical_pint="percent",
    field="percent",
    lowest=0.0,
    highest=100.0,
    why="relative humidity is between 0 and 100 %",
    spellings=_spelled(
        percent="%|%rh|% rh|rh%|%{rh}|[%rh]|percent|pct",
        dimensionless="1|{fraction}|{ratio}|fraction|ratio",
    ),
    shown="%, %RH, percent, or fraction (0 to 1)",
)

QUANTITIES: Mapping[str, Quantity] = {
    quantity.kind: quantity for quantity in (TEMPERATURE, HUMIDITY)
}


@lru_cache(maxsize=1024)
def _affine(quantity: Quantity, unit: str) -> Affine:
    spelling = unicodedata.normalize("NFKC", unit.strip().replace("º", "°")).casefold()
    name = quantity.spellings.get(spelling)
    if name is None:
        raise UnknownUnit(_unknown(quantity, unit))
    return _factors(quantity)[name]


def _unknown(quantity: Quantity, unit: str) -> str:
    shown = clip(unit)
    if quantity is HUMIDITY and unit.strip() in _ABSOLUTE_HUMIDITY:
        return (
            f'unit "{shown}" is absolute humidity; it needs the air temperature to '
            "become relative humidity, so convert it where both are measured and "
            "publish %"
        )
    return f'unit "{shown}" is not {quantity.title} unit; expected {quantity.shown}'


@cache
def _factors(quantity: Quantity) -> dict[str, Affine]:
    """The way to the canonical unit from each unit, by pint's name of it."""
    quantity_of = _registry().Quantity
    factors = {}
    for name in set(quantity.spellings.values()):
        at_zero, at_one = (
            quantity_of(Fraction(number), name).to(quantity.canonical_pint).magnitude
            for number in (0, 1)
        )
        factors[name] = Affine(float(at_one - at_zero), float(at_zero))
    return factors | {quantity.canonical_pint: IDENTITY}


@cache
def _registry() -> UnitRegistry[Fraction]:
    from pint import UnitRegistry  # noqa: PLC0415 - takes a second to import

    return UnitRegistry(non_int_type=Fraction)  # 5/9, not 0.5555555555555571


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

    The worker reads it before its pool processes are forked, and that is when
    pint is asked for all factors: it takes a second and 30 MB, which each pool
    process would otherwise spend again, in the middle of a batch.

    Attributes:
        default_units: sensor kind → unit of readings that name none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_units: Annotated[dict[str, str], AfterValidator(_known_units)] = {}

    @model_validator(mode="after")
    def _derive_factors(self) -> Self:
        for quantity in QUANTITIES.values():
            _factors(quantity)
        return self

    def default_unit(self, quantity: Quantity) -> str:
        """Unit of a reading that names none; canonical unless configured."""
        return self.default_units.get(quantity.kind, quantity.canonical_unit)
