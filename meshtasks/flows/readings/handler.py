"""sensors.temperature and sensors.humidity: readings become points and alerts.

Readings are converted to the canonical unit and written to the time-series store
in one request per batch, which is why they come in batches at all: the request
costs as much as a hundred readings. Then the anomaly rules look at them, and the
selected ones go on to the archive.

A rerun is harmless: a point is known by its series and time, rules pass over what
they have seen, and the archive knows every record by its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, handles
from meshtasks.flows.metric_points import Transformed
from meshtasks.flows.pipeline import store_points
from meshtasks.flows.readings.transform import transform
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import HUMIDITY, KINDS, TEMPERATURE
from meshtasks.records.models import Reading, SensorReading
from meshtasks.records.units import Quantity
from meshtasks.rules.config import RULES


def _read(
    quantity: Quantity,
    records: Sequence[Reading],
    envelopes: Sequence[Envelope],
    settings: Settings,
) -> Transformed:
    default_unit = settings.read(KINDS).default_unit(quantity)
    oldest_seconds = settings.read(KINDS).oldest_seconds(quantity.kind)
    return transform(
        records, envelopes, quantity, default_unit, settings.read(RULES), oldest_seconds
    )


def _refuses(
    quantity: Quantity,
    records: Sequence[Reading],
    envelopes: Sequence[Envelope],
    settings: Settings,
) -> Mapping[int, Dead]:
    return _read(quantity, records, envelopes, settings).dead


@handles(
    "sensors.temperature",
    record=SensorReading,
    struct=Reading,
    sinks=(TIMESERIES, RULE_STATE),
    bare_value=True,
    refuses=partial(_refuses, TEMPERATURE),
)
def store_temperatures(batch: Batch[Reading], sinks: Sinks) -> list[Outcome]:
    """Store temperatures in °C."""
    return _store(batch, TEMPERATURE, sinks)


@handles(
    "sensors.humidity",
    record=SensorReading,
    struct=Reading,
    sinks=(TIMESERIES, RULE_STATE),
    bare_value=True,
    refuses=partial(_refuses, HUMIDITY),
)
def store_humidities(batch: Batch[Reading], sinks: Sinks) -> list[Outcome]:
    """Store relative humidities in %."""
    return _store(batch, HUMIDITY, sinks)


def _store(batch: Batch[Reading], quantity: Quantity, sinks: Sinks) -> list[Outcome]:
    readings = _read(quantity, batch.records, batch.envelopes, sinks.settings)
    return store_points(batch, readings, sinks)
