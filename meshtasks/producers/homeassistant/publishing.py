"""Selects the events of Home Assistant to publish, and counts them."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.errors import InvalidMessage, MeshError
from meshtasks.producers.base import Producer
from meshtasks.producers.collecting import contained
from meshtasks.producers.homeassistant import messages
from meshtasks.producers.homeassistant.config import HomeAssistantConfig, Loops
from meshtasks.producers.homeassistant.frames import (
    AutomationTriggered,
    Context,
    CurrentState,
    Event,
    StateChanged,
)
from meshtasks.producers.homeassistant.messages import Gap, rfc3339
from meshtasks.records.models import EntityState, StateChange, explain
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described

logger = logging.getLogger(__name__)

_SAVE_INTERVAL_SECONDS = 300.0
_FAULT_LOG_INTERVAL_SECONDS = 10.0
#: Effects follow their cause within seconds; a house makes a few contexts per second.
_REMEMBERED_CONTEXTS = 10_000
#: Entity that represents the connection to Home Assistant.
_MESH_ENTITY_ID = "mesh.home_assistant"

_present: TypeAdapter[CurrentState] = TypeAdapter(CurrentState)


class _Saved(BaseModel):
    heard_at: float
    states: dict[str, EntityState]


class KnownStates:
    """Last known state of every entity, kept in a file over restarts.

    Attributes:
        heard_at: time up to which the states are known, epoch seconds; None if nothing
            is known yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, EntityState] = {}
        self._saved_at = time.monotonic()
        self.heard_at: float | None = None

    def load(self) -> None:
        """Read the file, if there is one; log it and go on if it cannot be read.

        Without its content, this start counts as the first one.
        """
        try:
            saved = _Saved.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else error
            logger.warning(
                "%s cannot be used, so what changed since the last run stays "
                "unknown: %s",
                self._path,
                reason,
            )
            return
        self.heard_at, self._states = saved.heard_at, saved.states

    def save(self) -> None:
        """Write the file. A failure is logged: only the next start needs the file."""
        self._saved_at = time.monotonic()
        if self.heard_at is None:
            return
        try:
            make_private_directory(self._path.parent)
            known = {"heard_at": self.heard_at, "states": self._states}
            replace_private(self._path, json.dumps(known) + "\n")
        except OSError as error:
            logger.warning("the states of the house could not be saved: %s", error)

    def save_confirmed(self, producer: Producer) -> None:
        """Write the file if it is five minutes old and the broker has confirmed all.

        Writing more often would wear out a memory card. The file contains only states
        whose messages are confirmed. After a crash, states with unconfirmed messages
        differ from the file and are published again, with the same message ids.
        """
        is_old = time.monotonic() - self._saved_at >= _SAVE_INTERVAL_SECONDS
        if is_old and not producer.counts().unresolved:
            self.save()

    def apply(self, change: StateChange) -> None:
        """Update the states with a change."""
        if new := change.get("new_state"):
            self._states[change["entity_id"]] = new
        else:
            self._states.pop(change["entity_id"], None)

    def compare(
        self, present: Sequence[CurrentState], *, complete: bool
    ) -> list[StateChange]:
        """Update the states to the present ones; return the differences.

        Args:
            complete: whether entities that are not present have been removed.
        """
        changes: list[StateChange] = []
        for state in present:
            entity_id = state["entity_id"]
            old = self._states.get(entity_id)
            if old is None or old.get("last_updated") != state["last_updated"]:
                new = cast("EntityState", state)
                changes.append(
                    {"entity_id": entity_id, "old_state": old, "new_state": new}
                )
        if complete:
            there = {state["entity_id"] for state in present}
            changes += [
                {"entity_id": entity_id, "old_state": old, "new_state": None}
                for entity_id, old in self._states.items()
                if entity_id not in there
            ]
        for change in changes:
            self.apply(change)
        return changes


class OwnContexts:
    """Tracks the contexts of what the mesh causes, from cause to effect.

    An automation runs in a context of its own, whose parent is the context of its
    trigger; all its effects have this context. The context of what a user does has the
    user's id.

    Attributes:
        user_ids: users that the mesh acts as.
    """

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self.user_ids: AbstractSet[str] = frozenset()
        self._own: OrderedDict[str, None] = OrderedDict()

    def caused(self, context: Context, automation: str | None = None) -> bool:
        """Return whether the mesh caused an event.

        Args:
            automation: the automation triggered, if it is such an event.
        """
        own = (
            context.get("user_id") in self.user_ids
            or context["id"] in self._own
            or context.get("parent_id") in self._own
            or (automation is not None and self._loops.starts(automation))
        )
        if own:
            self._own[context["id"]] = None
            self._own.move_to_end(context["id"])
            if len(self._own) > _REMEMBERED_CONTEXTS:
                self._own.popitem(last=False)
        return own


@dataclass(slots=True)
class EventCounts:
    """Counts since the start.

    ``events = state_changes + triggers + excluded + own + invalid_events``.

    Attributes:
        readings: changes that were also published as a reading.
        excluded: events of entities that the configuration excludes.
        own: events that the mesh itself caused.
        invalid_frames: messages that are not frames of Home Assistant's protocol.
        invalid_states: invalid states in the comparisons after gaps.
        gaps: times without events.
        gap_seconds: sum of their lengths.
        caught_up: messages about changes in gaps.
    """

    connections: int = 0
    events: int = 0
    state_changes: int = 0
    triggers: int = 0
    readings: int = 0
    excluded: int = 0
    own: int = 0
    invalid_events: int = 0
    invalid_frames: int = 0
    invalid_states: int = 0
    gaps: int = 0
    gap_seconds: float = 0.0
    caught_up: int = 0


class EventPublisher:
    """Passes Home Assistant's events and states to a producer.

    Attributes:
        own: tracks what the mesh itself causes.
        known: last known states.
        counts: counts of the events.
    """

    def __init__(
        self, config: HomeAssistantConfig, producer: Producer, known: KnownStates
    ) -> None:
        self.own = OwnContexts(config.loops)
        self.known = known
        self.counts = EventCounts()
        self._config = config
        self._producer = producer
        self._connection_state: EntityState | None = None
        self._no_readings: set[str] = set()
        self._fault_logged_at = -_FAULT_LOG_INTERVAL_SECONDS

    def publish(self, event: Event) -> None:
        """Publish an event, unless it is excluded or caused by the mesh."""
        self.counts.events += 1
        try:
            with contained():
                self._publish(event)
        except MeshError as error:
            self.counts.invalid_events += 1
            what = described(event.data["entity_id"])
            self._log_fault(f"an event of {what}: {error}")

    def _publish(self, event: Event) -> None:
        counts = self.counts
        entity_id = event.data["entity_id"]
        automation = None
        if isinstance(event, StateChanged):
            self.known.apply(event.data)
        else:
            automation = entity_id
        if self.own.caused(event.context, automation):
            counts.own += 1
            return
        if not self._config.entities.wants(entity_id):
            counts.excluded += 1
            return
        moment = event.time_fired.timestamp()
        if isinstance(event, AutomationTriggered):
            fired = event.time_fired.isoformat()
            self._submit([messages.automation_trigger(event.data, fired, moment)])
            counts.triggers += 1
        else:
            submitted = self._submit_change(event.data, moment, None)
            counts.state_changes += 1
            counts.readings += submitted - 1

    def catch_up(self, answer: object, version: str, *, complete: bool) -> None:
        """Publish the changes of a gap, and that the connection is established.

        On the very first start there are no states to compare with, and no gap.

        Args:
            answer: result of ``get_states``.
            version: version of Home Assistant.
            complete: whether all entities exist already; false while Home Assistant
                starts.
        """
        now = time.time()
        present, faults = self._present_states(answer)
        known_until = self.known.heard_at
        changes = self.known.compare(present, complete=complete and not faults)
        attributes: dict[str, Any] = {"version": version, "entities": len(present)}
        if known_until is not None:
            gap = Gap(known_until, now)
            caught_up = sum(self._catch_up_with(change, gap) for change in changes)
            attributes |= {
                "gap": gap.as_json(),
                "gap_seconds": round(gap.seconds, 3),
                "caught_up": caught_up,
            }
            self.counts.gaps += 1
            self.counts.gap_seconds += gap.seconds
            self.counts.caught_up += caught_up
            logger.warning(
                "no events of Home Assistant were received for %.1f s; %d messages "
                "hold what changed in that time, the events in between are lost",
                gap.seconds,
                caught_up,
            )
        self.known.heard_at = now
        self._submit_connection("connected", attributes)
        logger.info(
            "receiving events of Home Assistant %s: %d entities", version, len(present)
        )

    def disconnected(self, reason: str) -> None:
        """Publish that the connection is lost, unless this was published already."""
        old = self._connection_state
        if old is None or old["state"] != "disconnected":
            self._submit_connection("disconnected", {"reason": reason})

    def reject(self, fault: InvalidMessage) -> None:
        """Count and log an invalid frame."""
        self.counts.invalid_frames += 1
        self._log_fault(str(fault))

    def _submit_connection(self, state: str, attributes: dict[str, Any]) -> None:
        """Publish the state of the connection as the state change of an entity.

        So it can start workflows, and the archive contains it.
        """
        now = time.time()
        # EntityState declares only two of these fields.
        new: Any = {
            "entity_id": _MESH_ENTITY_ID,
            "state": state,
            "attributes": {"friendly_name": "Home Assistant", **attributes},
            "last_changed": rfc3339(now),
            "last_updated": rfc3339(now),
        }
        old, self._connection_state = self._connection_state, new
        change: StateChange = {
            "entity_id": _MESH_ENTITY_ID,
            "old_state": old,
            "new_state": new,
        }
        self._submit([messages.state_change(change, now)])

    def _submit_change(
        self, change: StateChange, moment: float, gap: Gap | None
    ) -> int:
        """Publish a change, and its reading if it has one; return the message count."""
        outgoing = [messages.state_change(change, moment, gap)]
        entity_id = change["entity_id"]
        if self._config.readings.wants(entity_id):
            if reading := messages.reading(change, moment, gap):
                outgoing.append(reading)
            elif change.get("new_state") and not messages.kind_of_reading(change):
                self._log_no_reading(entity_id)
        return self._submit(outgoing)

    def _log_no_reading(self, entity_id: str) -> None:
        """Log once that an entity gives no readings.

        It is a warning if the configuration names the entity itself, not a pattern.
        """
        if entity_id in self._no_readings:
            return
        self._no_readings.add(entity_id)
        is_named = entity_id in self._config.readings.include
        logger.log(
            logging.WARNING if is_named else logging.INFO,
            "%s gives no readings, though readings.include names it: it is no sensor "
            "of temperature or humidity, nor a binary sensor of motion, occupancy, "
            "presence or moving, by its device_class or its unit",
            entity_id,
        )

    def _catch_up_with(self, change: StateChange, gap: Gap) -> int:
        """Publish what changed in a gap; return the number of messages."""
        entity_id = change["entity_id"]
        new: Any = change["new_state"]
        own = new is not None and self.own.caused(new["context"])
        if own or not self._config.entities.wants(entity_id):
            return 0
        submitted = 0
        try:
            with contained():
                moment = gap.until
                if new is not None:
                    moment = epoch_seconds(new["last_updated"], gap.until)
                submitted += self._submit_change(change, moment, gap)
                if not self._config.loops.starts(entity_id) and (
                    missed := messages.missed_trigger(change, gap)
                ):
                    submitted += self._submit([missed])
        except MeshError as error:
            self.counts.invalid_states += 1
            self._log_fault(f"the state of {described(entity_id)}: {error}")
        return submitted

    def _present_states(self, answer: object) -> tuple[list[CurrentState], int]:
        """Return the valid states of a result, and the number of invalid ones."""
        members = answer if isinstance(answer, list) else [answer]
        states, faults = [], 0
        for member in members:
            try:
                states.append(_present.validate_python(member))
            except ValidationError as error:
                faults += 1
                self._log_fault(f"an answer to get_states: {explain(error)}")
        self.counts.invalid_states += faults
        return states, faults

    def _submit(self, outgoing: Sequence[Outgoing]) -> int:
        for message in outgoing:
            self._producer.submit_message(message)
        return len(outgoing)

    def _log_fault(self, text: str) -> None:
        """Log a fault, at most one every ten seconds."""
        now = time.monotonic()
        if now - self._fault_logged_at < _FAULT_LOG_INTERVAL_SECONDS:
            return
        self._fault_logged_at = now
        counts = self.counts
        logger.warning(
            "passed over %s (so far %d frames, %d events, %d states)",
            text,
            counts.invalid_frames,
            counts.invalid_events,
            counts.invalid_states,
        )
