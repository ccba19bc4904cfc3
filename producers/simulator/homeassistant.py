"""Home Assistant as it is heard: states that change, automations that are triggered.

The records are those of its events ``state_changed`` and ``automation_triggered``
(https://www.home-assistant.io/docs/configuration/events/).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from producers.simulator.sensors import Emission, Source, utc_time

EXCHANGE = "home.events"


@dataclass(frozen=True, slots=True)
class Thing:
    """An entity of Home Assistant.

    Attributes:
        entity_id: ``light.kitchen``.
        states: what it may be; it goes from one to the next, and begins again.
        attributes: of every state.
    """

    entity_id: str
    states: Sequence[str]
    attributes: Mapping[str, object] = field(default_factory=dict)


_DOOR: Mapping[str, object] = {"device_class": "door", "battery_level": 64}

THINGS = (
    Thing("light.kitchen", ("off", "on"), {"brightness": 180}),
    Thing("light.living_room", ("off", "on"), {"brightness": 90}),
    Thing("switch.coffee_machine", ("off", "on")),
    Thing("binary_sensor.front_door", ("off", "on"), _DOOR),
    Thing("binary_sensor.balcony_door", ("off", "on"), _DOOR),
    Thing("media_player.living_room", ("idle", "playing", "paused")),
    Thing(
        "sensor.washing_machine_power",
        ("2.1", "2140.0", "310.5", "unavailable"),
        {"device_class": "power", "unit_of_measurement": "W"},
    ),
    Thing("cover.bedroom_blind", ("open", "closing", "closed", "opening")),
)

AUTOMATIONS = {
    "hall_light": "state of binary_sensor.hall_motion",
    "good_night": "time pattern",
}


class Entity(Source):
    """Says how an entity changes. What it says first has no old state."""

    def __init__(self, thing: Thing, rng: random.Random) -> None:
        super().__init__()
        self._thing = thing
        self._rng = rng
        self._turn = 0
        self._state: dict[str, object] | None = None

    @override
    def _say(self, now_ms: int) -> Emission | None:
        states = self._thing.states
        old, value = self._state, states[self._turn % len(states)]
        self._turn += 1
        context = f"{self._rng.getrandbits(80):020x}"
        self._state = state_object(self._thing, value, context, utc_time(now_ms))
        entity_id = self._thing.entity_id
        record = {"entity_id": entity_id, "old_state": old, "new_state": self._state}
        return Emission(EXCHANGE, state_key(entity_id), now_ms / 1000, [record])


class Automation(Source):
    """Says that an automation was triggered."""

    def __init__(self, name: str, trigger: str) -> None:
        super().__init__()
        self._name = name
        self._trigger = trigger

    @override
    def _say(self, now_ms: int) -> Emission | None:
        record = trigger_record(self._name, self._trigger, utc_time(now_ms))
        key = trigger_key(self._name)
        return Emission(EXCHANGE, key, now_ms / 1000, [record])


def state_key(entity_id: str) -> str:
    """The routing key of an entity's changes."""
    return f"home.{entity_id}.state_changed"


def state_object(
    thing: Thing, state: str, context: str, timestamp: object
) -> dict[str, object]:
    """A state as Home Assistant writes it."""
    return {
        "entity_id": thing.entity_id,
        "state": state,
        "attributes": dict(thing.attributes),
        "last_changed": timestamp,
        "last_reported": timestamp,
        "last_updated": timestamp,
        "context": {"id": context, "parent_id": None, "user_id": None},
    }


def trigger_key(name: str) -> str:
    """The routing key of an automation."""
    return f"home.automation.{name}.trigger"


def trigger_record(name: str, trigger: str, timestamp: object) -> dict[str, object]:
    """An automation was triggered."""
    return {
        "automation": f"automation.{name}",
        "trigger": trigger,
        "timestamp": timestamp,
    }
