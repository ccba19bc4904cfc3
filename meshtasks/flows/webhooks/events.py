"""Events of the home: when each happened, and what workflows may rely on; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.outcome import Dead
from meshtasks.records.envelope import Envelope, sensor_of_key
from meshtasks.records.models import AutomationTrigger, Motion, StateChange
from meshtasks.records.timestamps import moment_of, too_old

R = TypeVar("R")


class Event(NamedTuple):
    """One good record of a batch.

    Attributes:
        place: in the batch.
        time: epoch seconds; when it happened.
        record: as workflows see it.
    """

    place: int
    time: float
    record: Mapping[str, Any]


class Events(NamedTuple):
    """A batch of events.

    Attributes:
        good: in order.
        dead: place of each bad record → why.
    """

    good: list[Event]
    dead: dict[int, Dead]


#: Reads one record: as workflows see it, and its own timestamp, None if it has none.
Reader = Callable[[R, Envelope], tuple[Mapping[str, Any], object]]


def read_events(
    records: Sequence[R],
    envelopes: Sequence[Envelope],
    read: Reader[R],
    oldest_seconds: float = math.inf,
) -> Events:
    """Read a batch.

    Args:
        records: the records.
        envelopes: the message each came in.
        read: reads one; may raise :class:`~meshtasks.errors.InvalidMessage`.
        oldest_seconds: an older one is dead, unless its message may be old.
    """
    events = Events([], {})
    for place, (record, envelope) in enumerate(zip(records, envelopes, strict=True)):
        try:
            seen, stamp = read(record, envelope)
            time = moment_of(stamp, envelope)
            if time < envelope.received_at - oldest_seconds and not envelope.may_be_old:
                raise too_old(time, envelope, oldest_seconds)
        except InvalidMessage as error:
            events.dead[place] = Dead(str(error), type(error).__name__)
        else:
            events.good.append(Event(place, time, seen))
    return events


def read_motion(motion: Motion, envelope: Envelope) -> tuple[Mapping[str, Any], object]:
    """A motion; workflows find the sensor in it wherever it came from.

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
    """A state change; it happened when the new state was last updated. A removal
    has no new state and so no time of its own.

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
