"""One model is asked everything that a batch wants of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshtasks.flows.sinks import SinkKey, Sinks

if TYPE_CHECKING:
    from meshtasks.flows.inference.triton import Triton


import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from meshtasks.errors import (
    InvalidMessage,
    SinkRejected,
    SinkUnavailable,
    Transient,
)
from meshtasks.flows.inference.health import health
from meshtasks.flows.inference.replies import Answers
from meshtasks.flows.inference.requests import Request
from meshtasks.flows.inference.specs import Fitting, ModelCrashed, ModelSpec, fitting
from meshtasks.flows.inference.stacking import Inference, Served, serve
from meshtasks.flows.pipeline import give_alerts
from meshtasks.outcome import Outcome, Retry, outcome_of

_OUT_OF_TIME = Retry("the requests before it took too long", tried=False)


def _open_triton(sinks: Sinks) -> Triton:
    from meshtasks.flows.inference.triton import Triton  # noqa: PLC0415 - loads gevent

    return Triton.from_settings(sinks.settings)


#: The server of the models.
TRITON = SinkKey("triton", _open_triton)


def ask_model(
    requests: Mapping[int, Request],
    sinks: Sinks,
    outcomes: dict[int, Outcome],
    ends_at: float,
) -> Transient | None:
    """Ask a model, answer the requesters, and say so if the model is dead.

    Args:
        requests: to one version of one model, by place in the batch.
        sinks: the process's sinks.
        outcomes: gets the outcome of each request.
        ends_at: monotonic seconds; what is not asked by then is for later.

    Returns:
        The fault that put an end to it, if one did.
    """
    began_at = time.monotonic()
    answers = Answers(sinks, outcomes)
    try:
        spec, fits = _fits(requests, sinks, answers, began_at)
    except SinkRejected as error:
        for place, request in requests.items():
            answers.refuse(place, request.origin, error)
        answers.publish()
        return None
    except Transient as fault:
        outcomes |= dict.fromkeys(requests, outcome_of(fault))
        return fault
    served = serve(
        list(fits.values()),
        spec.max_batch_size,
        lambda inputs: sinks[TRITON].infer(spec, inputs),
        lambda: time.monotonic() < ends_at,
    )
    places = list(fits)
    for number, answer in served.answers.items():
        place = places[number]
        if isinstance(answer, Inference):
            answers.give(place, requests[place].origin, answer)
        else:
            answers.refuse(place, requests[place].origin, answer)
    answers.publish()
    outcomes |= _unanswered(places, served)
    crashed = isinstance(served.fault, ModelCrashed)
    # That it answers is said once a minute: whenever it was asked what it takes.
    if crashed or (served.answers and spec.read_at >= began_at):
        now = time.time()
        give_alerts([health(spec.name, crashed=crashed, now=now)], now, sinks)
    return served.fault


def spared(fault: Transient) -> Outcome:
    """The outcome of a request that was spared a fault which others met."""
    outcome = outcome_of(fault)
    return replace(outcome, tried=False) if isinstance(outcome, Retry) else outcome


def _fits(
    requests: Mapping[int, Request], sinks: Sinks, answers: Answers, began_at: float
) -> tuple[ModelSpec, dict[int, Fitting]]:
    """What the model takes, and the requests that fit, by place; others are refused,
    though not before the model was asked again since the batch began.

    Raises:
        SinkRejected: there is no such model.
        Transient: it is not known what the model takes.
    """
    first = next(iter(requests.values()))
    model, version = first.origin.model, first.version
    spec = sinks[TRITON].model(model, version)
    fits, misfits = _sorted_out(requests, spec)
    if misfits and spec.read_at < began_at:
        spec = sinks[TRITON].model(model, version, max_age_seconds=0.0)
        fits, misfits = _sorted_out(requests, spec)
    for place, error in misfits.items():
        answers.refuse(place, requests[place].origin, error)
    return spec, fits


def _sorted_out(
    requests: Mapping[int, Request], spec: ModelSpec
) -> tuple[dict[int, Fitting], dict[int, InvalidMessage]]:
    fits: dict[int, Fitting] = {}
    misfits: dict[int, InvalidMessage] = {}
    for place, request in requests.items():
        try:
            fits[place] = fitting(request.inputs, spec, alone=request.alone)
        except InvalidMessage as error:
            misfits[place] = error
    return fits, misfits


def _unanswered(places: Sequence[int], served: Served) -> dict[int, Outcome]:
    """Outcomes of the requests that were not answered, by place in the batch."""
    fault = served.fault
    outcomes: dict[int, Outcome] = {}
    for number, place in enumerate(places):
        if number in served.answers:
            continue
        if fault is None:
            outcomes[place] = _OUT_OF_TIME
        elif isinstance(fault, SinkUnavailable) and number not in served.tried:
            outcomes[place] = spared(fault)
        else:  # a model that is at fault is so for every request
            outcomes[place] = outcome_of(fault)
    return outcomes
