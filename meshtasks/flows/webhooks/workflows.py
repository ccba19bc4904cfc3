"""What handlers of events have in common: the workflows, and then the archive.

The workflows that a record starts are called one after the other, and a record is
done when all have taken it. If some have not, it is retried or dead, and those that
have are noted, so that neither a retry nor a replay calls them again.

A rerun is as harmless as the called workflows make it: delivery is at least once,
and every request carries an ``Idempotency-Key`` of the record's id and the
workflow's name, the same each time. The entries of a whole batch carry the ids of
their records.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from meshtasks.amqp import headers
from meshtasks.errors import MeshError, SinkUnavailable, Transient
from meshtasks.flows.contract import Batch
from meshtasks.flows.pipeline import identified_records, send_to_archive
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.flows.webhooks.calls import Request, Run, requests_of
from meshtasks.flows.webhooks.client import (
    WEBHOOK,
    WebhookBusy,
    WebhookRefused,
    Webhooks,
)
from meshtasks.flows.webhooks.config import WORKFLOWS, verdict
from meshtasks.flows.webhooks.events import Events
from meshtasks.outcome import DONE, Outcome, Retry, outcome_of
from meshtasks.state.webhook_log import WebhookLog

R = TypeVar("R")

#: The sinks that handlers of events need.
#: Which webhooks have taken a record that is not done yet.
WEBHOOK_LOG = SinkKey(
    "webhook_log",
    lambda sinks: WebhookLog(sinks.settings.env.state_dir / "webhooks.sqlite"),
)
SINKS = (WEBHOOK, WEBHOOK_LOG)
#: What is not called by then is retried: slow webhooks must not keep the pool from
#: the batches of other queues.
BATCH_SECONDS = 30.0


def run_workflows(batch: Batch[R], events: Events, sinks: Sinks) -> list[Outcome]:
    """Call the workflows that the records start; archive the records that are done.

    Args:
        batch: the batch.
        events: what is in it.
        sinks: the process's sinks.
    """
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    for place, dead in events.dead.items():
        outcomes[place] = dead
    runs = list(_runs(batch, events, sinks))
    try:
        _spare_taken(runs, sinks)
        if requests := requests_of(runs):
            caller = _Caller(sinks[WEBHOOK])
            for request in requests:
                caller.make(request)
        for run in runs:
            outcomes[run.event.place] = verdict(run.calls.values())
        done = {
            event.place: event.time
            for event in events.good
            if outcomes[event.place] is DONE
        }
        send_to_archive(batch, done, sinks)
    except MeshError as error:
        undecided = outcome_of(error)
        outcomes = [undecided if each is DONE else each for each in outcomes]
    _note_taken(runs, outcomes, batch.envelopes[-1].received_at, sinks)
    return outcomes


class _Caller:
    """Makes the requests of one batch."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._deadline = time.monotonic() + BATCH_SECONDS
        self._n8n_down: Retry | None = None

    def make(self, request: Request) -> None:
        """Make a request, unless that would be in vain; note in its records what
        became of it."""
        workflow = request.workflow
        outcome: Outcome
        if self._n8n_down and self._webhooks.is_at_n8n(workflow.webhook):
            outcome = self._n8n_down
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
        request.end_in(outcome)

    def _call(self, request: Request) -> Outcome:
        try:
            self._webhooks.call(request.workflow, request.body(), request.headers())
        except SinkUnavailable as error:
            self._n8n_down = _retry(error, tried=False)
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


def _runs(batch: Batch[R], events: Events, sinks: Sinks) -> Iterator[Run]:
    book = sinks.settings.read(WORKFLOWS)
    by_place = {event.place: event for event in events.good}
    made = [(event.place, event.time) for event in events.good]
    for each in identified_records(batch, made, book.listens_to):
        if each.envelope.is_quiet:
            continue
        event = by_place[each.index]
        if workflows := book.started_by(each.envelope.routing_key, event.record):
            yield Run(each.id, each.envelope, event, workflows)


def _spare_taken(runs: list[Run], sinks: Sinks) -> None:
    """Leave out the calls that succeeded when a record was here before."""
    repeated = [run for run in runs if headers.EXCHANGE in run.envelope.headers]
    if not repeated:
        return
    taken = sinks[WEBHOOK_LOG].taken({run.id for run in repeated})
    for run in repeated:
        run.workflows = tuple(
            each for each in run.workflows if (run.id, each.name) not in taken
        )


def _note_taken(
    runs: list[Run], outcomes: list[Outcome], now: float, sinks: Sinks
) -> None:
    """Note the calls that succeeded for records that are not done.

    If that fails, it is the fault to report for those that are retried: the worker
    lets the queue rest until the log can be written.
    """
    unfinished = [
        run for run in runs if run.taken and outcomes[run.event.place] is not DONE
    ]
    if not unfinished:
        return
    try:
        sinks[WEBHOOK_LOG].note({run.id: run.taken for run in unfinished}, now)
    except MeshError as error:
        for run in unfinished:
            if isinstance(outcomes[run.event.place], Retry):
                outcomes[run.event.place] = outcome_of(error)
