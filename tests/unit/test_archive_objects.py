"""From archived records to the objects that hold them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.domain.archive_objects import (
    BadEntry,
    Entry,
    entries_of,
    objects_of,
)
from meshtasks.domain.archiving import archive_line, archive_message
from meshtasks.domain.envelope import Envelope

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z


def foreign(body: bytes, **changes: Any) -> Envelope:
    """A message that anyone published to ``archive``."""
    fields: dict[str, Any] = {
        "body": body,
        "exchange": "archive",
        "routing_key": "garden.gate",
        "queue": "archive.events",
        "message_id": "g-1",
        "timestamp": None,
        "received_at": NOON,
        "headers": {},
    }
    return Envelope(**fields | changes)


def mesh(*lines: bytes) -> Envelope:
    """A message of the mesh's own archive lines."""
    message = archive_message(lines, "sensors.temperature")
    return foreign(
        message.body,
        routing_key=message.routing_key,
        message_id=None,
        headers=message.headers,
    )


def line(value: float, time: float = NOON, **changes: Any) -> bytes:
    """The archive line of one reading."""
    reading = foreign(
        b"", exchange="sensors", routing_key="sensors.temperature.cellar", **changes
    )
    return archive_line(reading, b'{"value": %.1f}' % value, 0, time)


def read(*envelopes: Envelope) -> list[Entry | BadEntry]:
    """The entries of a batch of these messages, as the worker decodes them."""
    records: list[Any] = []
    owners: list[Envelope] = []
    for envelope in envelopes:
        value = json.loads(envelope.body)
        members = value if isinstance(value, list) else [value]
        records += members
        owners += [envelope] * len(members)
    return list(entries_of(records, owners))


def entry(name: str = "m-1", domain: str = "home", time: float = NOON) -> Entry:
    """A record on its way."""
    return Entry(name, domain, time, b'{"id":"%b"}' % name.encode())


def good(found: Entry | BadEntry) -> Entry:
    """An entry that must be one."""
    assert isinstance(found, Entry)
    return found


# Lines of the mesh


def test_a_line_of_the_mesh_is_kept_as_it_came() -> None:
    lines = [line(21.5), line(22.0, NOON + 1.5)]

    found = [good(each) for each in read(mesh(*lines))]

    assert [each.line for each in found] == lines
    assert [each.domain for each in found] == ["sensors", "sensors"]
    assert [each.time for each in found] == [NOON, NOON + 1.5]
    assert [each.id for each in found] == [json.loads(each)["id"] for each in lines]


def test_a_line_taken_apart_and_written_anew_is_still_one_line() -> None:
    pretty = json.dumps([json.loads(line(21.5))], indent=2).encode()

    (found,) = read(mesh(line(21.5))._replace(body=pretty))

    assert b"\n" not in good(found).line
    assert json.loads(good(found).line) == json.loads(line(21.5))


@pytest.mark.parametrize(
    "false_line",
    [
        b"21.5",
        b"{}",
        b'{"id":7,"routing_key":"a","time":"2026-11-23T12:00:00Z","record":1}',
        b'{"id":"m","routing_key":"a","time":"2026-11-23T12:00:00Z"}',
        b'{"id":"m","routing_key":"a","time":"noon","record":1}',
        b'{"id":"m","routing_key":"a","time":"0001-01-01T00:00:00+14:00","record":1}',
        b'{"id":"m","routing_key":"a","time":"2026-11-23T12:00:00Z","record":NaN}',
    ],
)
def test_a_message_that_only_claims_to_hold_lines_is_dead(false_line: bytes) -> None:
    before, false, after = read(mesh(line(1), false_line, line(2)))

    assert isinstance(before, Entry)
    assert isinstance(after, Entry)
    assert isinstance(false, BadEntry)
    assert false.domain == "sensors"
    assert false.dead.reason


# Foreign JSON


@pytest.mark.parametrize("body", [b'{"open": true}', b"21.50", b'"open"', b"null"])
def test_any_json_gets_a_line_around_it(body: bytes) -> None:
    (found,) = read(foreign(body))

    kept = json.loads(good(found).line)
    assert kept["record"] == json.loads(body)
    assert good(found).line.endswith(b'"record":%b}' % body)
    assert (kept["exchange"], kept["routing_key"]) == ("archive", "garden.gate")
    assert kept["id"] == good(found).id
    assert good(found).domain == "garden"


def test_each_member_of_a_foreign_array_is_a_record() -> None:
    found = read(foreign(b'[{"a": 1}, {"a": 1}, {"a": 2}]'))

    records = [json.loads(good(each).line)["record"] for each in found]
    assert records == [{"a": 1}, {"a": 1}, {"a": 2}]
    assert len({good(each).id for each in found}) == 3


def test_a_record_retried_without_its_neighbours_keeps_its_id() -> None:
    whole = read(foreign(b'[{"a": 1}, {"a": 2}, {"a": 2}]'))
    retried = read(foreign(b'[{"a": 2},{"a": 2}]'))
    assert [good(each).id for each in retried] == [good(each).id for each in whole[1:]]


@pytest.mark.parametrize(
    ("record", "amqp_timestamp", "expected"),
    [
        ({"timestamp": "2026-11-23T11:00:00+01:00"}, NOON - 60, NOON - 7200),
        ({"timestamp": (NOON - 5) * 1000}, None, NOON - 5),
        ({"timestamp": None}, NOON - 60, NOON - 60),
        ({"timestamp": "yesterday"}, NOON - 60, NOON - 60),
        ({"timestamp": 10**400}, NOON - 60, NOON - 60),
        ({}, 12.0, NOON),
        ({}, None, NOON),
        ([], None, NOON),
    ],
)
def test_a_foreign_records_time_is_the_best_that_is_known(
    record: Any, amqp_timestamp: float | None, expected: float
) -> None:
    message = foreign(json.dumps([record]).encode(), timestamp=amqp_timestamp)
    (found,) = read(message)
    assert good(found).time == expected


def test_json_that_is_not_quite_json_is_dead() -> None:
    (found,) = read(foreign(b'{"value": NaN}'))

    assert isinstance(found, BadEntry)
    assert found.domain == "garden"
    assert "NaN" in found.dead.reason


# Objects


def test_an_object_is_named_for_what_it_holds() -> None:
    (found,) = objects_of("events", [entry("a", time=NOON), entry("b", time=NOON + 65)])

    assert re.fullmatch(
        "events/home/date=2026-11-23/hour=12/"
        "20261123T120000Z-20261123T120105Z-[0-9a-f]{16}.jsonl.zst",
        found.name,
    )


@given(st.permutations([entry(str(n), time=NOON + n % 3) for n in range(6)]))
def test_the_same_records_make_the_same_object_in_any_order(
    entries: list[Entry],
) -> None:
    in_order = sorted(entries, key=lambda each: each.id)
    assert objects_of("events", entries) == objects_of("events", in_order)


def test_another_record_makes_another_name() -> None:
    (one,) = objects_of("events", [entry("a")])
    (other,) = objects_of("events", [entry("b")])
    assert one.name != other.name


def test_each_domain_and_hour_has_an_object_of_its_own() -> None:
    found = objects_of(
        "metrics",
        [
            entry("a", "sensors", NOON - 0.001),
            entry("b", "sensors", NOON),
            entry("c", "sensors", NOON + 3599.999),
            entry("d", "metrics", NOON),
        ],
    )

    assert {(each.name.rpartition("/")[0], each.ids) for each in found} == {
        ("metrics/sensors/date=2026-11-23/hour=11", ("a",)),
        ("metrics/sensors/date=2026-11-23/hour=12", ("b", "c")),
        ("metrics/metrics/date=2026-11-23/hour=12", ("d",)),
    }


def test_an_object_lists_its_records_in_order_of_time() -> None:
    late, early = entry("a", time=NOON + 1), entry("b", time=NOON)

    (found,) = objects_of("events", [late, early])

    assert found.content == b'{"id":"b"}\n{"id":"a"}\n'
    assert found.metadata == {
        "count": "2",
        "first": "2026-11-23T12:00:00.000Z",
        "last": "2026-11-23T12:00:01.000Z",
    }


@given(st.text())
def test_any_word_makes_a_safe_directory(domain: str) -> None:
    (found,) = objects_of("events", [entry(domain=domain)])
    assert re.fullmatch(r"events/[A-Za-z0-9_-]{1,64}/date=.*", found.name)


def test_a_record_without_a_routing_key_has_a_place_too() -> None:
    (found,) = objects_of("events", [good(*read(foreign(b"{}", routing_key="")))])
    assert found.name.startswith("events/unnamed/")


def test_the_hour_of_an_object_is_that_of_its_lines() -> None:
    (found,) = read(foreign(b"{}", received_at=NOON - 0.0001))

    (archived,) = objects_of("events", [good(found)])

    assert json.loads(good(found).line)["time"] == "2026-11-23T12:00:00.000Z"
    assert "/hour=12/" in archived.name
