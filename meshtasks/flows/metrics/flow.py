"""What the flow of metrics gives to the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.metrics.handler import (
    store_application_metrics,
    store_system_metrics,
)
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import Metric
from meshtasks.rules.config import RULES


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
