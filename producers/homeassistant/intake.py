"""Decides what of Home Assistant is published, and keeps the books of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, MeshError
from meshtasks.records.models import StateChange, explain
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import described
from producers.base import Producer
from producers.collecting import contained
from producers.homeassistant import messages
from producers.homeassistant.config import HomeAssistantConfig
from producers.homeassistant.frames import (
    AutomationTriggered,
    CurrentState,
    StateChanged,
)
from producers.homeassistant.gap import Gap
from producers.homeassistant.loops import LoopGuard
from producers.homeassistant.memory import Memory
from producers.homeassistant.presence import Presence
from producers.homeassistant.tally import Tally

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
