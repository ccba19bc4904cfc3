"""Handlers of the flow of inference (requests and results), and the command ``infer``.

A result becomes a metric ``inference`` with the tags and fields that models.yaml
declares, one for each row of a batch. It is then processed like any metric: one point,
and rules that evaluate its fields. A rerun of the command is harmless, because the id
of its message is the id of the call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import from_json, to_json

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import count_in
from meshtasks.amqp.peek import tapped
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.extras import installed
from meshtasks.config.settings import Settings
from meshtasks.errors import (
    InvalidMessage,
    NoAnswer,
    SchemaMismatch,
    SinkRejected,
    SinkUnavailable,
    Transient,
)
from meshtasks.flows.contract import Arguments, Batch, Command, Flow, Handler, handles
from meshtasks.flows.diagnosis import (
    Check,
    Detail,
    Doubt,
    Verdict,
    probe,
    rule_detail,
)
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.inference.client import (
    RESULTS_QUEUE,
    TRITON,
    Replies,
    run_model,
)
from meshtasks.flows.inference.config import (
    LATENCY,
    MEASUREMENT,
    MODELS,
    OK,
    ModelBook,
    ModelSteps,
)
from meshtasks.flows.inference.messages import (
    AI_EXCHANGE,
    InferenceResult,
    ModelName,
    ModelRequest,
    RequestId,
    Version,
    error_message,
    origin_of,
    request_of,
)
from meshtasks.flows.inference.tensors import JsonTensor, tensor_of
from meshtasks.flows.pipeline import Transformed, metric_points, store_points
from meshtasks.flows.sinks import PUBLISHER, RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome, dead_of, not_tried
from meshtasks.records.envelope import Envelope
from meshtasks.records.json_text import objects_one_a_line
from meshtasks.records.models import Metric

#: Maximum wait of ``infer``. Meanwhile it occupies a process of the worker.
LONGEST_WAIT_SECONDS = 120.0


class Infer(Arguments):
    """Send a request to a model.

    Attributes:
        model: name of the model on Triton.
        inputs: at least one tensor.
        request_id: returned with the result; default: the id of the call.
        version: of the model; default: the server's choice.
        wait_seconds: time to wait for the result; default: do not wait.
    """

    model: ModelName
    inputs: Annotated[list[JsonTensor], Field(min_length=1)]
    request_id: RequestId | None = None
    version: Version | None = None
    wait_seconds: Annotated[float, Field(gt=0, le=LONGEST_WAIT_SECONDS)] | None = None


def infer(arguments: Infer, sinks: Sinks, call_id: str) -> dict[str, Any]:
    """Send a request to a model; with wait_seconds, wait for the result.

    Raises:
        SinkRejected: the model's result is an error.
        NoAnswer: there was no result in time; the request is still processed.
        Transient: the broker is unavailable.
    """
    request_id = arguments.request_id or call_id
    record = arguments.model_dump(exclude={"wait_seconds"}, exclude_none=True)
    request = Outgoing(
        AI_EXCHANGE,
        f"ai.model.{arguments.model}",
        to_json({**record, "request_id": request_id}),
        call_id,
        timestamp=time.time(),
    )
    if arguments.wait_seconds is None:
        sinks[PUBLISHER].publish([request])
        return {"request_id": request_id}
    results = f"ai.result.{arguments.model}"
    settings = sinks.settings
    with tapped(
        settings.env.amqp_url, settings.read(TOPOLOGY), results, [AI_EXCHANGE]
    ) as answers:
        sinks[PUBLISHER].publish([request])
        answer = answers.next(
            arguments.wait_seconds,
            lambda message: _is_result(message.body, request_id),
        )
    if answer is None:
        message = (
            f"model {arguments.model} gave no result within "
            f"{arguments.wait_seconds:g} s; the request goes on, and its result is "
            f"published to exchange {AI_EXCHANGE} as {results}"
        )
        raise NoAnswer(message)
    result: dict[str, Any] = from_json(answer.body)
    if (reason := result.get("error")) is not None:
        raise SinkRejected(str(reason))
    return result


def _is_result(body: bytes, request_id: str) -> bool:
    try:
        result = from_json(body)
    except ValueError:
        return False
    return isinstance(result, dict) and result.get("request_id") == request_id


COMMANDS: tuple[Command[Any], ...] = (
    Command("infer", Infer, infer, frozenset({"trigger"})),
)


def _dead_requests(
    records: Sequence[dict[str, Any]],
    envelopes: Sequence[Envelope],
    _settings: Settings,
) -> Mapping[int, Dead]:
    dead: dict[int, Dead] = {}
    for index, (record, envelope) in enumerate(zip(records, envelopes, strict=True)):
        try:
            request_of(record, envelope)
        except InvalidMessage as error:
            dead[index] = dead_of(error)
    return dead


def _dead_results(
    results: Sequence[InferenceResult],
    envelopes: Sequence[Envelope],
    settings: Settings,
) -> Mapping[int, Dead]:
    return result_points(results, envelopes, settings.read(MODELS)).dead


def _results_given_up(
    requests: Envelope, reason: str, settings: Settings
) -> list[Outgoing]:
    limit_bytes = settings.read(QUEUES).for_queue(RESULTS_QUEUE).max_message_bytes
    origins = [
        origin_of(record, requests)
        for record in _values(requests.body)
        if isinstance(record, dict)
    ]
    return [
        error_message(origin, reason, limit_bytes)
        for origin in origins
        if origin is not None
    ]


def _values(body: bytes) -> list[Any]:
    """Return the records of a body, as far as they can be decoded. The pool process
    may have died before it decoded the body."""
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
    validate=_dead_requests,
    on_exhausted=_results_given_up,
)
def run_models(batch: Batch[dict[str, Any]], sinks: Sinks) -> list[Outcome]:
    """Send requests to models, and publish the results."""
    outcomes: dict[int, Outcome] = {}
    limits = sinks.settings.read(QUEUES).for_queue(batch.queue)
    ends_at = time.monotonic() + limits.time_limit_seconds / 2
    fault: Transient | None = None
    for requests in _by_model(batch, Replies(sinks, outcomes)):
        if isinstance(fault, SinkUnavailable):
            outcomes |= dict.fromkeys(requests, not_tried(fault))
        else:
            fault = run_model(requests, sinks, outcomes, ends_at)
    return [outcomes[index] for index in range(len(batch.records))]


@handles(
    "ai.inference.results",
    record=InferenceResult,
    sinks=(TIMESERIES, RULE_STATE),
    defers=True,
    validate=_dead_results,
)
def evaluate_results(batch: Batch[InferenceResult], sinks: Sinks) -> list[Outcome]:
    """Store results of models, and apply the rules of models.yaml."""
    points = result_points(batch.records, batch.envelopes, sinks.settings.read(MODELS))
    return store_points(batch, points, sinks)


def _by_model(
    batch: Batch[dict[str, Any]], replies: Replies
) -> Iterable[dict[int, ModelRequest]]:
    """Return the requests to each version of each model, by index in the batch. Records
    that are not valid requests are rejected."""
    models: dict[tuple[str, str], dict[int, ModelRequest]] = {}
    records = zip(batch.records, batch.envelopes, strict=True)
    for index, (record, envelope) in enumerate(records):
        try:
            request = request_of(record, envelope)
        except InvalidMessage as error:
            replies.refuse(index, origin_of(record, envelope), error)
        else:
            # A request that failed in a stack before may be the cause: run it alone.
            if count_in(envelope.headers, headers.ATTEMPT):
                request = request._replace(single=True)
            model = request.origin.model, request.version
            models.setdefault(model, {})[index] = request
    replies.publish()
    return models.values()


def result_points(
    results: Sequence[InferenceResult], envelopes: Sequence[Envelope], book: ModelBook
) -> Transformed:
    """Make points of results, and the samples that rules watch. A result of several
    rows gives a point for each."""
    metrics: list[Metric] = []
    indices: list[int] = []
    dead: dict[int, Dead] = {}
    for index, result in enumerate(results):
        try:
            found = _metrics(result, book.models.get(result["model"], ModelSteps()))
        except InvalidMessage as error:
            dead[index] = dead_of(error)
            continue
        metrics += found
        indices += [index] * len(found)
    origins = [envelopes[index] for index in indices]
    points = metric_points(metrics, origins, book.rules)
    dead |= {indices[number]: why for number, why in points.dead.items()}
    of_points = [indices[number] for number in points.indices]
    return points._replace(indices=of_points, dead=dead)


def _metrics(result: InferenceResult, steps: ModelSteps) -> list[Metric]:
    fields_of_result: Mapping[str, Any] = result
    tags = {name: fields_of_result.get(name) for name in steps.tags}
    tags["model"] = result["model"]
    timestamp = result.get("timestamp")
    if result.get("error") is not None:
        return [_metric(tags, {OK: False}, timestamp)]
    if result.get("outputs") is None:
        raise SchemaMismatch(
            "outputs: this field is missing, and there is no error either"
        )
    for output in result["outputs"] or ():
        tensor_of(output)  # raises if it is not a tensor
    rows = steps.rows(result)
    common = {OK: True, LATENCY: result.get("latency_ms")}
    return [
        _metric(
            tags if len(rows) == 1 else {**tags, "row": row},
            {**common, **scores},
            timestamp,
        )
        for row, scores in enumerate(rows)
    ]


def _metric(tags: dict[str, Any], fields: dict[str, Any], timestamp: Any) -> Metric:
    return {"name": MEASUREMENT, "fields": fields, "tags": tags, "timestamp": timestamp}


def _triton(settings: Settings) -> Verdict:
    if not installed("triton"):
        text = f"the extra triton is not installed, so {run_models.queue} is not"
        return Verdict("skipped", f"{text} consumed here")
    try:
        return probe(settings, TRITON)
    except Transient as error:
        remedy = f"start it, or do not consume {run_models.queue}; MESH_TRITON_URL"
        return Verdict("warning", str(error), remedy)


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
    checks=lambda settings: [Check("triton", partial(_triton, settings))],
    doubts=_doubts,
    explain=_explain,
)
