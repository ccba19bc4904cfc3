"""The flow of webhooks: each handler reads its events, and starts the workflows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from meshtasks.amqp.routing import topic_matches
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.contract import Batch, Flow, Handler, Validate, handles
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
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks.client import WEBHOOK
from meshtasks.flows.webhooks.config import WORKFLOWS
from meshtasks.flows.webhooks.workflows import (
    SINKS,
    WEBHOOK_LOG,
    HomeEvent,
    HomeEvents,
    run_workflows,
)
from meshtasks.outcome import Dead, Outcome
from meshtasks.records.envelope import Envelope, sensor_of_key
from meshtasks.records.kinds import KINDS
from meshtasks.records.models import AutomationTrigger, Motion, StateChange
from meshtasks.records.timestamps import moment_of, too_old

R = TypeVar("R")

#: Reads one record: as workflows see it, and its own timestamp, None if it has none.
Reader = Callable[[R, Envelope], tuple[Mapping[str, Any], object]]


def read_events(
    records: Sequence[R],
    envelopes: Sequence[Envelope],
    read: Reader[R],
    oldest_seconds: float = math.inf,
) -> HomeEvents:
    """Read a batch with ``read``, which may raise InvalidMessage. A record older than
    ``oldest_seconds`` is dead, unless its message may be old."""
    events = HomeEvents([], {})
    for index, (record, envelope) in enumerate(zip(records, envelopes, strict=True)):
        try:
            seen, stamp = read(record, envelope)
            time = moment_of(stamp, envelope)
            if time < envelope.received_at - oldest_seconds and not envelope.may_be_old:
                raise too_old(time, envelope, oldest_seconds)
        except InvalidMessage as error:
            events.dead[index] = Dead(str(error), type(error).__name__)
        else:
            events.good.append(HomeEvent(index, time, seen))
    return events


def read_motion(motion: Motion, envelope: Envelope) -> tuple[Mapping[str, Any], object]:
    """A motion, with the sensor's id whether record or routing key has it.

    Raises:
        SchemaMismatch: there is no sensor id, or a blank one.
    """
    sensor_id = motion.get("sensor_id")
    if sensor_id is None:
        sensor_id = sensor_of_key(envelope)
    if not sensor_id.strip():
        message = "sensor_id: is empty"
        raise SchemaMismatch(message)
    return {**motion, "sensor_id": sensor_id}, motion.get("timestamp")


def read_state_change(
    change: StateChange, _envelope: Envelope
) -> tuple[Mapping[str, Any], object]:
    """A state change; its time is when the new state was last updated. A removal has
    no new state and so no time of its own.

    Raises:
        SchemaMismatch: there is neither an old nor a new state.
    """
    new = change.get("new_state")
    if new is None and change.get("old_state") is None:
        message = "new_state: expected an old state, a new one or both"
        raise SchemaMismatch(message)
    return change, new.get("last_updated") if new else None


def read_automation_trigger(
    trigger: AutomationTrigger, _envelope: Envelope
) -> tuple[Mapping[str, Any], object]:
    """An automation trigger."""
    return trigger, trigger.get("timestamp")


def _oldest_motion(settings: Settings) -> float:
    return settings.read(KINDS).oldest_seconds("motion")


def _dead_among(
    read: Reader[R], oldest_seconds: Callable[[Settings], float] = lambda _: math.inf
) -> Validate:
    def validate(
        records: Sequence[R], envelopes: Sequence[Envelope], settings: Settings
    ) -> Mapping[int, Dead]:
        return read_events(records, envelopes, read, oldest_seconds(settings)).dead

    return validate


@handles(
    "sensors.motion",
    record=Motion,
    sinks=SINKS,
    validate=_dead_among(read_motion, _oldest_motion),
)
def pass_on_motions(batch: Batch[Motion], sinks: Sinks) -> list[Outcome]:
    """Start the workflows for motions."""
    oldest_seconds = _oldest_motion(sinks.settings)
    events = read_events(batch.records, batch.envelopes, read_motion, oldest_seconds)
    return run_workflows(batch, events, sinks)


@handles(
    "home.events.state_changes",
    record=StateChange,
    sinks=SINKS,
    validate=_dead_among(read_state_change),
)
def pass_on_state_changes(batch: Batch[StateChange], sinks: Sinks) -> list[Outcome]:
    """Start the workflows for changes of entities."""
    events = read_events(batch.records, batch.envelopes, read_state_change)
    return run_workflows(batch, events, sinks)


@handles(
    "home.events.automations",
    record=AutomationTrigger,
    sinks=SINKS,
    validate=_dead_among(read_automation_trigger),
)
def pass_on_automations(batch: Batch[AutomationTrigger], sinks: Sinks) -> list[Outcome]:
    """Start the workflows for automations."""
    events = read_events(batch.records, batch.envelopes, read_automation_trigger)
    return run_workflows(batch, events, sinks)


_HANDLERS = (pass_on_motions, pass_on_state_changes, pass_on_automations)


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


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("webhooks", partial(_webhooks, settings))


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
    checks=_checks,
    doubts=_doubts,
    explain=_explain,
)
