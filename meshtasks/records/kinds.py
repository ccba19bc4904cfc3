"""The kinds of sensor readings: their units and limits.

The package has two kinds; config/kinds.yaml adds others. Each is defined by a
:class:`KindConfig`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)
from pydantic_core import InitErrorDetails

from meshtasks.config.durations import Duration
from meshtasks.config.loader import ConfigModel, fault, refuse_all, refuse_value
from meshtasks.config.settings import ConfigFile
from meshtasks.errors import UnknownUnit
from meshtasks.records.units import IDENTITY, Affine, Quantity, spelled
from meshtasks.text import printable

_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _without_tricks(text: str) -> str:
    if printable(text) != text:
        refuse_value("expected no control characters")
    return text


_Text = Annotated[
    str,
    Field(min_length=1, max_length=64, pattern=r"^\S(.*\S)?$"),
    AfterValidator(_without_tricks),
]
_Age = Annotated[Duration, Field(gt=0)]


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
#: Limit of kinds without one, so that a conversion cannot result in infinity.
_LARGEST = sys.float_info.max


class _Conversion(ConfigModel):
    factor: _Finite
    offset: _Finite = 0.0

    @property
    def affine(self) -> Affine:
        way = Affine(self.factor, self.offset)
        return IDENTITY if way == IDENTITY else way


def _conversion(value: object) -> object:
    number = value.get("factor") if isinstance(value, dict) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not number:
        refuse_value(
            "expected a factor such as 0.001 (not 0), or {factor: 1, offset: 0}"
        )
    return value if isinstance(value, dict) else {"factor": value}


class KindConfig(ConfigModel):
    """One kind of sensor readings.

    Attributes:
        unit: canonical unit, in which values are stored and compared by rules.
        field: field of the points, named after the unit; the measurement is the kind.
        units: other units, or other spellings of the canonical one → factor, or factor
            and offset: canonical = value * factor + offset.
        minimum: smallest possible value, in the canonical unit; None for no limit.
        maximum: largest possible value, in the canonical unit; None for no limit.
    """

    unit: _Text
    field: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
    units: dict[_Text, Annotated[_Conversion, BeforeValidator(_conversion)]] = Field(
        default={}
    )
    minimum: _Finite | None = None
    maximum: _Finite | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        low, high = self.limits
        if low >= high:
            message = f"expected a minimum below the maximum, {high:g}"
            raise ValueError(message)
        if self.field == "time":
            message = '"time" is the name of the timestamp; expected another field'
            raise ValueError(message)
        seen = {spelled(self.unit): self.unit}
        refuse_all(type(self).__name__, self._repeated(seen))
        return self

    def _repeated(self, seen: dict[str, str]) -> Iterator[InitErrorDetails]:
        for unit in self.units:
            if other := seen.get(spelled(unit)):
                yield fault(
                    f'expected another unit: "{other}" is the same', "units", unit
                )
            seen[spelled(unit)] = unit

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest possible value, in the canonical unit."""
        low, high = self.minimum, self.maximum
        return -_LARGEST if low is None else low, _LARGEST if high is None else high

    def quantity(
        self, kind: str, *, title: str = "", why: str = "", shown: str = ""
    ) -> Quantity:
        """The quantity of this kind; empty arguments get a default.

        Args:
            kind: name of the kind.
            title: name for use in a sentence, with its article.
            why: reason why values beyond the limits are impossible.
            shown: the units that an error message lists.
        """
        low, high = self.limits
        ways = {unit: conversion.affine for unit, conversion in self.units.items()}
        return Quantity(
            kind=kind,
            title=title or f"{'an' if kind[0] in 'aeio' else 'a'} {kind}",
            canonical_unit=self.unit,
            field=self.field,
            lowest=low,
            highest=high,
            why=why or f"kinds.yaml allows {self._span}",
            units={spelled(unit): way for unit, way in ways.items()}
            | {spelled(self.unit): IDENTITY},
            shown=shown or ", ".join([self.unit, *self.units]),
        )

    @property
    def _span(self) -> str:
        if self.minimum is None and self.maximum is None:
            return f"at most {_LARGEST:g} either way"
        if self.minimum is None:
            return f"at most {self.maximum:g} {self.unit}"
        if self.maximum is None:
            return f"at least {self.minimum:g} {self.unit}"
        return f"{self.minimum:g} to {self.maximum:g} {self.unit}"


def _each(spellings: str, factor: float, offset: float = 0.0) -> dict[str, Any]:
    conversion = {"factor": factor, "offset": offset}
    return dict.fromkeys(spellings.split(), conversion)


TEMPERATURE = KindConfig(
    unit="°C",
    field="celsius",
    units={
        **_each("c cel celsius degc degree_celsius degreescelsius", 1.0),
        **_each("°f f [degf] fahrenheit degf", 5 / 9, -160 / 9),
        **_each("degree_fahrenheit degreesfahrenheit", 5 / 9, -160 / 9),
        **_each("k °k kelvin degk", 1.0, -273.15),
    },
    minimum=-273.15,
).quantity(
    "temperature",
    why="absolute zero is -273.15 °C",
    shown="°C, °F, K (also C, F, degC, degF, Cel, [degF], celsius, fahrenheit, kelvin)",
)

HUMIDITY = KindConfig(
    unit="%",
    field="percent",
    units={
        **_each("%rh rh% %{rh} [%rh] percent pct", 1.0),
        **_each("1 {fraction} {ratio} fraction ratio", 100.0),
    },
    minimum=0.0,
    maximum=100.0,
).quantity(
    "humidity",
    title="a relative humidity",
    why="relative humidity is between 0 and 100 %",
    shown="%, %RH, percent, or fraction (0 to 1)",
)

#: The kinds of the package, by name.
QUANTITIES: Mapping[str, Quantity] = {
    quantity.kind: quantity for quantity in (TEMPERATURE, HUMIDITY)
}

#: Default of ``oldest``: longer than any outage that a spool can bridge, and shorter
#: than the error of a clock that was never set.
_OLDEST_SECONDS = 180 * 86_400.0
#: Kinds of records that are not readings, but may be too old.
_OTHERS = ("motion", "metrics")


class KindsConfig(ConfigModel):
    """The model of config/kinds.yaml.

    Attributes:
        kinds: additional kinds of sensor readings by name. The name is the second word
            of the routing keys, and the measurement of the points.
        default_units: kind → unit of readings without a unit.
        oldest: kind → greatest age of its records at receipt; ``default`` applies to
            kinds that are not listed. Events of the home and alerts may be of any age,
            because their time is the beginning of a state.
    """

    kinds: dict[str, KindConfig] = Field(default={})
    default_units: dict[str, str] = Field(default={})
    oldest: dict[str, _Age] = Field(default={})

    @cached_property
    def quantities(self) -> Mapping[str, Quantity]:
        """The quantity of each kind, by name; the kinds of the package come first."""
        added = {name: kind.quantity(name) for name, kind in self.kinds.items()}
        return {**QUANTITIES, **added}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        refuse_all(type(self).__name__, self._disagreements())
        return self

    def _disagreements(self) -> Iterator[InitErrorDetails]:
        for name in self.kinds:
            if name in {*QUANTITIES, *_OTHERS, "default"}:
                reason = f'expected another name: "{name}" comes with the package'
                yield fault(reason, "kinds", name)
            elif not _NAME.fullmatch(name):
                reason = "expected a name of a-z, 0-9, _ and -, 64 characters at most"
                yield fault(reason, "kinds", name)
        yield from self._shared_series()
        for kind, unit in self.default_units.items():
            quantity = self.quantities.get(kind)
            if quantity is None:
                known = ", ".join(self.quantities)
                reason = f'"{kind}" is not a sensor kind; expected {known}'
                yield fault(reason, "default_units", kind)
                continue
            try:
                quantity.affine(unit)
            except UnknownUnit as error:
                yield fault(str(error), "default_units", kind)
        known_ages = ("default", *self.quantities, *_OTHERS)
        for kind in self.oldest:
            if kind not in known_ages:
                reason = f"expected one of {', '.join(known_ages)}"
                yield fault(reason, "oldest", kind)

    def _shared_series(self) -> Iterator[InitErrorDetails]:
        """Faults of kinds that VictoriaMetrics would store in one series."""
        owners: dict[str, str] = {}
        for name, kind in self.kinds.items():
            series = f"{name}_{kind.field}"
            if (owner := owners.setdefault(series, name)) != name:
                reason = f"expected another field: {series} is also a series of {owner}"
                yield fault(reason, "kinds", name, "field")

    def oldest_seconds(self, kind: str) -> float:
        """Greatest age, in seconds, of records of this kind at receipt."""
        return self.oldest.get(kind, self.oldest.get("default", _OLDEST_SECONDS))

    def default_unit(self, quantity: Quantity) -> str:
        """Unit of readings without a unit: as configured, else the canonical one."""
        return self.default_units.get(quantity.kind, quantity.canonical_unit)


KINDS = ConfigFile("kinds.yaml", KindsConfig)
