"""The messages of the simulated house, judged by the mesh's own rules."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import NamedTuple

import pytest

from meshtasks.domain.errors import InvalidMessage
from meshtasks.domain.timestamps import epoch_seconds
from meshtasks.domain.units import QUANTITIES
from meshtasks.settings import QueueSettings
from meshtasks.tasks import climate as _handlers  # noqa: F401 (registers them)
from meshtasks.tasks.registry import HANDLERS
from meshtasks.worker.decode import Decoder
from producers.simulator.badmessages import BadKind
from producers.simulator.house import ROOMS, House, HouseOptions, SimulatedMessage

START_MS = 1_795_439_462_000
GOOD_HOUSE = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0)
BAD_HOUSE = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0, bad_share=0.05)
DECODERS = {queue: Decoder(handler) for queue, handler in HANDLERS.items()}
MAX_BYTES = QueueSettings().max_message_bytes


class Point(NamedTuple):
    """What tells one point of a store from another."""

    kind: str
    sensor_id: str
    milliseconds: int


def messages(options: HouseOptions, count: int) -> list[SimulatedMessage]:
    return list(islice(House(options).messages(), count))


def judged(message: SimulatedMessage) -> tuple[list[Point], int]:
    """The points of a message, and how many of its records are dead."""
    if len(message.body) > MAX_BYTES:
        return [], 1
    _, kind, room = message.routing_key.split(".")
    quantity = QUANTITIES[kind]
    try:
        decoded = DECODERS[f"sensors.{kind}"].decode(message.body)
    except InvalidMessage:
        return [], 1
    points, dead = [], len(decoded.bad)
    for reading in decoded.records:
        stamp = reading.get("timestamp") or int(message.timestamp)
        unit = reading.get("unit", quantity.canonical_unit)
        try:
            moment = epoch_seconds(stamp, now=message.timestamp)
            way = quantity.affine(unit)
        except InvalidMessage:
            dead += 1
            continue
        value = reading["value"] * way.scale + way.offset
        assert quantity.lowest <= value <= quantity.highest
        sensor_id = reading.get("sensor_id", room)
        points.append(Point(kind, sensor_id, round(moment * 1000)))
    return points, dead


def test_every_record_of_a_good_message_is_accepted() -> None:
    for message in messages(GOOD_HOUSE, 2_000):
        points, dead = judged(message)

        assert dead == 0, message.body
        assert len(points) == message.record_count


@pytest.mark.parametrize("step_ms", [5.0, 0.05, 2_000.0])
def test_every_record_is_a_point_of_its_own(step_ms: float) -> None:
    options = HouseOptions(seed=1, start_ms=START_MS, step_ms=step_ms, bad_share=0.05)
    points = Counter[Point]()
    for message in messages(options, 10_000):
        points.update(judged(message)[0])

    assert [point for point, times in points.items() if times > 1] == []


def test_each_kind_of_bad_message_gives_the_dead_letters_it_is_counted_for() -> None:
    seen = Counter[BadKind]()
    for message in messages(BAD_HOUSE, 4_000):
        if message.bad is None:
            continue
        points, dead = judged(message)

        assert dead == message.bad.bad_records, (message.bad, message.body[:200])
        assert len(points) == message.bad.good_records
        assert message.record_count == dead + len(points)
        seen[message.bad] += 1
    assert set(seen) == set(BadKind)


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.005, 10), (0.05, 100), (1.0, 2_000)]
)
def test_the_share_of_bad_messages_is_exact(share: float, count: int) -> None:
    options = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0, bad_share=share)

    assert sum(each.bad is not None for each in messages(options, 2_000)) == count


def test_the_first_ten_bad_messages_show_every_kind() -> None:
    bad = [each.bad for each in messages(BAD_HOUSE, 200) if each.bad]

    assert Counter(bad) == Counter(BadKind)


def test_oversized_messages_are_rare_after_the_first() -> None:
    bad = [each.bad for each in messages(BAD_HOUSE, 5_000) if each.bad]

    assert bad.count(BadKind.OVERSIZED) == 2
    assert bad.count(BadKind.NAN) > 20


def test_the_same_options_give_the_same_messages() -> None:
    options = HouseOptions(1, START_MS, 5.0, 0.05, 60.0, "kitchen")

    assert messages(options, 3_000) == messages(options, 3_000)


def test_another_seed_gives_other_messages() -> None:
    other = HouseOptions(seed=2, start_ms=START_MS, step_ms=5.0)

    assert messages(other, 100) != messages(GOOD_HOUSE, 100)


def test_every_room_has_temperature_and_humidity() -> None:
    keys = {each.routing_key for each in messages(GOOD_HOUSE, 500)}

    assert keys == {
        f"sensors.{kind}.{room.name}"
        for kind in ("temperature", "humidity")
        for room in ROOMS
    }


def test_several_unit_systems_and_formats_are_spoken() -> None:
    units, forms = set(), set()
    for message in messages(GOOD_HOUSE, 500):
        payload = json.loads(message.body)
        forms.add(type(payload).__name__)
        if isinstance(payload, dict):
            units.add(payload.get("unit"))
            forms.add("with id" if "sensor_id" in payload else "without id")

    assert units >= {"°C", "°F", "K", "%", None}
    assert forms == {"dict", "list", "float", "with id", "without id"}


def test_the_clock_of_the_house_follows_its_steps() -> None:
    last = messages(GOOD_HOUSE, 2_001)[-1]

    assert last.timestamp == (START_MS + 10_000) / 1000


def test_a_clock_too_slow_for_the_sensors_moves_on_by_itself() -> None:
    crowded = HouseOptions(seed=1, start_ms=START_MS, step_ms=0.0)

    assert messages(crowded, 1_000)[-1].timestamp > START_MS / 1000


def test_messages_to_be_packed_are_single_complete_records() -> None:
    options = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0, to_be_packed=True)
    for message in messages(options, 500):
        record = json.loads(message.body)

        assert {"sensor_id", "value", "timestamp"} <= set(record)


def test_an_overheating_room_is_over_60_degrees_five_seconds_after_the_start() -> None:
    options = HouseOptions(1, START_MS, 5.0, overheating_room="kitchen")
    ceiling = [
        json.loads(each.body)
        for each in messages(options, 2_000)
        if b"kitchen-temperature-ceiling" in each.body
    ]

    assert ceiling[0]["value"] < 30
    assert all(
        each["value"] > 60
        for each in ceiling
        if each["timestamp"] > "2026-11-23T13:11:07"
    )
