"""Kinds of readings and queues of them, as configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, UnknownUnit
from meshtasks.flows.loading import load_flows
from meshtasks.records.kinds import HUMIDITY, KINDS, KindConfig, KindsConfig
from meshtasks.records.units import DECIMALS, IDENTITY
from tests.support.worker import ROOT

SHIPPED = ROOT / "config"

Config = Callable[..., Settings]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of the shipped configuration but for some files, as text."""

    def config(**files: str) -> Settings:
        for file in SHIPPED.glob("*.yaml"):
            text = dedent(files.get(file.stem, "")) or file.read_text("utf-8")
            (tmp_path / file.name).write_text(text, encoding="utf-8")
        return Settings(Environment(config_dir=tmp_path))

    return config


def fault(settings: Settings) -> tuple[str, int | None, str, str]:
    """File, line, key and what was expected."""
    with pytest.raises(ConfigError) as caught:
        load_flows().handlers(settings)
    error = caught.value
    assert not error.more
    return Path(error.source).name, error.line, error.key, error.expected


CO2 = KindConfig.model_validate(
    {
        "unit": "ppm",
        "field": "ppm",
        "units": {"ppb": 0.001, "%": {"factor": 10_000}, "mmol/mol": 1000},
        "minimum": 0,
    }
).quantity("co2")


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (2500.0, "ppb", 2.5),
        (0.05, "%", 500.0),
        (1.0, "MMOL/mol", 1000.0),
        (1.0, " m m o l/mol ", 1000.0),
    ],
)
def test_a_configured_unit_is_converted(
    value: float, unit: str, expected: float
) -> None:
    factor, offset = CO2.affine(unit)

    assert round(value * factor + offset, DECIMALS) == expected


def test_an_offset_is_added() -> None:
    kind = {
        "unit": "K",
        "field": "kelvin",
        "units": {"°C": {"factor": 1, "offset": 273.15}},
    }

    quantity = KindConfig.model_validate(kind).quantity("black_body")

    assert quantity.affine("C°".replace("C°", "°C")) == (1.0, 273.15)


def test_another_spelling_of_the_unit_is_no_conversion() -> None:
    kind = KindConfig.model_validate(
        {"unit": "lx", "field": "lux", "units": {"lux": 1}}
    )

    assert kind.quantity("illuminance").affine("LUX") is IDENTITY


def test_units_that_differ_in_case_alone_are_two() -> None:
    kind = {"unit": "W", "field": "watts", "units": {"mW": 0.001, "MW": 1e6}}
    power = KindConfig.model_validate(kind).quantity("power")

    assert [power.affine(unit).scale for unit in ("mW", "MW")] == [0.001, 1e6]
    with pytest.raises(UnknownUnit, match="expected W, mW, MW"):
        power.affine("mw")


def test_a_limit_that_is_left_out_is_none() -> None:
    assert CO2.lowest == 0
    assert CO2.impossible(-1.0, "ppm") == (
        "value: -1 ppm cannot be: kinds.yaml allows at least 0 ppm"
    )


def test_the_kinds_of_the_package_are_made_of_the_same_data() -> None:
    assert (HUMIDITY.kind, HUMIDITY.canonical_unit, HUMIDITY.field) == (
        *("humidity", "%", "percent"),
    )
    assert KindsConfig().quantities["humidity"] is HUMIDITY


def test_a_configured_kind_has_an_age_and_a_default_unit(config: Config) -> None:
    kinds = config(
        kinds="""\
            kinds:
              co2: {unit: ppm, field: ppm, units: {ppb: 0.001}}
            default_units: {co2: ppb}
            oldest: {co2: 1d}
        """
    ).read(KINDS)

    assert kinds.default_unit(kinds.quantities["co2"]) == "ppb"
    assert kinds.oldest_seconds("co2") == 86_400


@pytest.mark.parametrize(
    ("line", "key", "expected", "text"),
    [
        (2, "kinds.co2.unit", "is required", "co2: {field: ppm}"),
        (2, "kinds.co2.uni", "did you mean unit", "co2: {uni: a, unit: a, field: b}"),
        (2, "kinds.co2.field", "match pattern", "co2: {unit: ppm, field: 5ppm}"),
        (2, "kinds.co2", "name of the timestamp", "co2: {unit: ppm, field: time}"),
        (2, "kinds.CO2", "a name of a-z", "CO2: {unit: ppm, field: ppm}"),
        (2, "kinds.motion", "comes with the", "motion: {unit: ppm, field: ppm}"),
        (2, "kinds.humidity", "comes with the", "humidity: {unit: g, field: g}"),
        (
            *(2, "kinds.co2.units.ppb", "expected a factor such as 0.001"),
            "co2: {unit: ppm, field: ppm, units: {ppb: thousandth}}",
        ),
        (
            *(2, "kinds.co2.units.ppb", "(not 0)"),
            "co2: {unit: ppm, field: ppm, units: {ppb: 0}}",
        ),
        (
            *(2, "kinds.co2.units.ppb.ofset", "did you mean offset"),
            "co2: {unit: ppm, field: ppm, units: {ppb: {factor: 1, ofset: 1}}}",
        ),
        (
            *(2, "kinds.co2.units.p p m", '"ppm" is the same'),
            "co2: {unit: ppm, field: ppm, units: {p p m: 2}}",
        ),
        (
            *(2, "kinds.co2", "expected a minimum below the maximum, 0"),
            "co2: {unit: ppm, field: ppm, minimum: 1, maximum: 0}",
        ),
        (
            *(2, "kinds.co2.minimum", "finite number"),
            "co2: {unit: ppm, field: ppm, minimum: .nan}",
        ),
        (
            *(3, "kinds.co2_ppm.field", "co2_ppm_x is also a series of co2"),
            "co2: {unit: a, field: ppm_x}\n  co2_ppm: {unit: a, field: x}",
        ),
        (
            *(3, "default_units.co3", "expected temperature, humidity, co2"),
            "co2: {unit: ppm, field: ppm}\ndefault_units: {co3: ppm}",
        ),
        (
            *(3, "default_units.co2", "is not a co2 unit; expected ppm"),
            "co2: {unit: ppm, field: ppm}\ndefault_units: {co2: kg}",
        ),
        (
            *(3, "oldest.co3", "expected one of default, temperature, humidity, co2"),
            "co2: {unit: ppm, field: ppm}\noldest: {co3: 1d}",
        ),
    ],
)
def test_a_kind_that_cannot_be_is_refused_with_its_place(
    config: Config, line: int, key: str, expected: str, text: str
) -> None:
    settings = config(kinds=f"kinds:\n  {text}\n", queues="queues: {}\n")
    with pytest.raises(ConfigError) as caught:
        settings.read(KINDS)
    error = caught.value

    assert (Path(error.source).name, error.line, error.key) == ("kinds.yaml", line, key)
    assert re.search(re.escape(expected), error.expected)
    assert not error.expected.startswith("String")  # pydantic's term


@pytest.mark.parametrize(
    ("key", "expected", "queue", "entry"),
    [
        ("flow", "one of readings", "devices", "flow: reading, kind: humidity"),
        ("kind", "one of temperature", "devices", "flow: readings, kind: co2"),
        ("flow", "a kind beside it", "devices", "flow: readings"),
        ("", "a flow beside the kind", "devices", "kind: humidity"),
        (
            "flow",
            "has one already",
            "sensors.motion",
            "flow: readings, kind: humidity",
        ),
        ("flow", "no queue of records", "commands", "flow: readings, kind: humidity"),
    ],
)
def test_a_flow_that_cannot_be_is_refused_with_its_place(
    config: Config, key: str, expected: str, queue: str, entry: str
) -> None:
    settings = config(queues=f"queues:\n  {queue}: {{{entry}}}\n")

    file, line, place, reason = fault(settings)

    assert (file, line) == ("queues.yaml", 2)
    assert place == ".".join(filter(None, ("queues", queue, key)))
    assert expected in reason


def test_a_queue_may_have_a_kind_of_the_package(config: Config) -> None:
    settings = config(queues="queues: {devices: {flow: readings, kind: temperature}}\n")

    handler = load_flows().handlers(settings)["devices"]

    assert handler.queue == "devices"
    assert handler.bare_value
