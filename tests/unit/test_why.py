"""Names and times that people ask about; without servers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import typer

from meshtasks.cli.sensors import sensor_lines
from meshtasks.cli.terminal import moment_of
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.loading import load_flows
from meshtasks.observation.sensor_facts import Live, Remembered
from meshtasks.observation.why import EXPLAINED, UNKNOWN, UNKNOWN_TIME, WELL, Why
from meshtasks.state.sensor_activity import BAD_UNIT, Gap, Incident, Sensor
from tests.conftest import ROOT

NOW = 1_795_440_000.0
ATTIC = "sensors.temperature.attic"
KEY = ATTIC, "a1"


def sensor(key: str, sensor_id: str, location: str = "", at: float = NOW - 5) -> Sensor:
    what = key, sensor_id, "temperature", location, "°C"
    return Sensor(*what, 21.5, at, NOW - 9000, at, 900, 10.0, 0.0, 0.0)


REMEMBERED = Remembered(
    [
        sensor(ATTIC, "a1", "Loft"),
        sensor("sensors.temperature.bath", "b1"),
        sensor("sensors.humidity.bath", "b2", "bathroom"),
    ],
    [Gap(*KEY, NOW - 600, NOW - 300)],
    [Incident(*KEY, BAD_UNIT, NOW - 500, NOW - 400, 3, "unit", "x")],
)


@pytest.fixture
def why(tmp_path: Path) -> Why:
    env = Environment(config_dir=ROOT / "config", state_dir=tmp_path)
    return Why(Settings(env), load_flows(), REMEMBERED, NOW)


@pytest.mark.parametrize(
    "name", [ATTIC, "sensors/temperature/attic", "/a1", "A1", "loft", "attic"]
)
def test_a_sensor_is_found_by_any_of_its_names(why: Why, name: str) -> None:
    assert why.matching(name) == [KEY]


def test_a_name_of_several_sensors_finds_all(why: Why) -> None:
    assert len(why.matching("bath")) == 2


def test_a_name_that_is_nearly_right_is_suggested(why: Why) -> None:
    answer = why.of_unknown("bathrom", None)

    assert (answer.state, answer.also[0]) == (UNKNOWN, "bathroom")


def test_a_routing_key_that_no_binding_takes_is_told_so(why: Why) -> None:
    answer = why.of_unknown("sensors.temprature.attic", None)

    assert "No queue takes messages with the routing key" in answer.headline
    assert ATTIC in answer.also


def test_a_routing_key_that_never_came_names_the_queue_that_waits(why: Why) -> None:
    live = Live({"sensors.motion": (0, 0)})

    answer = why.of_unknown("sensors.motion.hall", live)

    assert "It would be taken by sensors.motion" in answer.headline
    assert answer.causes[0].cause == "no worker"


def test_a_moment_in_a_hole_is_explained_by_what_was_in_the_hole(why: Why) -> None:
    answer = why.answer(KEY, "a1", NOW - 450, None)

    assert (answer.state, answer.hole) == (EXPLAINED, (NOW - 600, NOW - 300))
    assert [cause.cause for cause in answer.causes] == ["bad unit"]


def test_a_moment_before_anything_is_known_is_not_known(why: Why) -> None:
    assert why.answer(KEY, "a1", NOW - 86_400, None).state == UNKNOWN_TIME


def test_a_moment_at_which_all_was_well_is_well(why: Why) -> None:
    answer = why.answer(("sensors.temperature.bath", "b1"), "b1", NOW - 600, None)

    assert (answer.state, answer.causes) == (WELL, ())


def test_a_broker_that_cannot_be_asked_is_named(why: Why) -> None:
    key = "sensors.temperature.bath", "b1"

    answer = why.answer(key, "b1", None, Live(None, (), "refused"))

    assert answer.causes[0].sentence == "The broker cannot be reached: refused."


def test_the_list_has_gaps_and_what_was_refused() -> None:
    line = next(
        line for line in sensor_lines(REMEMBERED, NOW) if line.sensor[:2] == KEY
    )

    assert line.state == "1 gap, 5 min; 3 bad unit"
    assert line.as_json()["refused"] == {"bad unit": 3}


def test_a_time_of_day_is_the_last_one_there_was() -> None:
    now = datetime(2026, 11, 20, 13, 0).astimezone().timestamp()

    def said(text: str) -> str:
        moment = datetime.fromtimestamp(moment_of(text, now, "--at")).astimezone()
        return f"{moment:%d %H:%M:%S}"

    assert said("12:30") == "20 12:30:00"
    assert said("9:05:07") == "20 09:05:07"
    assert said("23:50") == "19 23:50:00"
    with pytest.raises(typer.BadParameter, match="a time of day such as 14:05"):
        moment_of("25:00", now, "--at")
