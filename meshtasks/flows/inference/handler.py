"""ai.inference.requests and ai.inference.results: models are asked, and what they
answer becomes points and alerts.

Requests come in batches because models are fastest in batches: those to one model
are stacked (see :mod:`meshtasks.flows.inference.stacking`). Whoever asked gets an
answer, published to the exchange ``ai`` as ``ai.result.<model>``: the model's outputs,
or why there are none. Only while nobody can tell (the server is down, the model is
not loaded) do requests wait in the broker; one that is given up after its retries is
answered with the reason, too.

A rerun is harmless: models have no memory, and the same request gives a result of
the same message id. Results are treated as metrics are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage, SinkUnavailable, Transient
from meshtasks.flows.contract import Batch, handles
from meshtasks.flows.inference.client import TRITON, ask_model, spared
from meshtasks.flows.inference.config import MODELS, transform
from meshtasks.flows.inference.replies import RESULTS_QUEUE, Answers
from meshtasks.flows.inference.requests import Request, origin_of, request_of
from meshtasks.flows.inference.results import InferenceResult, error_message
from meshtasks.flows.pipeline import store_points
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import objects_one_a_line


def _refuses_requests(
    records: Sequence[dict[str, Any]],
    envelopes: Sequence[Envelope],
    _settings: Settings,
) -> Mapping[int, Dead]:
    dead: dict[int, Dead] = {}
    for place, (record, envelope) in enumerate(zip(records, envelopes, strict=True)):
        try:
            request_of(record, envelope)
        except InvalidMessage as error:
            dead[place] = Dead(str(error), type(error).__name__)
    return dead


def _refuses_results(
    results: Sequence[InferenceResult],
    envelopes: Sequence[Envelope],
    settings: Settings,
) -> Mapping[int, Dead]:
    return transform(results, envelopes, settings.read(MODELS)).dead


def _tell_askers(requests: Envelope, reason: str, settings: Settings) -> list[Outgoing]:
    limit_bytes = settings.read(QUEUES).for_queue(RESULTS_QUEUE).max_message_bytes
    origins = [
        origin_of(record, requests)
        for record in _values(requests.body)
        if isinstance(record, dict)
    ]
    return [
        Outgoing(*error_message(origin, reason, limit_bytes))
        for origin in origins
        if origin is not None
    ]


def _values(body: bytes) -> list[Any]:
    """What the members of a body are, as far as they can be read: it may have taken
    the pool process down before anybody did."""
    try:
        content = from_json(body)
    except ValueError:
        content = []
        for line in objects_one_a_line(body):
            with suppress(ValueError):
                content.append(from_json(line))
    return content if isinstance(content, list) else [content]


@handles(
    "ai.inference.requests",
    record=dict[str, Any],
    sinks=(TRITON, RULE_STATE),
    refuses=_refuses_requests,
    gives_up=_tell_askers,
)
def ask_models(batch: Batch[dict[str, Any]], sinks: Sinks) -> list[Outcome]:
    """Ask models, and publish what they answer."""
    outcomes: dict[int, Outcome] = {}
    limits = sinks.settings.read(QUEUES).for_queue(batch.queue)
    ends_at = time.monotonic() + limits.time_limit_seconds / 2
    fault: Transient | None = None
    for requests in _by_model(batch, Answers(sinks, outcomes)):
        if isinstance(fault, SinkUnavailable):
            outcomes |= dict.fromkeys(requests, spared(fault))
        else:
            fault = ask_model(requests, sinks, outcomes, ends_at)
    return [outcomes[place] for place in range(len(batch.records))]


@handles(
    "ai.inference.results",
    record=InferenceResult,
    sinks=(TIMESERIES, RULE_STATE),
    refuses=_refuses_results,
)
def evaluate_results(batch: Batch[InferenceResult], sinks: Sinks) -> list[Outcome]:
    """Store scores and latencies, and look at them with the rules of models.yaml."""
    points = transform(batch.records, batch.envelopes, sinks.settings.read(MODELS))
    return store_points(batch, points, sinks)


def _by_model(
    batch: Batch[dict[str, Any]], answers: Answers
) -> Iterable[dict[int, Request]]:
    """The requests to each version of each model, by place in the batch; what is no
    request is refused."""
    models: dict[tuple[str, str], dict[int, Request]] = {}
    records = zip(batch.records, batch.envelopes, strict=True)
    for place, (record, envelope) in enumerate(records):
        try:
            request = request_of(record, envelope)
        except InvalidMessage as error:
            answers.refuse(place, origin_of(record, envelope), error)
        else:
            # One that met a fault in a stack may have been what brought it about.
            if _was_tried(envelope):
                request = request._replace(alone=True)
            model = request.origin.model, request.version
            models.setdefault(model, {})[place] = request
    answers.publish()
    return models.values()


def _was_tried(envelope: Envelope) -> bool:
    attempt = envelope.headers.get(headers.ATTEMPT)
    return isinstance(attempt, int) and attempt > 0
