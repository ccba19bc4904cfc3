"""Decides what of Home Assistant is published, and counts it."""

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
from meshtasks.producers.homeassistant.messages import (
    AutomationTriggered,
    Context,
    CurrentState,
    Event,
    Gap,
    StateChanged,
    rfc3339,
)
from meshtasks.records.models import EntityState, StateChange, explain
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described

logger = logging.getLogger(__name__)

_SAVE_INTERVAL_SECONDS = 300.0
_FAULT_LOG_INTERVAL_SECONDS = 10.0
#: Consequences follow their cause by seconds; a house makes a few contexts in each.
_REMEMBERED_CONTEXTS = 10_000
#: Home Assistant itself as an entity.
_MESH_ENTITY_ID = "mesh.home_assistant"

_present: TypeAdapter[CurrentState] = TypeAdapter(CurrentState)


class _Saved(BaseModel):
    heard_at: float
    states: dict[str, EntityState]


class KnownStates:
    """The last known state of every entity, kept in a file over restarts.

    Attributes:
        heard_at: until when the states are known, epoch seconds; None when nothing
            is known yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, EntityState] = {}
        self._saved_at = time.monotonic()
        self.heard_at: float | None = None

    def load(self) -> None:
        """Read the file. One that cannot be read is passed over: then this is the
        first start."""
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
        """Write the file if it is five minutes old (more often would wear out a memory
        card), and the broker has confirmed all that came of the states.

        So whatever is in the file is in the mesh: after a crash, what was on its way is
        found to have changed, and published again with the same message ids.
        """
        is_old = time.monotonic() - self._saved_at >= _SAVE_INTERVAL_SECONDS
        if is_old and not producer.counts().unresolved:
            self.save()

    def apply(self, change: StateChange) -> None:
        """Take in a change of state."""
        if new := change.get("new_state"):
            self._states[change["entity_id"]] = new
        else:
            self._states.pop(change["entity_id"], None)

    def compare(
        self, present: Sequence[CurrentState], *, complete: bool
    ) -> list[StateChange]:
        """Take in all present states; the changes from what was known of them.

        Args:
            complete: what is not among the present states has been removed.
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
    """Follows the contexts of what the mesh causes, from cause to consequence.

    An automation runs in a context of its own, whose parent is that of its trigger;
    all that it does has this context. So has what a user does, with the user's id.

    Attributes:
        user_ids: of the users that the mesh acts as.
    """

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self.user_ids: AbstractSet[str] = frozenset()
        self._own: OrderedDict[str, None] = OrderedDict()

    def caused(self, context: Context, automation: str | None = None) -> bool:
        """Whether the mesh has caused an event.

        Args:
            automation: the one that is triggered, if it is such an event.
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
        readings: changes that were published as a reading as well.
        excluded: events of entities that the config leaves out.
        own: events that the mesh itself caused.
        invalid_frames: what is no frame of Home Assistant's protocol.
        invalid_states: after a gap, what is no state of an entity.
        gaps: times in which nothing was received, and ``gap_seconds`` their sum.
        caught_up: messages about what came of them.
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
    """Hands Home Assistant's events and states to a producer.

    Attributes:
        own: what the mesh itself caused.
        known: the states of the house.
        counts: what became of the events.
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
        """Publish an event, unless it is excluded, or the mesh caused it."""
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
        """Publish what came of a gap, marked so, and that the connection is there. The
        first time of all there is nothing to compare with.

        Args:
            answer: to ``get_states``.
            version: of Home Assistant.
            complete: whether all entities are there; not so while it starts.
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
        """Publish that the connection is lost, unless that is published already."""
        old = self._connection_state
        if old is None or old["state"] != "disconnected":
            self._submit_connection("disconnected", {"reason": reason})

    def reject(self, fault: InvalidMessage) -> None:
        """Count what is no frame."""
        self.counts.invalid_frames += 1
        self._log_fault(str(fault))

    def _submit_connection(self, state: str, attributes: dict[str, Any]) -> None:
        """Publish the connection as an entity's change of state like any other, so
        that workflows can be started by it, and the archive holds when it was lost."""
        now = time.time()
        # Of EntityState's fields, type checkers know but two.
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
        """Publish a change, as a reading too if it is one; how many messages."""
        outgoing = [messages.state_change(change, moment, gap)]
        entity_id = change["entity_id"]
        if self._config.readings.wants(entity_id):
            if reading := messages.reading(change, moment, gap):
                outgoing.append(reading)
            elif change.get("new_state") and not messages.kind_of_reading(change):
                self._log_no_reading(entity_id)
        return self._submit(outgoing)

    def _log_no_reading(self, entity_id: str) -> None:
        """Log once of an entity that it gives no readings; as a warning if the
        configuration names it, and not only a pattern."""
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
        """Publish what changed in a gap; how many messages that took."""
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
        """The states of an answer, and how many of its parts are not valid."""
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
        """Log a fault, but not each of many."""
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
