"""Curves are read from whatever store there is."""

from __future__ import annotations

import time

import pytest
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.timeseries import TimeSeries
from meshtasks.flows.timeseries_queries import read_curve
from meshtasks.records.kinds import TEMPERATURE
from meshtasks.records.points import line_start, lines
from tests.support.influx import InfluxTarget
from tests.support.victoria import force_flush

NOW = float(int(time.time()))


def write(env: Environment, sensor: str, values: dict[float, float]) -> None:
    start = line_start(TEMPERATURE, sensor, "attic")
    store = TimeSeries.from_environment(env)
    times = list(values)
    assert store.write(lines([start] * len(times), list(values.values()), times)) == {}
    store.close()


def environment(url: str, bucket: str = "mesh") -> Environment:
    return Environment(influx_url=url, influx_bucket=bucket, influx_token=SecretStr(""))


VALUES = {NOW - 600 + 10 * n: 20.0 + n for n in range(30)}


@pytest.mark.parametrize(
    "sensor", ["attic", 'it\'s "odd", too', "wohnzimmer-ü", "🏠🔥", "مطبخ", "100%"]
)
def test_every_reading_of_a_sensor_is_read_from_victoriametrics(
    victoria: VictoriaMetrics, sensor: str
) -> None:
    env = environment(victoria.url)
    write(env, sensor, VALUES)
    write(env, f"{sensor}2", {NOW - 500: 99.0})
    force_flush(victoria)

    points = read_curve(env, TEMPERATURE, sensor, NOW - 650, NOW)

    assert [(point.at, point.value) for point in points] == list(VALUES.items())
    assert read_curve(env, TEMPERATURE, sensor, NOW - 200, NOW) == []


def test_long_spans_are_read_as_means(victoria: VictoriaMetrics) -> None:
    env = environment(victoria.url)
    write(env, "month", {NOW - 86_400 * n: 10.0 + n % 2 for n in range(1, 20)})
    force_flush(victoria)

    points = read_curve(env, TEMPERATURE, "month", NOW - 30 * 86_400, NOW)

    assert 19 <= len(points) <= 60
    assert {round(point.value) for point in points} == {10, 11}


def test_a_store_that_is_away_is_said_so(victoria: VictoriaMetrics) -> None:
    victoria.stop()

    with pytest.raises(SinkUnavailable, match="cannot be used"):
        read_curve(environment(victoria.url), TEMPERATURE, "attic", NOW - 60, NOW)


def test_a_curve_is_read_from_influxdb(influx: InfluxTarget) -> None:
    env = Environment(
        influx_url=influx.url,
        influx_bucket=influx.bucket,
        influx_org=influx.org,
        influx_token=SecretStr(influx.token),
    )
    write(env, "it's odd", VALUES)

    points = read_curve(env, TEMPERATURE, "it's odd", NOW - 650, NOW)

    assert [point.value for point in points] == list(VALUES.values())
