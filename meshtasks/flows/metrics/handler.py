"""metrics.system and metrics.application: metrics become points and alerts.

One point per metric, one request to the time-series store per batch, which is why
they come in batches: the request costs as much as a hundred metrics. Then the
rules that name a field evaluate it, and the selected metrics go on to the archive.

A rerun is harmless: a point is known by its series and time, rules ignore what they
have evaluated, and the archive knows every record by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, Flow, Handler, handles
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import Transformed, metric_points, store_points
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import Metric
from meshtasks.rules.config import RULES

_SINKS = (TIMESERIES, RULE_STATE)


def _read(
    metrics: Sequence[Metric], envelopes: Sequence[Envelope], settings: Settings
) -> Transformed:
    oldest_seconds = settings.read(KINDS).oldest_seconds("metrics")
    return metric_points(metrics, envelopes, settings.read(RULES), oldest_seconds)


def _dead(
    metrics: Sequence[Metric], envelopes: Sequence[Envelope], settings: Settings
) -> Mapping[int, Dead]:
    return _read(metrics, envelopes, settings).dead


@handles(
    "metrics.system",
    record=Metric,
    sinks=_SINKS,
    defers=True,
    validate=_dead,
    telegraf=True,
)
def store_system_metrics(batch: Batch[Metric], sinks: Sinks) -> list[Outcome]:
    """Store what hosts and devices measure of themselves."""
    return _store(batch, sinks)


@handles(
    "metrics.application",
    record=Metric,
    sinks=_SINKS,
    defers=True,
    validate=_dead,
    telegraf=True,
)
def store_application_metrics(batch: Batch[Metric], sinks: Sinks) -> list[Outcome]:
    """Store what services measure of themselves."""
    return _store(batch, sinks)


def _store(batch: Batch[Metric], sinks: Sinks) -> list[Outcome]:
    metrics = _read(batch.records, batch.envelopes, sinks.settings)
    return store_points(batch, metrics, sinks)


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    queues = {queue for queue, handler in handlers.items() if handler.record is Metric}
    return rule_doubts(settings, queues, "metrics", of_metrics=True)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    return rule_details(settings, routing_key, of_metrics=True)


FLOW = Flow(
    "metrics",
    handlers=(store_system_metrics, store_application_metrics),
    files=(RULES, KINDS, ARCHIVE),
    doubts=_doubts,
    explain=_explain,
)
