"""producers.homeassistant.publishing."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, MeshError
from meshtasks.records.models import EntityState, StateChange, explain
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described
from producers.base import Producer
from producers.collecting import contained
from producers.homeassistant import messages
from producers.homeassistant.config import HomeAssistantConfig, Loops
from producers.homeassistant.frames import (
    AutomationTriggered,
    Context,
    CurrentState,
    StateChanged,
)
from producers.homeassistant.messages import Gap, rfc3339
from producers.homeassistant.states import Memory

#: Consequences follow their cause by seconds; a house makes a few contexts in each.
_REMEMBERED_CONTEXTS = 10_000


class LoopGuard:
    """Follows the contexts of what the mesh causes, from cause to consequence.

    An automation runs in a context of its own, whose parent is that of its trigger;
    all that it does has this context. So has what a user does, with the user's id.

    Args:
        loops: how to tell what the mesh causes.
    """

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._user_ids: AbstractSet[str] = frozenset()
        self._own: OrderedDict[str, None] = OrderedDict()

    def know_users(self, user_ids: AbstractSet[str]) -> None:
        """Learn the ids of the users that the mesh acts as."""
        self._user_ids = user_ids

    def caused(self, context: Context, automation: str | None = None) -> bool:
        """Whether the mesh has caused an event.

        Args:
            context: of the event.
            automation: the one that is triggered, if it is such an event.
        """
        own = (
            context.get("user_id") in self._user_ids
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


ENTITY_ID = "mesh.home_assistant"


class Presence:
    """Whether the mesh hears Home Assistant, as changes of state like any other, so
    that workflows can be started by it and the archive tells when it was not."""

    def __init__(self) -> None:
        self._state: EntityState | None = None

    def connected(self, attributes: dict[str, Any]) -> StateChange:
        """It is heard.

        Args:
            attributes: what else there is to say.
        """
        return self._become("connected", attributes)

    def disconnected(self, reason: str) -> StateChange | None:
        """It is not heard; None if that is known already."""
        if self._state is not None and self._state["state"] == "disconnected":
            return None
        return self._become("disconnected", {"reason": reason})

    def _become(self, state: str, attributes: dict[str, Any]) -> StateChange:
        moment = rfc3339(time.time())
        # Of EntityState's fields, type checkers know but two.
        new: Any = {
            "entity_id": ENTITY_ID,
            "state": state,
            "attributes": {"friendly_name": "Home Assistant", **attributes},
            "last_changed": moment,
            "last_updated": moment,
        }
        old, self._state = self._state, new
        return {"entity_id": ENTITY_ID, "old_state": old, "new_state": new}


@dataclass(slots=True)
class Tally:
    """Counts since the start.

    ``events = state_changes + triggers + excluded + own + invalid_events``.

    Attributes:
        connections: that Home Assistant let in.
        events: that it sent.
        state_changes: events that were published as such.
        triggers: events that were published as an automation's trigger.
        readings: of these, changes that were published as a reading as well.
        excluded: events of entities that the config leaves out.
        own: events that the mesh itself caused.
        invalid_events: events that no message can be made of.
        invalid_frames: what is no frame of Home Assistant's protocol.
        invalid_states: after a gap, what is no state of an entity.
        gaps: times in which nobody listened.
        gap_seconds: their sum.
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


logger = logging.getLogger(__name__)

_FAULT_LOG_INTERVAL_SECONDS = 10.0

_present: TypeAdapter[CurrentState] = TypeAdapter(CurrentState)


class Intake:
    """Hands to a producer what Home Assistant tells.

    Args:
        config: what is published.
        producer: publishes it.
        memory: what is known of the house.

    Attributes:
        guard: knows what the mesh itself caused.
        tally: what became of the events.
    """

    def __init__(
        self, config: HomeAssistantConfig, producer: Producer, memory: Memory
    ) -> None:
        self.guard = LoopGuard(config.loops)
        self.tally = Tally()
        self._config = config
        self._producer = producer
        self._memory = memory
        self._presence = Presence()
        self._no_readings: set[str] = set()
        self._fault_logged_at = -_FAULT_LOG_INTERVAL_SECONDS

    def take(self, event: StateChanged | AutomationTriggered) -> None:
        """Publish an event, unless it is excluded, or the mesh caused it."""
        self.tally.events += 1
        try:
            with contained():
                self._take(event)
        except MeshError as error:
            self.tally.invalid_events += 1
            what = described(event.data["entity_id"])
            self._note_fault(f"an event of {what}: {error}")

    def _take(self, event: StateChanged | AutomationTriggered) -> None:
        tally = self.tally
        entity_id = event.data["entity_id"]
        automation = None
        if isinstance(event, StateChanged):
            self._memory.learn(event.data)
        else:
            automation = entity_id
        if self.guard.caused(event.context, automation):
            tally.own += 1
            return
        if not self._config.entities.wants(entity_id):
            tally.excluded += 1
            return
        published = self._submit(self._messages_of(event))
        tally.state_changes += automation is None
        tally.triggers += automation is not None
        tally.readings += published - 1

    def catch_up(self, answer: object, version: str, *, complete: bool) -> None:
        """Publish what came of the time in which nobody listened, marked so, and
        that Home Assistant is heard. The first time of all there is nothing to
        compare with, and so nothing to catch up with.

        Args:
            answer: to ``get_states``.
            version: of Home Assistant.
            complete: whether all entities are there; not so while it starts.
        """
        now = time.time()
        present, faults = self._present_states(answer)
        known_until = self._memory.heard_at
        changes = self._memory.compare(present, complete=complete and not faults)
        attributes: dict[str, Any] = {"version": version, "entities": len(present)}
        if known_until is not None:
            gap = Gap(known_until, now)
            caught_up = sum(self._catch_up_with(change, gap) for change in changes)
            attributes |= {
                "gap": gap.as_json(),
                "gap_seconds": round(gap.seconds, 3),
                "caught_up": caught_up,
            }
            self.tally.gaps += 1
            self.tally.gap_seconds += gap.seconds
            self.tally.caught_up += caught_up
            logger.warning(
                "nothing was heard of Home Assistant for %.1f s; %d messages tell what "
                "came of that time, how it came about is lost",
                gap.seconds,
                caught_up,
            )
        self._memory.heard_at = now
        self._submit([messages.state_change(self._presence.connected(attributes), now)])
        logger.info(
            "listening to Home Assistant %s: %d entities", version, len(present)
        )

    def lose(self, reason: str) -> None:
        """Publish that Home Assistant is not heard any more."""
        if change := self._presence.disconnected(reason):
            self._submit([messages.state_change(change, time.time())])

    def reject(self, fault: InvalidMessage) -> None:
        """Count what is no frame."""
        self.tally.invalid_frames += 1
        self._note_fault(str(fault))

    def _messages_of(self, event: StateChanged | AutomationTriggered) -> list[Outgoing]:
        moment = event.time_fired.timestamp()
        if isinstance(event, StateChanged):
            return self._messages_of_change(event.data, moment, None)
        happened = event.time_fired.isoformat()
        return [messages.automation_trigger(event.data, happened, moment)]

    def _messages_of_change(
        self, change: StateChange, moment: float, gap: Gap | None
    ) -> list[Outgoing]:
        outgoing = [messages.state_change(change, moment, gap)]
        entity_id = change["entity_id"]
        if self._config.readings.wants(entity_id):
            if reading := messages.reading(change, moment, gap):
                outgoing.append(reading)
            elif change.get("new_state") and not messages.kind_of_reading(change):
                self._say_no_reading(entity_id)
        return outgoing

    def _say_no_reading(self, entity_id: str) -> None:
        """Say once of an entity that no readings will come of it, aloud if it is asked
        for by its very name."""
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
        own = new is not None and self.guard.caused(new["context"])
        if own or not self._config.entities.wants(entity_id):
            return 0
        submitted = 0
        try:
            with contained():
                moment = gap.until
                if new is not None:
                    moment = epoch_seconds(new["last_updated"], gap.until)
                submitted += self._submit(self._messages_of_change(change, moment, gap))
                if not self._config.loops.starts(entity_id) and (
                    missed := messages.missed_trigger(change, gap)
                ):
                    submitted += self._submit([missed])
        except MeshError as error:
            self.tally.invalid_states += 1
            self._note_fault(f"the state of {described(entity_id)}: {error}")
        return submitted

    def _present_states(self, answer: object) -> tuple[list[CurrentState], int]:
        """The states of an answer, and how many of its parts are none."""
        members = answer if isinstance(answer, list) else [answer]
        states, faults = [], 0
        for member in members:
            try:
                states.append(_present.validate_python(member))
            except ValidationError as error:
                faults += 1
                self._note_fault(f"an answer to get_states: {explain(error)}")
        self.tally.invalid_states += faults
        return states, faults

    def _submit(self, outgoing: Sequence[Outgoing]) -> int:
        for message in outgoing:
            self._producer.submit_message(message)
        return len(outgoing)

    def _note_fault(self, text: str) -> None:
        """Log a fault, but not each of many."""
        now = time.monotonic()
        if now - self._fault_logged_at < _FAULT_LOG_INTERVAL_SECONDS:
            return
        self._fault_logged_at = now
        tally = self.tally
        logger.warning(
            "passed over %s (so far %d frames, %d events, %d states)",
            text,
            tally.invalid_frames,
            tally.invalid_events,
            tally.invalid_states,
        )
