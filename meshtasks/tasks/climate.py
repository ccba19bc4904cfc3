"""sensors.temperature and sensors.humidity: readings become points and alerts.

Readings are converted to the canonical unit and written to the time-series store
in one request per batch, which is why they come in batches at all: the request
costs as much as a hundred readings. Then the anomaly rules look at them, and the
selected ones go on to the archive.

A rerun is harmless: a point is known by its series and time, rules pass over what
they have seen, and the archive knows every record by its id.
"""

from __future__ import annotations

from meshtasks.domain.outcome import Outcome
from meshtasks.domain.readings import transform
from meshtasks.domain.records import SensorReading
from meshtasks.domain.units import HUMIDITY, TEMPERATURE, Quantity
from meshtasks.sinks import Sinks
from meshtasks.tasks.effects import store_points
from meshtasks.tasks.registry import Batch, handles


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
    return store_points(batch, readings, sinks)
