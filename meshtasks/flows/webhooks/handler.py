"""Handlers of the flow of webhooks: they read events, call the workflows that the
events start, and send the events to the archive.

If some of a record's calls succeed and others do not, the record is retried. The
successful calls are logged in the state, so that no host repeats them. Nothing is
logged for records that are done at the first attempt, which is nearly all. If the
worker is killed between a call and the acknowledgement of its record, all webhooks of
the record are called again, with the same idempotency keys.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from meshtasks.amqp import headers
from meshtasks.amqp.entities import topic_matches
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import (
    InvalidMessage,
    MeshError,
    SchemaMismatch,
    SinkUnavailable,
    Transient,
)
from meshtasks.flows.contract import Batch, Flow, Handler
from meshtasks.flows.diagnosis import (
    Check,
    Detail,
    Doubt,
    Verdict,
    can_occur,
    probe,
    unreachable,
)
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import identified_records, send_to_archive
from meshtasks.flows.sensor_activity import of_keys
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.flows.webhooks.client import (
    WEBHOOK,
    HomeEvent,
    WebhookBusy,
    WebhookRefused,
    WebhookRequest,
    Webhooks,
    WorkflowRun,
    requests_of,
)
from meshtasks.flows.webhooks.config import WORKFLOWS, Workflow
from meshtasks.outcome import DONE, Dead, Outcome, Retry, dead_of, not_tried, outcome_of
from meshtasks.records.envelope import Envelope, sensor_of_key
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import AutomationTrigger, Motion, StateChange
from meshtasks.records.timestamps import moment_of, too_old

if TYPE_CHECKING:
    from meshtasks.flows.webhooks.log import WebhookLog

R = TypeVar("R")


def _open_log(sinks: Sinks) -> WebhookLog:
    # loads SQLAlchemy
    from meshtasks.flows.webhooks.log import WebhookLog  # noqa: PLC0415
    from meshtasks.state.database import StateLocation  # noqa: PLC0415

    return WebhookLog(StateLocation.of(sinks.settings.env))


#: Log of the webhooks that were called successfully for records that are not yet done.
WEBHOOK_LOG = SinkKey("webhook_log", _open_log)
#: Sinks that the handlers of events need.
SINKS = (WEBHOOK, WEBHOOK_LOG)
#: Time after which a batch makes no further calls; the records concerned are retried.
#: So slow webhooks do not keep the pool from the batches of other queues.
BATCH_SECONDS = 30.0

#: Reads one record. Returns it as workflows get it, and its own timestamp or None.
Reader = Callable[[R, Envelope], tuple[Mapping[str, Any], object]]


class HomeEvents(NamedTuple):
    """A batch of events: the good ones in order, and the bad ones as index → reason."""

    good: list[HomeEvent]
    dead: dict[int, Dead]


def read_events(
    records: Sequence[R],
    envelopes: Sequence[Envelope],
    read: Reader[R],
    oldest_seconds: float = math.inf,
) -> HomeEvents:
    """Read a batch of events.

    Args:
        read: reads one record; may raise InvalidMessage.
        oldest_seconds: maximum age of a record in seconds; an older one is dead,
            unless its message may be old.
    """
    events = HomeEvents([], {})
    for index, (record, envelope) in enumerate(zip(records, envelopes, strict=True)):
        try:
            seen, stamp = read(record, envelope)
            time = moment_of(stamp, envelope)
            if time < envelope.received_at - oldest_seconds and not envelope.may_be_old:
                raise too_old(time, envelope, oldest_seconds)
        except InvalidMessage as error:
            events.dead[index] = dead_of(error)
        else:
            events.good.append(HomeEvent(index, time, seen))
    return events


def read_motion(motion: Motion, envelope: Envelope) -> tuple[Mapping[str, Any], object]:
    """Return a motion and its timestamp. The sensor id is set from the routing key if
    the record has none.

    Raises:
        SchemaMismatch: the sensor id is missing or blank.
    """
    sensor_id = motion.get("sensor_id")
    if sensor_id is None:
        sensor_id = sensor_of_key(envelope)
    if not sensor_id.strip():
        raise SchemaMismatch("sensor_id: is empty")
    return {**motion, "sensor_id": sensor_id}, motion.get("timestamp")


def read_state_change(
    change: StateChange, _envelope: Envelope
) -> tuple[Mapping[str, Any], object]:
    """Return a state change and the time at which the new state was last updated. A
    removed entity has no new state, and so no timestamp.

    Raises:
        SchemaMismatch: there is neither an old nor a new state.
    """
    new = change.get("new_state")
    if new is None and change.get("old_state") is None:
        raise SchemaMismatch("new_state: expected an old state, a new one or both")
    return change, new.get("last_updated") if new else None


def read_automation_trigger(
    trigger: AutomationTrigger, _envelope: Envelope
) -> tuple[Mapping[str, Any], object]:
    """Return an automation trigger and its timestamp."""
    return trigger, trigger.get("timestamp")


def combined(calls: Iterable[Outcome]) -> Outcome:
    """Return the outcome of a record from the outcomes of its calls.

    If any call is to be retried, the record is retried: successful calls are not
    repeated, and rejected ones are rejected again. Otherwise it is dead if any call
    was rejected.
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
            _Caller(sinks[WEBHOOK]).make(requests)
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
        self._n8n_unavailable: Outcome | None = None

    def make(self, requests: Iterable[WebhookRequest]) -> None:
        """Make requests, except those that cannot succeed, and record their outcomes.
        A request whose data is rejected is made again in halves."""
        for request in requests:
            try:
                outcome = self._not_called(request.workflow) or self._call(request)
            except WebhookRefused as error:
                if error.of_data and len(request.runs) > 1:
                    self.make(request.halves())
                    continue
                outcome = outcome_of(error)
            request.resolve(outcome)

    def _not_called(self, workflow: Workflow) -> Outcome | None:
        """Return the outcome of a call that cannot succeed now, or None."""
        if self._n8n_unavailable and self._webhooks.is_at_n8n(workflow.webhook):
            return self._n8n_unavailable
        if time.monotonic() > self._deadline:
            reason = f"not called: its batch took longer than {BATCH_SECONDS:g} s"
            return Retry(f'workflow "{workflow.name}" {reason}', tried=False)
        return None

    def _call(self, request: WebhookRequest) -> Outcome:
        try:
            self._webhooks.call(request.workflow, request.body(), request.headers())
        except SinkUnavailable as error:
            self._n8n_unavailable = not_tried(error)
            return outcome_of(error)
        except WebhookBusy as error:
            return outcome_of(error) if error.counts else not_tried(error)
        except Transient as error:
            return outcome_of(error)
        return DONE


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
    """Omit calls that succeeded at an earlier delivery of the record."""
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
    """Log the successful calls of records that are not done.

    If the log cannot be written, records that are retried get that failure as their
    outcome, so that the worker pauses the queue until the log is available.
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


def _events_handler(
    queue: str,
    record: Any,
    read: Reader[Any],
    what: str,
    oldest_seconds: Callable[[Settings], float] = lambda _: math.inf,
) -> Handler:
    """Return the handler of a queue of events.

    Args:
        what: name of the events for the handler's docstring.
        oldest_seconds: see :func:`read_events`.
    """

    def events_of(
        records: Sequence[Any], envelopes: Sequence[Envelope], settings: Settings
    ) -> HomeEvents:
        return read_events(records, envelopes, read, oldest_seconds(settings))

    def validate(
        records: Sequence[Any], envelopes: Sequence[Envelope], settings: Settings
    ) -> Mapping[int, Dead]:
        return events_of(records, envelopes, settings).dead

    def start_workflows(batch: Batch[Any], sinks: Sinks) -> list[Outcome]:
        events = events_of(batch.records, batch.envelopes, sinks.settings)
        return run_workflows(batch, events, sinks)

    start_workflows.__doc__ = f"Start workflows for {what}."
    return Handler(queue, start_workflows, record, SINKS, validate=validate)


_HANDLERS = (
    _events_handler(
        "sensors.motion",
        Motion,
        read_motion,
        "motion",
        lambda settings: settings.read(KINDS).oldest_seconds("motion"),
    ),
    _events_handler(
        "home.events.state_changes",
        StateChange,
        read_state_change,
        "state changes",
    ),
    _events_handler(
        "home.events.automations",
        AutomationTrigger,
        read_automation_trigger,
        "automations",
    ),
)


def _webhooks(settings: Settings) -> Verdict:
    webhooks = [each.webhook for each in settings.read(WORKFLOWS).workflows]
    if not webhooks:
        return Verdict("skipped", "workflows.yaml names none")
    if any(webhook.is_path for webhook in webhooks):
        probe(settings, WEBHOOK)
    away = unreachable({each.url for each in webhooks if not each.is_path})
    if away:
        remedy = "start them, or correct the URLs in workflows.yaml"
        return Verdict("failed", "; ".join(dict.fromkeys(away.values())), remedy)
    return Verdict("ok", f"{len(webhooks)} workflows, their hosts answer")


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    records = {handler.record for handler in _HANDLERS}
    queues = {queue for queue, each in handlers.items() if each.record in records}
    for index, workflow in enumerate(settings.read(WORKFLOWS).workflows):
        if not can_occur(workflow.routing_key, settings.read(TOPOLOGY), queues):
            text = (
                f"nothing starts {workflow.name}: {workflow.routing_key} matches no "
                f"routing key of {', '.join(sorted(queues))}"
            )
            key = f"workflows.{index}.routing_key"
            yield Doubt("warning", WORKFLOWS, key, text)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    for workflow in settings.read(WORKFLOWS).workflows:
        if topic_matches(workflow.routing_key, routing_key):
            webhook = workflow.webhook
            base = settings.env.n8n_url.rstrip("/") if webhook.is_path else ""
            url = base + webhook.url
            when = [condition.field for condition in workflow.when]
            only = f", if {', '.join(when)} are so" if when else ""
            yield Detail(
                "workflow",
                f"{workflow.name}: {url}{only}",
                {"name": workflow.name, "url": url, "when": when},
            )


FLOW = Flow(
    "webhooks",
    handlers=_HANDLERS,
    files=(WORKFLOWS, KINDS, ARCHIVE),
    sinks=(WEBHOOK_LOG,),
    checks=lambda settings: [Check("webhooks", partial(_webhooks, settings))],
    doubts=_doubts,
    explain=_explain,
)
