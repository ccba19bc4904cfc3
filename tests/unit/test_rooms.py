"""The cards of the house, and what pages are told of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from meshtasks.gateway.console.rooms import Rooms, RoomsNow
from meshtasks.observation.headline import Today
from meshtasks.observation.latest import LatestValue, SensorKey

if TYPE_CHECKING:
    from meshtasks.gateway.console.watch import MeshWatch

FOREIGN = '"><script>alert(1)</script>'


@dataclass
class Watch:
    """What is seen of a mesh."""

    seen: dict[SensorKey, LatestValue] = field(default_factory=dict)
    rooms: tuple[Any, ...] = ()
    today: Today = field(default_factory=Today)

    @property
    def latest(self) -> Watch:
        return self

    def values(self) -> dict[SensorKey, LatestValue]:
        return dict(self.seen)

    def see(self, value: float, sensor: str = "s1", kind: str = "temperature") -> None:
        key = SensorKey("attic", kind, sensor)
        self.seen[key] = LatestValue(value, "°C", 1_795_440_000.0, "sensors.x")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def rooms(watch: Watch) -> Rooms:
    return Rooms(cast("MeshWatch", watch))


def told(look: RoomsNow, since: int) -> dict[str, list[Any]]:
    script = look.changes(since=since)
    found = re.search(r"Object\.entries\((.*)\)\) \{", script)
    return json.loads(found[1]) if found else {}


def test_a_page_is_told_what_has_changed_since_it_was_told(
    watch: Watch, rooms: Rooms
) -> None:
    watch.see(20.0)
    watch.see(30.0, "s2")
    first = rooms.look()
    watch.see(21.0)
    second = rooms.look()
    third = rooms.look()

    (row,) = told(second, first.number)
    assert told(second, first.number)[row][0] == "21"
    assert told(third, second.number) == {}
    assert len(told(third, first.number)) == 2  # which has missed one
    assert told(third, third.number) == {}


def test_a_card_is_made_anew_only_when_more_than_its_values_changes(
    watch: Watch, rooms: Rooms
) -> None:
    watch.see(20.0)
    ((_, before),) = rooms.look().cards
    watch.see(21.0)
    ((_, after),) = rooms.look().cards
    assert before.shape == after.shape

    watch.see(30.0, "s2")
    ((_, more),) = rooms.look().cards

    assert more.shape != after.shape
    assert "30" in more.html


def test_the_level_of_a_battery_is_part_of_its_card(watch: Watch, rooms: Rooms) -> None:
    watch.see(9.0, kind="battery")
    ((_, before),) = rooms.look().cards
    watch.see(8.0, kind="battery")
    look = rooms.look()
    ((_, after),) = look.cards

    assert before.shape != after.shape
    assert told(look, look.number - 1) == {}


def test_names_from_outside_stay_text(watch: Watch, rooms: Rooms) -> None:
    key = SensorKey(FOREIGN, FOREIGN, FOREIGN)
    watch.seen[key] = LatestValue(1.0, FOREIGN, float("nan"), FOREIGN)

    ((_, card),) = rooms.look().cards

    assert "<script" not in card.html
    assert 'href="/sensor/%22%3E%3Cscript%3E' in card.html
