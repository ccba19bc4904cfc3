"""Runs the workflows of a batch: the requests, their results, then the archive.

If some of a record's calls succeed and others do not, the record is retried, and the
webhooks that have taken it are spared the repetition, on whatever host it is: they are
noted in the state. Nothing is noted of records that are done at once, which is nearly
all of them. A record whose worker is killed between call and acknowledgement is given
to all its webhooks again, with the same idempotency keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic_core import to_json

from meshtasks.amqp import headers
from meshtasks.errors import MeshError, SinkUnavailable, Transient
from meshtasks.flows.contract import Batch
from meshtasks.flows.excerpts import rfc3339
from meshtasks.flows.pipeline import identified_records, send_to_archive
from meshtasks.flows.sensor_activity import of_keys
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.flows.webhooks.client import (
    WEBHOOK,
    WebhookBusy,
    WebhookRefused,
    Webhooks,
)
from meshtasks.flows.webhooks.config import WORKFLOWS, Workflow
from meshtasks.outcome import DONE, Dead, Outcome, Retry, outcome_of
from meshtasks.records.envelope import Envelope

if TYPE_CHECKING:
    from meshtasks.flows.webhooks.log import WebhookLog

R = TypeVar("R")


def _open_log(sinks: Sinks) -> WebhookLog:
    # loads SQLAlchemy
    from meshtasks.flows.webhooks.log import WebhookLog  # noqa: PLC0415
    from meshtasks.state.database import StateLocation  # noqa: PLC0415

    return WebhookLog(StateLocation.of(sinks.settings.env))


#: Which webhooks have taken a record that is not done yet.
WEBHOOK_LOG = SinkKey("webhook_log", _open_log)
#: The sinks that handlers of events need.
SINKS = (WEBHOOK, WEBHOOK_LOG)
#: What is not called by then is retried: slow webhooks must not keep the pool from
#: the batches of other queues.
BATCH_SECONDS = 30.0

#: What a header may hold besides letters and digits, less the per cent sign.
_PLAIN = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


@dataclass(frozen=True, slots=True)
class HomeEvent:
    """One good record of a batch, as workflows see it, and when it happened."""

    index: int
    time: float
    record: Mapping[str, Any]


class HomeEvents(NamedTuple):
    """A batch of events: the good ones in order, and index → reason of the others."""

    good: list[HomeEvent]
    dead: dict[int, Dead]


@dataclass(slots=True)
class WorkflowRun:
    """One record and the workflows it starts.

    Attributes:
        id: the record's id.
        event: the record, its time and its index in the batch.
        workflows: to be called, in order.
        calls: the outcome of each call, by name of the workflow.
    """

    id: str
    envelope: Envelope
    event: HomeEvent
    workflows: tuple[Workflow, ...]
    calls: dict[str, Outcome] = field(default_factory=dict)

    @property
    def taken(self) -> list[str]:
        """The workflows that have taken it."""
        return [name for name, outcome in self.calls.items() if outcome is DONE]


class WebhookRequest(NamedTuple):
    """One HTTP request: a workflow, and the records (at least one) that start it."""

    workflow: Workflow
    runs: list[WorkflowRun]

    def body(self) -> bytes:
        """The record, or for a whole batch an array of records with their ids."""
        if self.workflow.webhook.send == "record":
            return to_json(self.runs[0].event.record, inf_nan_mode="null")
        entries = [
            {
                "id": run.id,
                "exchange": _unicode(run.envelope.exchange),
                "routing_key": _unicode(run.envelope.routing_key),
                "time": rfc3339(run.event.time),
                "record": run.event.record,
            }
            for run in self.runs
        ]
        return to_json(entries, inf_nan_mode="null")

    def headers(self) -> dict[str, str]:
        """The mesh's own headers. Values are percent-encoded where they are not
        printable ASCII."""
        name = self.workflow.name
        if self.workflow.webhook.send == "batch":
            ids = "\n".join(run.id for run in self.runs).encode()
            key = hashlib.blake2b(ids, digest_size=16).hexdigest()
            return {"Idempotency-Key": f"{key}/{name}", "X-Mesh-Workflow": name}
        (run,) = self.runs
        return {
            "Idempotency-Key": f"{_printable(run.id)}/{name}",
            "X-Mesh-Workflow": name,
            "X-Mesh-Exchange": _printable(run.envelope.exchange),
            "X-Mesh-Routing-Key": _printable(run.envelope.routing_key),
            "X-Mesh-Time": rfc3339(run.event.time),
        }

    def halves(self) -> Iterator[WebhookRequest]:
        """The same for half of the records, and for the other half."""
        middle = len(self.runs) // 2
        yield WebhookRequest(self.workflow, self.runs[:middle])
        yield WebhookRequest(self.workflow, self.runs[middle:])

    def resolve(self, outcome: Outcome) -> None:
        """Record its outcome in the runs."""
        for run in self.runs:
            run.calls[self.workflow.name] = outcome


def requests_of(runs: Iterable[WorkflowRun]) -> list[WebhookRequest]:
    """The requests to make: record by record in the order of its workflows, and
    then those of the workflows that take whole batches."""
    single: list[WebhookRequest] = []
    whole: dict[str, WebhookRequest] = {}
    for run in runs:
        for workflow in run.workflows:
            if workflow.webhook.send == "record":
                single.append(WebhookRequest(workflow, [run]))
            else:
                request = whole.setdefault(workflow.name, WebhookRequest(workflow, []))
                request.runs.append(run)
    return [*single, *whole.values()]


def combined(calls: Iterable[Outcome]) -> Outcome:
    """The outcome of a record whose calls had these outcomes.

    While one may still succeed the record is retried, whatever the others had: those
    that succeeded are not called again, and those that refused it refuse it again.
    Then it is dead if any refused it.
    """
    outcomes = list(calls)
    if retries := [outcome for outcome in outcomes if isinstance(outcome, Retry)]:
        first = next((retry for retry in retries if retry.sink), retries[0])
        waits = [retry.retry_after_seconds or 0.0 for retry in retries]
        return Retry(
            first.reason,
            first.error_type,
            first.sink,
            max(waits) or None,
            tried=any(retry.tried for retry in retries),
        )
    if refusals := [outcome for outcome in outcomes if isinstance(outcome, Dead)]:
        reasons = "; ".join(dead.reason for dead in refusals)
        return Dead(reasons, refusals[0].error_type)
    return DONE


def run_workflows(batch: Batch[R], events: HomeEvents, sinks: Sinks) -> list[Outcome]:
    """Call the workflows that the records start; archive the records that are done."""
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    for index, dead in events.dead.items():
        outcomes[index] = dead
    runs = list(_runs(batch, events, sinks))
    try:
        _omit_taken(runs, sinks)
        if requests := requests_of(runs):
            caller = _Caller(sinks[WEBHOOK])
            for request in requests:
                caller.make(request)
        for run in runs:
            outcomes[run.event.index] = combined(run.calls.values())
        done = {
            event.index: event.time
            for event in events.good
            if outcomes[event.index] is DONE
        }
        send_to_archive(batch, done, sinks)
        sinks.seen += of_keys([batch.envelopes[index] for index in done])
    except MeshError as error:
        failed = outcome_of(error)
        outcomes = [failed if outcome is DONE else outcome for outcome in outcomes]
    _log_taken(runs, outcomes, batch.envelopes[-1].received_at, sinks)
    return outcomes


class _Caller:
    """Makes the requests of one batch."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._deadline = time.monotonic() + BATCH_SECONDS
        self._n8n_unavailable: Retry | None = None

    def make(self, request: WebhookRequest) -> None:
        """Make a request, unless it could not succeed; record its outcome."""
        workflow = request.workflow
        outcome: Outcome
        if self._n8n_unavailable and self._webhooks.is_at_n8n(workflow.webhook):
            outcome = self._n8n_unavailable
        elif time.monotonic() > self._deadline:
            reason = f"not called: its batch took longer than {BATCH_SECONDS:g} s"
            outcome = Retry(f'workflow "{workflow.name}" {reason}', tried=False)
        else:
            try:
                outcome = self._call(request)
            except WebhookRefused as error:
                if error.of_data and len(request.runs) > 1:
                    for half in request.halves():
                        self.make(half)
                    return
                outcome = outcome_of(error)
        request.resolve(outcome)

    def _call(self, request: WebhookRequest) -> Outcome:
        try:
            self._webhooks.call(request.workflow, request.body(), request.headers())
        except SinkUnavailable as error:
            self._n8n_unavailable = _retry(error, tried=False)
            return _retry(error)
        except WebhookBusy as error:
            return _retry(error, tried=error.counts)
        except Transient as error:
            return _retry(error)
        return DONE


def _retry(error: Transient, *, tried: bool = True) -> Retry:
    sink = error.sink if isinstance(error, SinkUnavailable) else None
    kind = type(error).__name__
    return Retry(str(error), kind, sink, error.retry_after_seconds, tried=tried)


def _runs(batch: Batch[R], events: HomeEvents, sinks: Sinks) -> Iterator[WorkflowRun]:
    book = sinks.settings.read(WORKFLOWS)
    by_index = {event.index: event for event in events.good}
    made = [(event.index, event.time) for event in events.good]
    for item in identified_records(batch, made, book.listens_to):
        if item.envelope.is_quiet:
            continue
        event = by_index[item.index]
        if workflows := book.started_by(item.envelope.routing_key, event.record):
            yield WorkflowRun(item.id, item.envelope, event, workflows)


def _omit_taken(runs: list[WorkflowRun], sinks: Sinks) -> None:
    """Omit the calls that succeeded at an earlier delivery of a record."""
    repeated = [run for run in runs if headers.EXCHANGE in run.envelope.headers]
    if not repeated:
        return
    taken = sinks[WEBHOOK_LOG].taken({run.id for run in repeated})
    for run in repeated:
        run.workflows = tuple(
            workflow
            for workflow in run.workflows
            if (run.id, workflow.name) not in taken
        )


def _log_taken(
    runs: list[WorkflowRun], outcomes: list[Outcome], now: float, sinks: Sinks
) -> None:
    """Log the calls that succeeded for records that are not done.

    If that fails, it is the fault to report for those that are retried: the worker
    pauses the queue until the log can be written.
    """
    unfinished = [
        run for run in runs if run.taken and outcomes[run.event.index] is not DONE
    ]
    if not unfinished:
        return
    try:
        sinks[WEBHOOK_LOG].note({run.id: run.taken for run in unfinished}, now)
    except MeshError as error:
        for run in unfinished:
            if isinstance(outcomes[run.event.index], Retry):
                outcomes[run.event.index] = outcome_of(error)


def _printable(text: str) -> str:
    return quote(text, safe=_PLAIN, errors="replace")


def _unicode(text: str) -> str:
    """AMQP text may hold lone surrogates, which no JSON may."""
    return text.encode("utf-8", "replace").decode()
