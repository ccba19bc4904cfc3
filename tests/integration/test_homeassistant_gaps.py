"""Home Assistant, the network and the producer come and go: what of it is published."""

from __future__ import annotations

import json

from tests.support.amqp import drain
from tests.support.following import (
    CHANGES,
    PATIENCE_SECONDS,
    TRIGGERS,
    Follow,
    changes_of,
    presence,
    records,
    triggers_of,
    wait_compared,
    wait_heard,
    wait_known,
    wait_taken,
)
from tests.support.homeassistant import ReplayedHomeAssistant
from tests.support.waiting import wait_until


def test_what_a_gap_led_to_is_published_afterwards_and_marked(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        before = house.tell(12)
        wait_taken(running, before)
        known = json.loads(json.dumps(house.states))

        house.close_door()
        unheard = house.tell(12)
        house.open_door()
        wait_heard(house)
        after = house.tell()
        wait_taken(running, before + after)
        running.stop()

    deliveries = drain(mesh_url, CHANGES)
    changes = records(deliveries)
    caught_up = [each for each in changes if "gap" in each]
    assert {each["entity_id"] for each in caught_up} == {
        each["entity_id"] for each in changes_of(unheard)
    }
    for each in caught_up:
        assert each["old_state"] == known[each["entity_id"]]
    live = [each for each in changes if "gap" not in each]
    assert live == changes_of(before + after)
    last = {each["entity_id"]: each["new_state"] for each in changes}
    assert all(house.states.get(name) == state for name, state in last.items())

    states = presence(deliveries)
    assert [each["state"] for each in states] == [
        "connected",
        "disconnected",
        "connected",
        "disconnected",
    ]
    told = states[2]["attributes"]
    missed = [each for each in records(drain(mesh_url, TRIGGERS)) if "gap" in each]
    assert {each["automation"] for each in missed} == {
        each["data"]["entity_id"] for each in triggers_of(unheard)
    }
    assert told["caught_up"] == len(caught_up) + len(missed) == running.counts.caught_up
    assert told["gap"] == caught_up[0]["gap"]
    assert running.counts.gaps == 1


def test_after_a_restart_of_home_assistant_every_state_is_known_again(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        before = house.tell()
        wait_taken(running, before)

        house.boot(2)
        wait_heard(house)
        after = house.tell()
        wait_taken(running, before + after)
        running.stop()

    changes = records(drain(mesh_url, CHANGES))
    last = {each["entity_id"]: each["new_state"] for each in changes}
    assert {name: state for name, state in last.items() if state} == house.states


def test_what_changed_while_the_producer_was_away_is_published_when_it_is_back(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_heard(house)
        heard = house.tell(6)
        wait_taken(running, heard)
        running.stop()
    before = records(drain(mesh_url, CHANGES))

    unheard = house.tell(6)
    with follow() as running:
        wait_heard(house)
        wait_compared(running)
        running.stop()

    assert before == changes_of(heard)
    caught_up = records(drain(mesh_url, CHANGES))
    assert all("gap" in each for each in caught_up)
    assert {each["entity_id"] for each in caught_up} == {
        each["entity_id"] for each in changes_of(unheard)
    }


def test_a_producer_that_was_killed_misses_nothing_that_still_shows(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_known(house, running)
        running.stop()
    with follow() as running:
        wait_heard(house)
        events = house.tell()
        wait_taken(running, events)
        running.die()
    with follow() as running:
        wait_compared(running)
        running.stop()

    again = [each for each in records(drain(mesh_url, CHANGES)) if "gap" in each]
    assert {each["entity_id"] for each in again} == {
        each["entity_id"]
        for each in changes_of(events)
        if each["entity_id"] in house.states
    }


def test_an_entity_that_is_missing_is_gone_unless_home_assistant_still_starts(
    house: ReplayedHomeAssistant, follow: Follow, mesh_url: str
) -> None:
    with follow() as running:
        wait_known(house, running)
        running.stop()
    drain(mesh_url, CHANGES)
    del house.states["light.bed_light"]

    house.config["state"] = "STARTING"
    with follow() as running:
        wait_compared(running)
        running.stop()
    assert records(drain(mesh_url, CHANGES)) == []

    house.config["state"] = "RUNNING"
    with follow() as running:
        wait_compared(running)
        running.stop()
    (removal,) = records(drain(mesh_url, CHANGES))
    assert (removal["entity_id"], removal["new_state"]) == ("light.bed_light", None)


def test_a_silent_connection_is_kept_while_pings_are_answered(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    with follow(ping_after_seconds=0.1, answer_within_seconds=PATIENCE_SECONDS):
        wait_until(lambda: house.pings >= 3, PATIENCE_SECONDS, "pings")

    assert house.connections == 1


def test_a_connection_that_answers_no_ping_is_given_up(
    house: ReplayedHomeAssistant, follow: Follow
) -> None:
    with follow(ping_after_seconds=0.1, answer_within_seconds=0.2):
        wait_heard(house)
        house.mute = True
        wait_until(lambda: house.connections >= 2, PATIENCE_SECONDS, "another try")
