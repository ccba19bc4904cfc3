"""The handlers of temperature and humidity, with real store and broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.settings import load_settings
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.errors import PublishUnconfirmed
from meshtasks.flows.contract import Batch
from meshtasks.flows.sinks import PUBLISHER, RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import DONE, Dead, Retry
from meshtasks.records.envelope import Envelope
from meshtasks.worker.decode import Decoder
from tests.support import batches
from tests.support.amqp import Delivery, drain
from tests.support.archive import lines_sent
from tests.support.handling import HANDLERS
from tests.support.influx import InfluxTarget
from tests.support.victoria import count_samples, export

NOW = 1_795_440_000.0
DECODER = Decoder(HANDLERS["sensors.temperature"])
store_temperatures = HANDLERS["sensors.temperature"].handle
store_humidities = HANDLERS["sensors.humidity"].handle

OpenSinks = Callable[..., Sinks]


@pytest.fixture
def open_sinks(
    mesh_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpenSinks]:
    """Sinks of a mesh whose topology is declared."""
    with ExitStack() as opened:

        def open_sinks(**changes: str) -> Sinks:
            for name, value in (mesh_env | changes).items():
                monkeypatch.setenv(name, value)
            sinks = Sinks(load_settings())
            for sink in (sinks[TIMESERIES], sinks[RULE_STATE], sinks[PUBLISHER]):
                opened.callback(sink.close)
            return sinks

        yield open_sinks


@pytest.fixture
def sinks(open_sinks: OpenSinks) -> Sinks:
    return open_sinks()


def batch_of(
    *bodies: Any, routing_key: str = "sensors.temperature.attic"
) -> Batch[Any]:
    """A batch as the worker makes it; a list is an array message."""
    queue = ".".join(routing_key.split(".")[:2])
    batch: Batch[Any] = Batch(queue, [], [], [])
    for number, content in enumerate(bodies):
        body = json.dumps(content).encode()
        envelope = Envelope(
            body, "sensors", routing_key, queue, f"m{number}", None, NOW, {}
        )
        records, places, *_ = DECODER.decode(body)
        batches.add_members(batch, envelope, records, places)
    return batch


def reading(second: float = 0, value: float = 20.0, **fields: Any) -> dict[str, Any]:
    return {"value": value, "timestamp": NOW + second, **fields}


BAD = {"value": 1.0, "unit": "furlong"}


def alerts(url: str) -> list[Delivery]:
    return drain(url, "alerts.notifications")


def test_readings_are_stored_and_bad_ones_are_dead(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    batch = batch_of(reading(0), BAD, [reading(1, 68, unit="F"), BAD, reading(2)])

    outcomes = store_temperatures(batch, sinks)

    assert [type(each).__name__ for each in outcomes] == [
        "Done",
        "Dead",
        "Done",
        "Dead",
        "Done",
    ]
    (series,) = export(victoria)
    assert series.name == "temperature_celsius"
    assert series.labels == {"sensor_id": "attic"}
    assert list(series.samples.values()) == [20.0, 20.0, 20.0]


def test_humidities_are_stored_in_percent(
    sinks: Sinks, victoria: VictoriaMetrics
) -> None:
    batch = batch_of(reading(value=45.5), routing_key="sensors.humidity.bath")

    assert store_humidities(batch, sinks) == [DONE]
    assert [series.name for series in export(victoria)] == ["humidity_percent"]


def test_a_rerun_changes_nothing(
    sinks: Sinks, victoria: VictoriaMetrics, mesh_url: str
) -> None:
    batch = batch_of(reading(0, 60.0), reading(1, 20.0))

    store_temperatures(batch, sinks)
    first = alerts(mesh_url)
    store_temperatures(batch, sinks)

    assert count_samples(victoria) == 2
    assert len(first) == 2
    assert alerts(mesh_url) == []


def test_while_the_store_is_down_good_readings_wait_and_bad_ones_are_dead(
    sinks: Sinks, victoria: VictoriaMetrics, mesh_url: str
) -> None:
    victoria.kill()

    good, bad = store_temperatures(batch_of(reading(value=60.0), BAD), sinks)

    assert isinstance(good, Retry)
    assert good.sink == "timeseries"
    assert isinstance(bad, Dead)
    assert alerts(mesh_url) == []


def test_a_reading_that_the_store_refuses_is_dead_alone(
    open_sinks: OpenSinks, influx: InfluxTarget
) -> None:
    sinks = open_sinks(
        MESH_INFLUX_URL=influx.url,
        MESH_INFLUX_TOKEN=influx.token,
        MESH_INFLUX_ORG=influx.org,
        MESH_INFLUX_BUCKET=influx.bucket,
    )
    sinks[TIMESERIES].write([f"temperature,sensor_id=x celsius=1i {NOW * 1000:.0f}"])

    (outcome,) = store_temperatures(batch_of(reading()), sinks)

    assert isinstance(outcome, Dead)
    assert outcome.error_type == "SinkRejected"
    assert "field type conflict" in outcome.reason


def test_an_anomaly_is_published_as_an_alert(sinks: Sinks, mesh_url: str) -> None:
    store_temperatures(batch_of(reading(value=60.0, location="attic")), sinks)

    (alert,) = alerts(mesh_url)
    record = json.loads(alert.body)
    assert alert.routing_key == "alerts.critical.rules.overheating"
    assert record["title"] == "attic is overheating"
    assert record["severity"] == "critical"
    assert record["starts_at"] == "2026-11-23T13:20:00Z"
    assert record["labels"]["sensor_id"] == "attic"


def test_an_alert_is_resolved_in_a_later_batch(sinks: Sinks, mesh_url: str) -> None:
    store_temperatures(batch_of(reading(0, 60.0)), sinks)
    store_temperatures(batch_of(reading(60, 20.0)), sinks)

    firing, resolved = (json.loads(each.body) for each in alerts(mesh_url))
    assert (firing["resolved"], resolved["resolved"]) == (False, True)
    assert firing["fingerprint"] == resolved["fingerprint"]


class FailingPublisher(Publisher):
    """Publishes, and then loses the confirm."""

    @override
    def publish(self, messages: Sequence[Outgoing]) -> None:
        super().publish(messages)
        raise PublishUnconfirmed


def test_an_alert_whose_confirm_is_lost_is_given_again_with_the_same_id(
    sinks: Sinks, mesh_url: str
) -> None:
    batch = batch_of(reading(value=60.0))
    working = sinks[PUBLISHER]

    sinks[PUBLISHER] = FailingPublisher(mesh_url)
    (outcome,) = store_temperatures(batch, sinks)
    sinks[PUBLISHER].close()
    sinks[PUBLISHER] = working
    (again,) = store_temperatures(batch, sinks)

    assert isinstance(outcome, Retry)
    assert again is DONE
    one, other = alerts(mesh_url)
    assert one.properties["message_id"] == other.properties["message_id"]


def test_selected_readings_go_to_the_archive_and_bad_ones_do_not(
    sinks: Sinks, mesh_url: str
) -> None:
    single = reading(0, battery=87)
    store_temperatures(batch_of(single, BAD, [reading(1), reading(1), BAD]), sinks)

    (message,) = drain(mesh_url, "archive.metrics")
    lines = lines_sent(message.body)
    assert message.routing_key == "sensors.temperature"
    assert [line["record"] for line in lines] == [single, reading(1), reading(1)]
    assert len({line["id"] for line in lines}) == 3


def test_an_archived_reading_has_the_same_id_when_the_message_comes_again(
    sinks: Sinks, mesh_url: str
) -> None:
    for _ in range(2):
        store_temperatures(batch_of(reading(0), [reading(1), reading(2)]), sinks)

    one, other = drain(mesh_url, "archive.metrics")
    assert one.body == other.body
