"""What the flow of readings gives to the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.readings.handler import handler_of_kind
from meshtasks.flows.sinks import RULE_STATE
from meshtasks.records.kinds import KINDS, QUANTITIES
from meshtasks.records.models import SensorReading
from meshtasks.rules.config import RULES


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
