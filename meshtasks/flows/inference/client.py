"""Runs a model on all requests of a batch to it, and publishes the results."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import QUEUES
from meshtasks.errors import (
    InvalidMessage,
    MeshError,
    SinkRejected,
    SinkUnavailable,
    Transient,
)
from meshtasks.flows.inference.config import MEASUREMENT, MODELS
from meshtasks.flows.inference.messages import (
    ModelRequest,
    RequestOrigin,
    error_message,
    result_message,
)
from meshtasks.flows.inference.tensors import (
    Inference,
    ModelCrashed,
    ModelInput,
    ModelSpec,
    infer_stacked,
    model_input,
)
from meshtasks.flows.pipeline import give_alerts
from meshtasks.flows.sinks import PUBLISHER, SinkKey, Sinks
from meshtasks.outcome import DONE, Outcome, Retry, not_tried, outcome_of
from meshtasks.rules.config import ThresholdRule
from meshtasks.rules.detection import Series
from meshtasks.rules.evaluation import Watched

if TYPE_CHECKING:
    from meshtasks.flows.inference.triton import Triton

RESULTS_QUEUE = "ai.inference.results"

_OUT_OF_TIME = Retry("the requests before it took too long", tried=False)

_HEALTH_FIELD = "healthy"
#: Triton's Python backend does not restart the process of a model that died. The server
#: stays ready, and every request to the model fails until the model is loaded again.
#: Only this alert shows it.
_CRASHED = ThresholdRule(
    name="model-crashed",
    type="threshold",
    routing_key="#",
    metric=MEASUREMENT,
    field=_HEALTH_FIELD,
    below=1,
    severity="critical",
    title="Model {tags[model]} has crashed",
    message=(
        "The process of model {tags[model]} died. Triton does not start it again: "
        "unload and load the model, or restart Triton. Until then requests to it are "
        "tried again for a while, and end as dead letters."
    ),
    resolved_message="Model {tags[model]} answers again.",
)


def _open_triton(sinks: Sinks) -> Triton:
    from meshtasks.flows.inference.triton import Triton  # noqa: PLC0415 - loads gevent

    seconds = sinks.settings.read(MODELS).answer_timeout_seconds
    return Triton(sinks.settings.env.triton_url, answer_timeout_seconds=seconds)


#: The model server.
TRITON = SinkKey("triton", _open_triton, extra="triton")


class Replies:
    """Collects the results of requests until they are published.

    Args:
        outcomes: outcomes by index in the batch; a request's outcome is added when
            its result is confirmed.
    """

    def __init__(self, sinks: Sinks, outcomes: dict[int, Outcome]) -> None:
        self._sinks = sinks
        self._outcomes = outcomes
        results = sinks.settings.read(QUEUES).for_queue(RESULTS_QUEUE)
        self._limit_bytes = results.max_message_bytes
        self._messages: list[Outgoing] = []
        self._collected: dict[int, Outcome] = {}

    def add(self, index: int, origin: RequestOrigin, inference: Inference) -> None:
        """Add the result of a request; an error if it cannot be published."""
        try:
            message = result_message(origin, inference, self._limit_bytes)
        except SinkRejected as error:
            self.refuse(index, origin, error)
        else:
            self._messages.append(message)
            self._collected[index] = DONE

    def refuse(
        self,
        index: int,
        origin: RequestOrigin | None,
        error: InvalidMessage | SinkRejected,
    ) -> None:
        """Add an error as the result of a request, which is dead. Without an origin
        the request gets no result."""
        dead = outcome_of(error)
        if origin is not None:
            message = error_message(origin, dead.reason, self._limit_bytes)
            self._messages.append(message)
        self._collected[index] = dead

    def publish(self) -> None:
        """Publish the collected results; if that fails, the requests are retried."""
        collected, messages = self._collected, self._messages
        self._collected, self._messages = {}, []
        try:
            if messages:
                self._sinks[PUBLISHER].publish(messages)
        except MeshError as error:
            collected = dict.fromkeys(collected, outcome_of(error))
        self._outcomes |= collected


def run_model(
    requests: Mapping[int, ModelRequest],
    sinks: Sinks,
    outcomes: dict[int, Outcome],
    ends_at: float,
) -> Transient | None:
    """Run a model, publish its results, and raise an alert if its process died.

    Args:
        requests: requests to one version of one model, by index in the batch.
        outcomes: gets the outcome of each request.
        ends_at: monotonic seconds; requests that are not sent by then are retried.

    Returns:
        The failure that ended the run, or None.
    """
    began_at = time.monotonic()
    replies = Replies(sinks, outcomes)
    try:
        spec, inputs = _inputs(requests, sinks, replies, began_at)
    except SinkRejected as error:
        for index, request in requests.items():
            replies.refuse(index, request.origin, error)
        replies.publish()
        return None
    except Transient as fault:
        outcomes |= dict.fromkeys(requests, outcome_of(fault))
        return fault
    run = infer_stacked(
        list(inputs.values()),
        spec.max_batch_size,
        lambda tensors: sinks[TRITON].infer(spec, tensors),
        lambda: time.monotonic() < ends_at,
    )
    for number, index in enumerate(inputs):
        result = run.results.get(number)
        if isinstance(result, Inference):
            replies.add(index, requests[index].origin, result)
        elif result is not None:
            replies.refuse(index, requests[index].origin, result)
        else:
            outcomes[index] = _without_result(run.fault, tried=number in run.tried)
    replies.publish()
    crashed = isinstance(run.fault, ModelCrashed)
    # Success is recorded once a minute: when the model's description was read again.
    if crashed or (run.results and spec.read_at >= began_at):
        now = time.time()
        give_alerts([_health(spec.name, crashed=crashed, now=now)], sinks)
    return run.fault


def _without_result(fault: Transient | None, *, tried: bool) -> Outcome:
    """Return the outcome of a request that has no result."""
    if fault is None:
        return _OUT_OF_TIME
    if isinstance(fault, SinkUnavailable) and not tried:
        return not_tried(fault)
    return outcome_of(fault)  # a model that fails does so for every request


def _inputs(
    requests: Mapping[int, ModelRequest],
    sinks: Sinks,
    replies: Replies,
    began_at: float,
) -> tuple[ModelSpec, dict[int, ModelInput]]:
    """Return the model's description, and the requests that fit it, by index. The
    others are rejected, but only by a description that was read in this batch.

    Raises:
        SinkRejected: there is no such model.
        Transient: the description cannot be read.
    """
    first = next(iter(requests.values()))
    model, version = first.origin.model, first.version
    spec = sinks[TRITON].model(model, version)
    inputs, misfits = _sorted_out(requests, spec)
    if misfits and spec.read_at < began_at:
        spec = sinks[TRITON].model(model, version, max_age_seconds=0.0)
        inputs, misfits = _sorted_out(requests, spec)
    for index, error in misfits.items():
        replies.refuse(index, requests[index].origin, error)
    return spec, inputs


def _sorted_out(
    requests: Mapping[int, ModelRequest], spec: ModelSpec
) -> tuple[dict[int, ModelInput], dict[int, InvalidMessage]]:
    inputs: dict[int, ModelInput] = {}
    misfits: dict[int, InvalidMessage] = {}
    for index, request in requests.items():
        try:
            inputs[index] = model_input(request.inputs, spec, single=request.single)
        except InvalidMessage as error:
            misfits[index] = error
    return inputs, misfits


def _health(model: str, *, crashed: bool, now: float) -> Watched:
    """Return a sample for the rule on crashed models."""
    tags = (("model", model),)
    key = f"{MEASUREMENT},model={model} {_HEALTH_FIELD}="
    series = Series(key, MEASUREMENT, "", field=_HEALTH_FIELD, tags=tags)
    return Watched(series, (_CRASHED,), [(now, 0.0 if crashed else 1.0)])
