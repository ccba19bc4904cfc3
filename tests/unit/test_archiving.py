"""What is archived, and the lines and messages it travels in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshtasks.flows.excerpts import (
    MESSAGE_LIMIT_BYTES,
    ArchivePolicy,
    archive_line,
    archive_messages,
    excerpt,
    sampled,
)
from meshtasks.records.envelope import Envelope, record_id

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
READING = b'{"value": 21.50}'


def envelope(**changes: Any) -> Envelope:
    """A message from the living room's sensor."""
    fields: dict[str, Any] = {
        "body": READING,
        "exchange": "sensors",
        "routing_key": "sensors.temperature.living_room",
        "queue": "sensors.temperature",
        "message_id": "m-1",
        "timestamp": None,
        "received_at": NOON,
        "headers": {},
    }
    return Envelope(**fields | changes)


def policy(*select: dict[str, Any]) -> ArchivePolicy:
    """A policy with these selections."""
    return ArchivePolicy.model_validate({"select": select})


# Ids


def test_the_same_message_gives_the_same_id() -> None:
    first = record_id(envelope(received_at=NOON), READING, 0, NOON)
    again = record_id(envelope(received_at=NOON + 60), READING, 0, NOON + 60)
    assert first == again


def test_an_id_begins_with_the_message_id() -> None:
    assert record_id(envelope(), READING, 0, NOON).startswith("m-1/")


@pytest.mark.parametrize("seconds", [60, 0.000_040])
def test_equal_readings_without_a_message_id_differ_by_their_time(
    seconds: float,
) -> None:
    bare = envelope(message_id=None)
    ids = {record_id(bare, b"21.5", 0, NOON + n * seconds) for n in range(10)}
    assert len(ids) == 10


def test_ids_without_a_message_id_sort_by_time() -> None:
    bare = envelope(message_id=None)
    ids = [record_id(bare, b"21.5", 0, NOON + second) for second in range(100)]
    assert ids == sorted(ids)


def test_a_publisher_that_repeats_its_message_id_loses_nothing() -> None:
    one = record_id(envelope(), b'{"value":1}', 0, NOON)
    other = record_id(envelope(), b'{"value":2}', 0, NOON)
    assert one != other


def test_a_record_retried_without_its_neighbours_is_not_taken_for_the_first() -> None:
    first_of_all = record_id(envelope(), b'{"value":1}', 0, NOON)
    third_retried_alone = record_id(envelope(), b'{"value":3}', 0, NOON)
    assert first_of_all != third_retried_alone


def test_identical_records_of_one_message_are_told_apart() -> None:
    ids = {record_id(envelope(), READING, n, NOON) for n in range(3)}
    assert len(ids) == 3


# Lines


def test_a_line_holds_what_came_from_where_and_when() -> None:
    line = archive_line("m-1/d", envelope(), READING, NOON + 0.1239)

    assert json.loads(line) == {
        "id": "m-1/d",
        "exchange": "sensors",
        "routing_key": "sensors.temperature.living_room",
        "time": "2026-11-23T12:00:00.124Z",
        "record": {"value": 21.5},
    }


def test_a_record_is_embedded_byte_for_byte() -> None:
    assert archive_line("m", envelope(), READING, NOON).endswith(
        b'"record":%b}' % READING
    )


def test_line_breaks_between_a_records_tokens_become_spaces() -> None:
    line = archive_line("m", envelope(), b'{\n "a": "x\\ny"\r\n}', NOON)
    assert line.endswith(b'"record":{  "a": "x\\ny"  }}')


@given(name=st.text(min_size=1), key=st.text(), exchange=st.text())
def test_whatever_a_publisher_calls_things_the_line_is_json(
    name: str, key: str, exchange: str
) -> None:
    odd = envelope(message_id=name, routing_key=key, exchange=exchange)

    line = archive_line(record_id(odd, READING, 0, NOON), odd, READING, NOON)

    found = json.loads(line)
    assert b"\n" not in line
    assert (found["exchange"], found["routing_key"]) == (exchange, key)
    assert found["id"].startswith(f"{name}/")


def test_text_that_has_no_utf8_bytes_is_replaced() -> None:
    odd = envelope(message_id="\ud800", routing_key="a.\udfff", exchange="\ud800")

    name = record_id(odd, READING, 0, NOON)

    found = json.loads(archive_line(name, odd, READING, NOON))

    assert (found["exchange"], found["routing_key"]) == ("?", "a.?")
    assert found["id"].startswith("?/")


# Excerpts


def test_an_excerpt_holds_what_the_archive_needs_of_a_message() -> None:
    found = json.loads(excerpt(envelope(body=READING), [NOON + 0.25], [None]))

    assert found == {
        "exchange": "sensors",
        "routing_key": "sensors.temperature.living_room",
        "message_id": "m-1",
        "times": [NOON + 0.25],
        "body": READING.decode(),
    }


def test_a_message_without_an_id_has_none_in_its_excerpt() -> None:
    found = json.loads(excerpt(envelope(message_id=None), [NOON], [None]))
    assert found["message_id"] is None


@pytest.mark.parametrize(
    ("places", "said"), [([0, 1], None), ([1], [1]), ([0, 2], [0, 2])]
)
def test_places_are_written_unless_they_are_the_first_ones(
    places: list[int], said: list[int] | None
) -> None:
    found = json.loads(excerpt(envelope(), [NOON] * len(places), places))
    assert found.get("places") == said


@given(name=st.text(), key=st.text(), body=st.text())
def test_whatever_a_message_holds_its_excerpt_is_json(
    name: str, key: str, body: str
) -> None:
    odd = envelope(message_id=name, routing_key=key, body=body.encode())

    found = json.loads(excerpt(odd, [NOON], [None]))

    assert (found["message_id"], found["routing_key"]) == (name, key)
    assert found["body"] == body


def test_a_message_of_excerpts_is_one_to_publish() -> None:
    excerpts = [excerpt(envelope(message_id=str(n)), [NOON], [None]) for n in range(2)]

    (outgoing,) = archive_messages(excerpts, "sensors.temperature")

    assert (outgoing.exchange, outgoing.routing_key) == (
        "archive",
        "sensors.temperature",
    )
    assert json.loads(outgoing.body) == [json.loads(each) for each in excerpts]
    assert outgoing.headers == {"x-mesh-archive": 1}


def test_many_excerpts_are_split_below_the_size_that_queues_refuse() -> None:
    excerpts = [b'{"n":%d,"%b":0}' % (n, b"x" * 1000) for n in range(2000)]

    messages = list(archive_messages(excerpts, "sensors.temperature"))

    sizes = [len(message.body) for message in messages]
    assert len(sizes) > 1
    assert max(sizes) < 1.1 * MESSAGE_LIMIT_BYTES
    kept = [each for message in messages for each in json.loads(message.body)]
    assert kept == [json.loads(each) for each in excerpts]


def test_an_excerpt_above_the_limit_travels_alone() -> None:
    long = b'"%b"' % (b"x" * MESSAGE_LIMIT_BYTES)

    messages = archive_messages([b"1", long, b"2"], "sensors.temperature")

    bodies = [message.body for message in messages]
    assert bodies == [b"[1]", b"[" + long + b"]", b"[2]"]


def test_no_excerpts_make_no_message() -> None:
    assert list(archive_messages([], "sensors.temperature")) == []


# Selection


def chosen(policy: ArchivePolicy, key: str, times: list[float]) -> Sequence[int]:
    """The records of a message that are archived, by their index."""
    one_in = policy.one_in(key)
    return sampled(key, times, one_in) if one_in else ()


def test_records_are_chosen_by_their_routing_key() -> None:
    selection = policy({"pattern": "sensors.*.living_room"}, {"pattern": "home.#"})

    assert [*chosen(selection, "sensors.temperature.living_room", [NOON] * 2)] == [0, 1]
    assert [*chosen(selection, "home.light.kitchen.state_changed", [NOON])] == [0]
    assert not chosen(selection, "sensors.temperature.cellar", [NOON])


def test_of_sampled_records_about_one_in_n_is_kept_and_always_the_same() -> None:
    selection = policy({"pattern": "sensors.#", "sample": 10})
    times = [NOON + second for second in range(10_000)]

    kept = chosen(selection, "sensors.temperature.cellar", times)

    assert 850 < len(kept) < 1150
    assert kept == [
        place
        for place, time in enumerate(times)
        if chosen(selection, "sensors.temperature.cellar", [time])
    ]


def test_the_first_pattern_that_matches_counts() -> None:
    selection = policy(
        {"pattern": "sensors.temperature.living_room"},
        {"pattern": "sensors.#", "sample": 1_000_000_000},
    )

    assert chosen(selection, "sensors.temperature.living_room", [NOON])
    assert not chosen(selection, "sensors.temperature.cellar", [NOON])


def test_an_unknown_domain_is_an_event() -> None:
    chosen = ArchivePolicy(metrics=frozenset({"metrics"}))

    assert chosen.class_of("metrics") == "metrics"
    assert chosen.class_of("garden") == "events"


@pytest.mark.parametrize(
    "fault",
    [
        {"select": [{"pattern": ""}]},
        {"select": [{"pattern": "a", "sample": 0}]},
        {"select": [{"patern": "a"}]},
        {"metrics": ["sensors.temperature"]},
        {"compression_level": 20},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ArchivePolicy.model_validate(fault)
