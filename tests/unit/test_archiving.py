"""What is archived, and the lines and messages it travels in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshtasks.domain.archiving import (
    MESSAGE_LIMIT_BYTES,
    ArchivePolicy,
    archive_line,
    archive_message,
    archive_messages,
)
from meshtasks.domain.envelope import Envelope, record_id
from meshtasks.messaging.publisher import Outgoing

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
    ids = {record_id(envelope(), READING, twin, NOON) for twin in range(3)}
    assert len(ids) == 3


# Lines


def test_a_line_says_what_came_from_where_and_when() -> None:
    line = archive_line(envelope(), READING, 0, NOON + 0.1239)

    assert json.loads(line) == {
        "id": record_id(envelope(), READING, 0, NOON),
        "exchange": "sensors",
        "routing_key": "sensors.temperature.living_room",
        "time": "2026-11-23T12:00:00.124Z",
        "record": {"value": 21.5},
    }


def test_a_record_is_embedded_byte_for_byte() -> None:
    assert archive_line(envelope(), READING, 0, NOON).endswith(
        b'"record":%b}' % READING
    )


def test_line_breaks_between_a_records_tokens_become_spaces() -> None:
    line = archive_line(envelope(), b'{\n "a": "x\\ny"\r\n}', 0, NOON)
    assert line.endswith(b'"record":{  "a": "x\\ny"  }}')


@given(name=st.text(min_size=1), key=st.text(), exchange=st.text())
def test_whatever_a_publisher_calls_things_the_line_is_json(
    name: str, key: str, exchange: str
) -> None:
    odd = envelope(message_id=name, routing_key=key, exchange=exchange)

    line = archive_line(odd, READING, 0, NOON)

    found = json.loads(line)
    assert b"\n" not in line
    assert (found["exchange"], found["routing_key"]) == (exchange, key)
    assert found["id"].startswith(f"{name}/")


def test_text_that_has_no_utf8_bytes_is_replaced() -> None:
    odd = envelope(message_id="\ud800", routing_key="a.\udfff", exchange="\ud800")

    found = json.loads(archive_line(odd, READING, 0, NOON))

    assert (found["exchange"], found["routing_key"]) == ("?", "a.?")
    assert found["id"].startswith("?/")


# Messages


def test_a_message_of_lines_is_one_to_publish() -> None:
    lines = [archive_line(envelope(), READING, twin, NOON) for twin in range(2)]

    outgoing = Outgoing(*archive_message(lines, "sensors.temperature"))

    assert (outgoing.exchange, outgoing.routing_key) == (
        "archive",
        "sensors.temperature",
    )
    assert json.loads(outgoing.body) == [json.loads(line) for line in lines]
    assert outgoing.headers == {"x-mesh-archive": 1}


def test_many_lines_are_split_below_the_size_that_queues_refuse() -> None:
    lines = [b'{"line":%d,"%b":0}' % (n, b"x" * 1000) for n in range(2000)]

    messages = list(archive_messages(lines, "sensors.temperature"))

    sizes = [len(message.body) for message in messages]
    assert len(sizes) > 1
    assert max(sizes) < 1.1 * MESSAGE_LIMIT_BYTES
    kept = [line for message in messages for line in json.loads(message.body)]
    assert kept == [json.loads(line) for line in lines]


def test_a_line_above_the_limit_travels_alone() -> None:
    long = b'"%b"' % (b"x" * MESSAGE_LIMIT_BYTES)

    messages = archive_messages([b"1", long, b"2"], "sensors.temperature")

    bodies = [message.body for message in messages]
    assert bodies == [b"[1]", b"[" + long + b"]", b"[2]"]


def test_no_lines_make_no_message() -> None:
    assert list(archive_messages([], "sensors.temperature")) == []


# Selection


def test_records_are_selected_by_their_routing_key() -> None:
    chosen = policy({"pattern": "sensors.*.living_room"}, {"pattern": "home.#"})

    assert chosen.selects("sensors.temperature.living_room")
    assert chosen.selects("home.light.kitchen.state_changed")
    assert not chosen.selects("sensors.temperature.cellar")


def test_a_record_that_is_not_selected_has_no_line() -> None:
    assert policy({"pattern": "home.#"}).line(envelope(), READING, 0, NOON) is None


def test_a_selected_record_has_the_line_it_would_have_anyway() -> None:
    line = policy({"pattern": "sensors.#"}).line(envelope(), READING, 0, NOON)
    assert line == archive_line(envelope(), READING, 0, NOON)


def test_of_sampled_records_about_one_in_n_is_kept_and_always_the_same() -> None:
    sampled = policy({"pattern": "sensors.#", "sample": 10})

    def kept() -> list[int]:
        return [
            number
            for number in range(10_000)
            if sampled.line(envelope(message_id=f"m-{number}"), READING, 0, NOON)
        ]

    assert 850 < len(kept()) < 1150
    assert kept() == kept()


def test_the_first_pattern_that_matches_counts() -> None:
    chosen = policy(
        {"pattern": "sensors.temperature.living_room"},
        {"pattern": "sensors.#", "sample": 1_000_000_000},
    )

    assert chosen.line(envelope(), READING, 0, NOON) is not None
    cellar = envelope(routing_key="sensors.temperature.cellar")
    assert chosen.line(cellar, READING, 0, NOON) is None


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
