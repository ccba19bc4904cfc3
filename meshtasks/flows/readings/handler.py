"""Readings of sensors become points and alerts: sensors.temperature, sensors.humidity,
and every queue that queues.yaml gives to this flow with a kind of kinds.yaml.

Readings are converted to the canonical unit and written to the time-series store
in one request per batch, which is why they come in batches at all: the request
costs as much as a hundred readings. Then the anomaly rules look at them, and the
selected ones go on to the archive.

A rerun is harmless: a point is known by its series and time, rules pass over what
they have seen, and the archive knows every record by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, Flow, Handler
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import Transformed, store_points
from meshtasks.flows.readings.transform import transform
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import KINDS, QUANTITIES
from meshtasks.records.models import Reading, SensorReading
from meshtasks.rules.config import RULES


def handler_of_kind(queue: str, kind: str) -> Handler:
    """The handler of a queue whose records are readings of one kind.

    Args:
        kind: one of the package's, or of kinds.yaml.
    """

    def store_readings(batch: Batch[Reading], sinks: Sinks) -> list[Outcome]:
        return store_points(
            batch, _transformed(batch.records, batch.envelopes, sinks.settings), sinks
        )

    def validate(
        records: Sequence[Reading], envelopes: Sequence[Envelope], settings: Settings
    ) -> Mapping[int, Dead]:
        return _transformed(records, envelopes, settings).dead

    def _transformed(
        records: Sequence[Reading], envelopes: Sequence[Envelope], settings: Settings
    ) -> Transformed:
        kinds = settings.read(KINDS)
        quantity = kinds.quantities[kind]
        return transform(
            records,
            envelopes,
            quantity,
            kinds.default_unit(quantity),
            settings.read(RULES),
            kinds.oldest_seconds(kind),
        )

    store_readings.__doc__ = f"Store readings of the kind {kind}."
    return Handler(
        queue,
        store_readings,
        SensorReading,
        (TIMESERIES, RULE_STATE),
        bare_value=True,
        defers=True,
        validate=validate,
        struct=Reading,
    )


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    queues = {
        queue for queue, handler in handlers.items() if handler.record is SensorReading
    }
    return rule_doubts(settings, queues, "readings", of_metrics=False)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    return rule_details(settings, routing_key, of_metrics=False)


FLOW = Flow(
    "readings",
    handlers=tuple(handler_of_kind(f"sensors.{kind}", kind) for kind in QUANTITIES),
    by_kind=handler_of_kind,
    files=(RULES, KINDS, ARCHIVE),
    sinks=(RULE_STATE,),
    doubts=_doubts,
    explain=_explain,
)
