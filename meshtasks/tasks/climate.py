"""sensors.temperature and sensors.humidity: readings become points and alerts.

Readings are converted to the canonical unit and written to the time-series store
in one request per batch, which is why they come in batches at all: the request
costs as much as a hundred readings. Then the anomaly rules look at them, and the
selected ones go on to the archive.

A rerun is harmless: a point is known by its series and time, rules pass over what
they have seen, and the archive knows every record by its id.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from meshtasks.domain.errors import MeshError, SinkRejected
from meshtasks.domain.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.domain.readings import transform
from meshtasks.domain.records import SensorReading
from meshtasks.domain.units import HUMIDITY, TEMPERATURE, Quantity
from meshtasks.sinks import Sinks
from meshtasks.tasks.effects import give_alerts, send_to_archive
from meshtasks.tasks.registry import Batch, handles

_to_json = TypeAdapter(SensorReading).serializer.to_json


@handles(
    "sensors.temperature",
    record=SensorReading,
    sinks=("timeseries", "rule_state"),
    bare_value=True,
)
def store_temperatures(batch: Batch[SensorReading], sinks: Sinks) -> list[Outcome]:
    """Store temperatures in °C."""
    return _store(batch, TEMPERATURE, sinks)


@handles(
    "sensors.humidity",
    record=SensorReading,
    sinks=("timeseries", "rule_state"),
    bare_value=True,
)
def store_humidities(batch: Batch[SensorReading], sinks: Sinks) -> list[Outcome]:
    """Store relative humidities in %."""
    return _store(batch, HUMIDITY, sinks)


def _store(
    batch: Batch[SensorReading], quantity: Quantity, sinks: Sinks
) -> list[Outcome]:
    settings = sinks.settings
    default_unit = settings.kinds.default_unit(quantity)
    readings = transform(
        batch.records, batch.envelopes, quantity, default_unit, settings.rules
    )
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    for index, bad in readings.dead.items():
        outcomes[index] = bad
    try:
        for place, reason in sinks.timeseries.write(readings.lines).items():
            outcomes[readings.indices[place]] = Dead(reason, SinkRejected.__name__)
        now = batch.envelopes[-1].received_at
        give_alerts(readings.watched, now, sinks)
        stored = [
            each
            for each in zip(readings.indices, readings.times, strict=True)
            if outcomes[each[0]] is DONE
        ]
        send_to_archive(batch, stored, _to_json, sinks)
    except MeshError as error:
        undecided = outcome_of(error)
        return [undecided if each is DONE else each for each in outcomes]
    return outcomes
