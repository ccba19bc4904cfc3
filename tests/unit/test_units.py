"""Units: what is understood, what it is in canonical units, what is refused."""

from __future__ import annotations

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshtasks.errors import UnknownUnit
from meshtasks.records.kinds import HUMIDITY, TEMPERATURE, KindsConfig
from meshtasks.records.units import (
    CURRENT,
    DECIMALS,
    ENERGY,
    IDENTITY,
    ILLUMINANCE,
    MASS_CONCENTRATION,
    PARTS_PER_BILLION,
    PARTS_PER_MILLION,
    PERCENT,
    POWER,
    PRESSURE,
    VOLTAGE,
    Quantity,
    Scale,
)


def converted(quantity: Quantity, value: float, unit: str) -> float:
    scale, offset = quantity.affine(unit)
    return round(value * scale + offset, DECIMALS)


@pytest.mark.parametrize(
    "spelling",
    [
        "°C",
        "C",
        "degC",
        "celsius",
        "Celsius",
        "Cel",
        "℃",
        "ºC",
        " °C ",
        "Â°C",
    ],
)
def test_celsius_is_kept_as_it_is(spelling: str) -> None:
    assert TEMPERATURE.affine(spelling) is IDENTITY


@pytest.mark.parametrize("spelling", ["°F", "F", "degF", "fahrenheit", "[degF]", "℉"])
def test_fahrenheit_is_converted(spelling: str) -> None:
    assert converted(TEMPERATURE, 98.6, spelling) == 37.0
    assert converted(TEMPERATURE, -40.0, spelling) == -40.0


@pytest.mark.parametrize("spelling", ["K", "kelvin", "Kelvin", "\N{KELVIN SIGN}"])
def test_kelvin_is_converted(spelling: str) -> None:
    assert converted(TEMPERATURE, 300.0, spelling) == 26.85


@pytest.mark.parametrize(
    ("quantity", "unit", "pint_unit", "canonical"),
    [
        (TEMPERATURE, "°F", "degree_Fahrenheit", "degree_Celsius"),
        (TEMPERATURE, "K", "kelvin", "degree_Celsius"),
        (HUMIDITY, "fraction", "dimensionless", "percent"),
    ],
)
@pytest.mark.parametrize("value", [0, 1, 293.15])
def test_the_factors_are_those_of_pint(
    quantity: Quantity, unit: str, pint_unit: str, canonical: str, value: float
) -> None:
    expected = pint.Quantity(value, pint_unit).to(canonical).magnitude
    assert converted(quantity, value, unit) == round(expected, DECIMALS)


@pytest.mark.parametrize(
    ("scale", "canonical"),
    [
        (VOLTAGE, "V"),
        (CURRENT, "A"),
        (POWER, "W"),
        (ENERGY, "kWh"),
        (PRESSURE, "hPa"),
        (ILLUMINANCE, "lx"),
        (MASS_CONCENTRATION, "ug/m**3"),
    ],
)
def test_the_factors_of_every_unit_are_those_of_pint(
    scale: Scale, canonical: str
) -> None:
    spelled = {
        "amps": "A",
        "mb": "mbar",
        "Wmin": "W*min",
        "Ws": "W*s",
        "mcg/m3": "ug/m**3",
    }
    for unit, factor in scale.factors.items():
        of_pint = spelled.get(unit, unit.replace("m3", "m**3").replace("ft3", "ft**3"))
        expected = pint.Quantity(1, of_pint).to(canonical).magnitude

        assert factor == pytest.approx(expected, rel=1e-6), unit


@pytest.mark.parametrize(
    ("scale", "spelling", "factor"),
    [
        (PRESSURE, "HPA", 1.0),
        (ENERGY, "kwh", 1.0),
        (POWER, "mW", 1e-3),
        (POWER, "MW", 1e6),
        (VOLTAGE, "µV", 1e-6),  # as on keyboards, and as in Greek
        (VOLTAGE, "μV", 1e-6),
        (MASS_CONCENTRATION, "µg/m³", 1.0),
        (MASS_CONCENTRATION, "μg/m^3", 1.0),
        (PRESSURE, "inH₂O", 2.4908891),
        (ILLUMINANCE, "Lux", 1.0),
        (POWER, "Watt", 1.0),
        (VOLTAGE, "Volts", 1.0),
        (CURRENT, "Amps", 1.0),
        (PRESSURE, "mb", 1.0),
        (MASS_CONCENTRATION, "Âµg/mÂ³", 1.0),
        (PARTS_PER_MILLION, "ppb", 1e-3),
        (PARTS_PER_BILLION, "ppm", 1e3),
    ],
)
def test_units_are_understood_as_they_are_written(
    scale: Scale, spelling: str, factor: float
) -> None:
    assert scale.factor(spelling) == factor


@pytest.mark.parametrize(
    ("scale", "spelling"), [(POWER, "mw"), (POWER, "VA"), (ENERGY, "W"), (PERCENT, "")]
)
def test_a_unit_that_may_be_two_or_is_another_is_refused(
    scale: Scale, spelling: str
) -> None:
    with pytest.raises(UnknownUnit, match="is not one of"):
        scale.factor(spelling)


@pytest.mark.parametrize(
    ("unit", "zero"), [("°F", -459.67), ("K", 0.0), ("°C", -273.15)]
)
def test_absolute_zero_is_possible_in_every_unit(unit: str, zero: float) -> None:
    assert converted(TEMPERATURE, zero, unit) == TEMPERATURE.lowest


@given(st.floats(min_value=-400, max_value=10_000))
def test_a_fahrenheit_value_is_the_one_that_arithmetic_gives(value: float) -> None:
    expected = (value - 32) * 5 / 9

    assert converted(TEMPERATURE, value, "°F") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spelling", ["%", "%RH", "% RH", "%rh", "percent", "RH%"])
def test_percent_is_kept_as_it_is(spelling: str) -> None:
    assert HUMIDITY.affine(spelling) is IDENTITY


@pytest.mark.parametrize("spelling", ["1", "{fraction}", "fraction", "ratio"])
def test_a_fraction_becomes_percent(spelling: str) -> None:
    assert converted(HUMIDITY, 0.455, spelling) == 45.5


def test_an_unknown_unit_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UnknownUnit) as caught:
        TEMPERATURE.affine("furlong")

    assert str(caught.value) == (
        'unit "furlong" is not a temperature unit; expected °C, °F, K (also C, F, '
        "degC, degF, Cel, [degF], celsius, fahrenheit, kelvin)"
    )


def test_a_unit_of_another_quantity_is_refused() -> None:
    with pytest.raises(UnknownUnit, match="not a relative humidity unit"):
        HUMIDITY.affine("°C")


@pytest.mark.parametrize("spelling", ["g/m³", "g/m3"])
def test_absolute_humidity_is_refused_because_it_needs_the_temperature(
    spelling: str,
) -> None:
    with pytest.raises(UnknownUnit, match="it needs the air temperature"):
        HUMIDITY.affine(spelling)


def test_a_long_unit_is_not_repeated_in_full() -> None:
    with pytest.raises(UnknownUnit) as caught:
        TEMPERATURE.affine("x" * 10_000)

    assert len(str(caught.value)) < 300


def test_the_default_unit_is_the_configured_one() -> None:
    kinds = KindsConfig(default_units={"temperature": "°F"})

    assert kinds.default_unit(TEMPERATURE) == "°F"
    assert kinds.default_unit(HUMIDITY) == "%"


@pytest.mark.parametrize("units", [{"temperature": "furlong"}, {"pressure": "hPa"}])
def test_a_default_unit_that_cannot_be_is_refused(units: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        KindsConfig(default_units=units)
