"""Home Assistant's events as records: shapes, times, reasons."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from meshtasks.flows.webhooks.handler import (
    HomeEvents,
    read_automation_trigger,
    read_events,
    read_state_change,
)
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import AutomationTrigger, StateChange, explain

NOW = 1_795_440_000.0
CHANGE = TypeAdapter(StateChange)
TRIGGER = TypeAdapter(AutomationTrigger)

STATE = {
    "entity_id": "sensor.room_temp",
    "state": "42.0",
    "attributes": {"unit_of_measurement": "°C", "friendly_name": "Room"},
    "last_changed": "2026-11-23T11:13:02.452287+00:00",
    "last_updated": "2026-11-23T11:18:25.891910+00:00",
    "context": {"id": "01M8421VV1", "parent_id": None, "user_id": None},
}


def change(**fields: Any) -> dict[str, Any]:
    whole = {"entity_id": "sensor.room_temp", "old_state": STATE, "new_state": STATE}
    return whole | fields


def read_changes(*records: Any, timestamp: float | None = None) -> HomeEvents:
    envelope = Envelope(b"", "home.events", "home.a.b.c", "q", None, timestamp, NOW, {})
    changes = [CHANGE.validate_python(record) for record in records]
    return read_events(changes, [envelope] * len(changes), read_state_change)


def test_everything_home_assistant_says_is_kept() -> None:
    record = change(origin="LOCAL")

    (event,) = read_changes(record).good

    assert event.record == record


def test_a_change_happened_when_the_new_state_was_last_updated() -> None:
    (event,) = read_changes(change()).good

    assert event.time == pytest.approx(1_795_432_705.89191, abs=1e-5)


def test_an_entity_that_is_new_has_no_old_state() -> None:
    (event,) = read_changes(change(old_state=None)).good

    assert event.time == pytest.approx(1_795_432_705.89191, abs=1e-5)


def test_a_removal_happened_when_it_was_published() -> None:
    removal = change(new_state=None)

    assert read_changes(removal, timestamp=NOW - 5).good[0].time == NOW - 5
    assert read_changes(removal).good[0].time == NOW


def test_a_change_from_nothing_to_nothing_is_dead() -> None:
    events = read_changes({"entity_id": "a.b"}, change())

    assert events.dead[0].reason == (
        "new_state: expected an old state, a new one or both"
    )
    assert [event.index for event in events.good] == [1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"new_state": STATE | {"state": 42.0}},
            "new_state.state: expected text, got the number 42.0",
        ),
        (
            {"new_state": {"attributes": {}}},
            "new_state.state: this field is missing",
        ),
        ({"new_state": "on"}, 'new_state: expected a JSON object, got the text "on"'),
        ({"entity_id": None}, "entity_id: expected text, got null"),
        ({"entity_id": ""}, "entity_id: string should have at least 1 character"),
    ],
)
def test_what_is_no_state_change_is_explained(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        CHANGE.validate_python(change(**fields))

    assert explain(caught.value).startswith(reason)


def test_an_automation_needs_its_name_only() -> None:
    record = TRIGGER.validate_python({"automation": "automation.lamp_on"})
    envelope = Envelope(b"", "home.events", "k", "q", None, None, NOW, {})

    (event,) = read_events([record], [envelope], read_automation_trigger).good

    assert event.time == NOW


def test_an_automation_has_its_own_time() -> None:
    record = TRIGGER.validate_python(
        {
            "automation": "automation.lamp_on",
            "trigger": {"platform": "state", "entity_id": "input_boolean.lamp"},
            "timestamp": NOW - 60,
        }
    )
    envelope = Envelope(b"", "home.events", "k", "q", None, None, NOW, {})

    (event,) = read_events([record], [envelope], read_automation_trigger).good

    assert event.time == NOW - 60
    assert event.record == record
