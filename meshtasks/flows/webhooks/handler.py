"""The handlers of events: each reads its records, and starts the workflows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.contract import Batch, Validate, handles
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.webhooks.workflows import (
    SINKS,
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
