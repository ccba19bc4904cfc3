"""The messages of the simulated house, judged by the mesh's own rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from meshtasks import celery as _handlers  # noqa: F401 (registers them)
from meshtasks.amqp.queues import QueueSettings
from meshtasks.config.loader import load_yaml
from meshtasks.errors import InvalidMessage
from meshtasks.flows.inference.config import ModelBook
from meshtasks.flows.inference.handler import result_points
from meshtasks.flows.inference.messages import request_of
from meshtasks.flows.pipeline import Transformed, metric_points
from meshtasks.flows.readings.handler import transform as transform_readings
from meshtasks.flows.webhooks.handler import (
    read_automation_trigger,
    read_events,
    read_motion,
    read_state_change,
)
from meshtasks.producers.simulator.badmessages import SPECIMENS, BadKind, domain_kind_of
from meshtasks.producers.simulator.house import (
    ROOMS,
    Domain,
    House,
    HouseOptions,
    SimulatedMessage,
)
from meshtasks.records.envelope import Envelope
from meshtasks.records.kinds import HUMIDITY, TEMPERATURE
from meshtasks.records.units import Quantity
from meshtasks.rules.config import RuleBook
from meshtasks.worker.decode import Decoder
from tests.support.handling import HANDLERS

START_MS = 1_795_439_462_000
GOOD_HOUSE = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0)
BAD_HOUSE = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0, bad_share=0.05)
DECODERS = {queue: Decoder(handler) for queue, handler in HANDLERS.items()}
MAX_BYTES = QueueSettings().max_message_bytes
RULES = RuleBook(rules=())
MODELS = load_yaml(Path(__file__).parents[2] / "config" / "models.yaml", ModelBook)


def messages(options: HouseOptions, count: int) -> list[SimulatedMessage]:
    return list(islice(House(options).messages(), count))


def judged(message: SimulatedMessage) -> tuple[list[str], int]:
    """What tells the stored records of a message from others, and how many are dead."""
    if len(message.body) > MAX_BYTES:
        return [], 1
    kind = domain_kind_of(message.routing_key)
    queue = "alerts.critical" if kind == "alerts" else kind
    try:
        decoded = DECODERS[queue].decode(message.body)
    except InvalidMessage:
        return [], 1
    sent_at = float(int(message.timestamp))  # AMQP's timestamps are whole seconds
    envelope = Envelope(
        *(message.body, message.exchange, message.routing_key, queue),
        *("id", sent_at, message.timestamp, {}),
    )
    envelopes = [envelope] * len(decoded.records)
    stored, dead = _JUDGES[kind](decoded.records, envelopes)
    return stored, dead + len(decoded.bad)


def points(result: Transformed) -> tuple[list[str], int]:
    """Series and time of each point; the values do not tell points apart."""
    lines = [line.split(" ") for line in result.lines]
    return [f"{series} {time}" for series, _, time in lines], len(result.dead)


def readings(quantity: Quantity, records: Any, envelopes: Any) -> tuple[list[str], int]:
    unit = quantity.canonical_unit
    return points(transform_readings(records, envelopes, quantity, unit, RULES))


def events(read: Any, records: Any, envelopes: Any) -> tuple[list[str], int]:
    found = read_events(records, envelopes, read)
    return [str(event.record) for event in found.good], len(found.dead)


def metrics(records: Any, envelopes: Any) -> tuple[list[str], int]:
    return points(metric_points(records, envelopes, RULES))


def results(records: Any, envelopes: Any) -> tuple[list[str], int]:
    return points(result_points(records, envelopes, MODELS))


def requests(records: Any, envelopes: Any) -> tuple[list[str], int]:
    stored, dead = [], 0
    for record, envelope in zip(records, envelopes, strict=True):
        try:
            stored.append(request_of(record, envelope).origin.request_id)
        except InvalidMessage:
            dead += 1
    return stored, dead


_JUDGES: dict[str, Callable[[Any, Any], tuple[list[str], int]]] = {
    "sensors.temperature": partial(readings, TEMPERATURE),
    "sensors.humidity": partial(readings, HUMIDITY),
    "sensors.motion": partial(events, read_motion),
    "home.events.state_changes": partial(events, read_state_change),
    "home.events.automations": partial(events, read_automation_trigger),
    "metrics.system": metrics,
    "metrics.application": metrics,
    "ai.inference.requests": requests,
    "ai.inference.results": results,
    "alerts": lambda alerts, _: ([alert.event_id for alert in alerts], 0),
}
POINTS = {
    "sensors.temperature",
    "sensors.humidity",
    "metrics.system",
    "metrics.application",
    "ai.inference.results",
}


def test_every_record_of_a_good_message_is_accepted() -> None:
    for message in messages(GOOD_HOUSE, 2_000):
        stored, dead = judged(message)

        assert dead == 0, message.body
        assert len(stored) == message.record_count


@pytest.mark.parametrize("step_ms", [5.0, 0.05, 2_000.0])
def test_every_record_is_a_point_of_its_own(step_ms: float) -> None:
    options = HouseOptions(seed=1, start_ms=START_MS, step_ms=step_ms, bad_share=0.05)
    seen = Counter[str]()
    for message in messages(options, 10_000):
        if domain_kind_of(message.routing_key) in POINTS:
            seen.update(judged(message)[0])

    assert [point for point, times in seen.items() if times > 1] == []


def test_each_kind_of_bad_message_gives_the_dead_letters_it_is_counted_for() -> None:
    seen = Counter[tuple[BadKind, str]]()
    for message in messages(BAD_HOUSE, 12_000):
        if message.bad is None:
            continue
        stored, dead = judged(message)

        assert dead == message.bad.bad_records, (message.bad, message.body[:200])
        assert len(stored) == message.bad.good_records
        assert message.record_count == dead + len(stored)
        seen[message.bad, domain_kind_of(message.routing_key)] += 1
    assert {kind for kind, _ in seen} == set(BadKind)
    assert {domain_kind for _, domain_kind in seen} == set(SPECIMENS)


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.005, 10), (0.05, 100), (1.0, 2_000)]
)
def test_the_share_of_bad_messages_is_exact(share: float, count: int) -> None:
    options = HouseOptions(seed=1, start_ms=START_MS, step_ms=5.0, bad_share=share)

    assert sum(each.bad is not None for each in messages(options, 2_000)) == count


def test_the_first_ten_bad_messages_show_every_kind_and_every_kind_of_record() -> None:
    bad = [each for each in messages(BAD_HOUSE, 200) if each.bad]

    assert Counter(each.bad for each in bad) == Counter(BadKind)
    records = Counter(domain_kind_of(each.routing_key) for each in bad)
    assert records == Counter(list(SPECIMENS))


def test_oversized_messages_are_rare_after_the_first() -> None:
    bad = [each.bad for each in messages(BAD_HOUSE, 5_000) if each.bad]

    assert bad.count(BadKind.OVERSIZED) == 2
    assert bad.count(BadKind.NAN) > 20


def test_it_sends_messages_of_the_domains_that_are_chosen() -> None:
    options = replace(BAD_HOUSE, domains=frozenset({Domain.HOME, Domain.ALERTS}))

    keys = {each.routing_key for each in messages(options, 500)}

    assert {key.partition(".")[0] for key in keys} == {"home", "alerts"}


def test_a_house_may_ask_no_model() -> None:
    options = replace(BAD_HOUSE, with_requests=False)

    kinds = {domain_kind_of(each.routing_key) for each in messages(options, 2_000)}

    assert kinds == set(SPECIMENS) - {"ai.inference.requests"}


def test_the_rooms_that_ask_the_model_send_what_it_takes() -> None:
    asked = [
        json.loads(each.body)
        for each in messages(GOOD_HOUSE, 500)
        if each.exchange == "ai" and ".model." in each.routing_key
    ]
    for request in asked:
        (window,) = request["inputs"]

        assert (request["model"], window["name"]) == ("temperature-anomaly", "window")
        assert window["shape"] == [1, len(window["data"])] == [1, 24]
    assert asked


def test_alerts_of_every_severity_begin_and_end() -> None:
    slow = replace(GOOD_HOUSE, step_ms=100.0, domains=frozenset({Domain.ALERTS}))
    alerts = [json.loads(each.body) for each in messages(slow, 60)]

    begun = [each for each in alerts if not each["resolved"]]
    ended = [each for each in alerts if each["resolved"]]
    assert {each["severity"] for each in begun} == {"info", "warning", "critical"}
    beginnings = [(each["labels"], each["starts_at"]) for each in begun]
    assert all((each["labels"], each["starts_at"]) in beginnings for each in ended)
    assert len(begun) - len(ended) in {3, 4}


def test_the_same_options_give_the_same_messages() -> None:
    options = HouseOptions(1, START_MS, 5.0, 0.05, 60.0, "kitchen")

    assert messages(options, 3_000) == messages(options, 3_000)


def test_another_seed_gives_other_messages() -> None:
    other = HouseOptions(seed=2, start_ms=START_MS, step_ms=5.0)

    assert messages(other, 100) != messages(GOOD_HOUSE, 100)


def test_every_room_has_temperature_and_humidity() -> None:
    keys = {each.routing_key for each in messages(GOOD_HOUSE, 500)}

    assert keys >= {
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

        assert isinstance(record, dict)
        if domain_kind_of(message.routing_key) in {
            "sensors.temperature",
            "sensors.humidity",
        }:
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
