"""Metrics become points and alerts: ``metrics.system`` and ``metrics.application``.

Each metric is one point. A batch is written to the time-series store in one request.
This is the reason for batches: the request costs as much as a hundred metrics. Then
the rules that name one of the fields evaluate it, and the metrics that archive.yaml
selects are sent to the archive.

A rerun is harmless: a point is identified by its series and time, rules ignore metrics
that they have evaluated, and the archive identifies every record by its id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, Flow, Handler
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import Transformed, metric_points, store_points
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import Metric
from meshtasks.rules.config import RULES


def _read(
    metrics: Sequence[Metric], envelopes: Sequence[Envelope], settings: Settings
) -> Transformed:
    oldest_seconds = settings.read(KINDS).oldest_seconds("metrics")
    return metric_points(metrics, envelopes, settings.read(RULES), oldest_seconds)


def _dead(
    metrics: Sequence[Metric], envelopes: Sequence[Envelope], settings: Settings
) -> Mapping[int, Dead]:
    return _read(metrics, envelopes, settings).dead


def _handler_of(queue: str, whose: str) -> Handler:
    def store_metrics(batch: Batch[Metric], sinks: Sinks) -> list[Outcome]:
        metrics = _read(batch.records, batch.envelopes, sinks.settings)
        return store_points(batch, metrics, sinks)

    store_metrics.__doc__ = f"Store metrics of {whose}."
    return Handler(
        queue,
        store_metrics,
        Metric,
        (TIMESERIES, RULE_STATE),
        defers=True,
        validate=_dead,
        telegraf=True,
    )


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    queues = {queue for queue, handler in handlers.items() if handler.record is Metric}
    return rule_doubts(settings, queues, "metrics", of_metrics=True)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    return rule_details(settings, routing_key, of_metrics=True)


FLOW = Flow(
    "metrics",
    handlers=(
        _handler_of("metrics.system", "hosts and devices"),
        _handler_of("metrics.application", "services"),
    ),
    files=(RULES, KINDS, ARCHIVE),
    doubts=_doubts,
    explain=_explain,
)
