"""What the flow of inference gives to the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.errors import Transient
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import (
    Check,
    Detail,
    Doubt,
    Verdict,
    probe,
    rule_detail,
)
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference.client import TRITON
from meshtasks.flows.inference.commands import COMMANDS
from meshtasks.flows.inference.config import MODELS
from meshtasks.flows.inference.handler import evaluate_results, run_models


def _triton(settings: Settings) -> Verdict:
    try:
        return probe(settings, TRITON)
    except Transient as error:
        remedy = f"start it, or do not consume {run_models.queue}; MESH_TRITON_URL"
        return Verdict("warning", str(error), remedy)


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("triton", partial(_triton, settings))


def _doubts(settings: Settings, _handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    models = settings.read(MODELS)
    for name, steps in models.models.items():
        if not (steps.tags or steps.scores or steps.alerts):
            text = (
                f"the model {name} has no steps: its results are points of ok and "
                "latency_ms, as they are without this entry"
            )
            yield Doubt("warning", MODELS, f"models.{name}", text)
    queue = run_models.queue
    limit_seconds = settings.read(QUEUES).for_queue(queue).time_limit_seconds
    answer_seconds = models.answer_timeout_seconds
    if answer_seconds > limit_seconds / 2:
        text = (
            f"a model may take {answer_seconds:g} s, more than half of the "
            f"{limit_seconds:g} s that a batch of {queue} may take "
            "(time_limit_seconds in queues.yaml): it would be cut off"
        )
        yield Doubt("warning", MODELS, "answer_timeout_seconds", text)


def _explain(
    settings: Settings, handler: Handler, routing_key: str
) -> Iterator[Detail]:
    if handler is not evaluate_results:
        return
    model = ".".join(routing_key.split(".")[2:3])
    steps = settings.read(MODELS).models.get(model)
    for alert in steps.alerts if steps else ():
        yield rule_detail(alert, f"field {alert.field}")


FLOW = Flow(
    "inference",
    handlers=(run_models, evaluate_results),
    files=(MODELS, ARCHIVE),
    commands=COMMANDS,
    checks=_checks,
    doubts=_doubts,
    explain=_explain,
)
