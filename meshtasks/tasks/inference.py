"""ai.inference.requests and ai.inference.results: models are asked, and what they
answer becomes points and alerts.

Requests come in batches because models are fastest in batches: those to one model
are stacked (see :mod:`meshtasks.domain.inference.stacking`). Whoever asked gets an
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

from meshtasks.domain.envelope import Envelope
from meshtasks.domain.errors import InvalidMessage, SinkUnavailable, Transient
from meshtasks.domain.inference.pipeline import transform
from meshtasks.domain.inference.requests import Request, origin_of, request_of
from meshtasks.domain.inference.results import InferenceResult, error_message
from meshtasks.domain.json_text import objects_one_a_line
from meshtasks.domain.outcome import Dead, Outcome
from meshtasks.messaging import headers
from meshtasks.messaging.publisher import Outgoing
from meshtasks.settings import Settings
from meshtasks.sinks import Sinks
from meshtasks.tasks.answers import RESULTS_QUEUE, Answers
from meshtasks.tasks.asking import ask_model, spared
from meshtasks.tasks.effects import store_points
from meshtasks.tasks.registry import Batch, handles


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
    return transform(results, envelopes, settings.models).dead


def _tell_askers(requests: Envelope, reason: str, settings: Settings) -> list[Outgoing]:
    limit_bytes = settings.queues.for_queue(RESULTS_QUEUE).max_message_bytes
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
    sinks=("triton", "rule_state"),
    refuses=_refuses_requests,
    gives_up=_tell_askers,
)
def ask_models(batch: Batch[dict[str, Any]], sinks: Sinks) -> list[Outcome]:
    """Ask models, and publish what they answer."""
    outcomes: dict[int, Outcome] = {}
    limit_seconds = sinks.settings.queues.for_queue(batch.queue).time_limit_seconds
    ends_at = time.monotonic() + limit_seconds / 2
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
    sinks=("timeseries", "rule_state"),
    refuses=_refuses_results,
)
def evaluate_results(batch: Batch[InferenceResult], sinks: Sinks) -> list[Outcome]:
    """Store scores and latencies, and look at them with the rules of models.yaml."""
    points = transform(batch.records, batch.envelopes, sinks.settings.models)
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
