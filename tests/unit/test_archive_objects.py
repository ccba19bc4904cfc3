"""From archived records to the objects that hold them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.flows.archive.layout import (
    BadEntry,
    Entry,
    entries_of,
    objects_of,
)
from meshtasks.flows.excerpts import archive_messages, excerpt
from meshtasks.records.envelope import Envelope

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


def mesh(*excerpts: bytes) -> Envelope:
    """A message of the mesh's own excerpts."""
    (message,) = archive_messages(excerpts, "sensors.temperature")
    return foreign(
        message.body,
        routing_key=message.routing_key,
        message_id=None,
        headers=message.headers,
    )


def source(body: bytes, **changes: Any) -> Envelope:
    """A message of readings, as its handler got it."""
    fields = {"exchange": "sensors", "routing_key": "sensors.temperature.cellar"}
    return foreign(body, **fields | changes)


def of_one(value: float, time: float = NOON) -> bytes:
    """The excerpt of a message that is one reading."""
    return excerpt(source(b'{"value": %.1f}' % value), [time], [None])


def read(*envelopes: Envelope) -> list[Entry | BadEntry]:
    """The entries of a batch of these messages, as the worker decodes them."""
    records: list[Any] = []
    owners: list[Envelope] = []
    places: list[int | None] = []
    for envelope in envelopes:
        value = json.loads(envelope.body)
        members = value if isinstance(value, list) else [value]
        records += members
        owners += [envelope] * len(members)
        places += range(len(members)) if isinstance(value, list) else [None]
    return [each for _, each in entries_of(records, owners, places)]


def entry(name: str = "m-1", domain: str = "home", time: float = NOON) -> Entry:
    """A record on its way."""
    return Entry(name, domain, time, b'{"id":"%b"}' % name.encode())


def good(found: Entry | BadEntry) -> Entry:
    """An entry that must be one."""
    assert isinstance(found, Entry)
    return found


# Excerpts


def test_a_record_becomes_the_line_of_the_message_it_came_in() -> None:
    found = good(*read(mesh(of_one(21.5, NOON + 1.5))))

    assert (found.domain, found.time) == ("sensors", NOON + 1.5)
    assert json.loads(found.line) == {
        "id": found.id,
        "exchange": "sensors",
        "routing_key": "sensors.temperature.cellar",
        "time": "2026-11-23T12:00:01.500Z",
        "record": {"value": 21.5},
    }
    assert found.id.startswith("g-1/")


def test_a_record_is_embedded_in_its_line_as_it_was_written() -> None:
    pretty = b'\n{"value":\r\n  21.50, "unit": "\\u00b0C"}'

    found = good(*read(mesh(excerpt(source(pretty), [NOON], [None]))))

    assert found.line.endswith(b'"record":{"value":    21.50, "unit": "\\u00b0C"}}')


def test_each_member_of_an_array_has_a_line_and_an_id_of_its_own() -> None:
    array = source(b'[{"value": 1}, {"value": 1}, {"value": 2}]')

    found = [good(each) for each in read(mesh(excerpt(array, [NOON] * 3, [0, 1, 2])))]

    records = [json.loads(each.line)["record"]["value"] for each in found]
    assert records == [1, 1, 2]
    assert len({each.id for each in found}) == 3


def test_a_member_has_the_same_id_whoever_else_is_selected() -> None:
    array = source(b'[{"value": 1}, NaN, {"value": 2}]')
    whole = read(mesh(excerpt(array, [NOON] * 2, [0, 2])))

    alone = read(mesh(excerpt(array, [NOON], [2])))

    assert [good(each).id for each in alone] == [good(whole[1]).id]


def test_entries_say_which_excerpt_they_are_of() -> None:
    array = source(b'[{"value": 1}, {"value": 2}]')
    message = mesh(of_one(1), excerpt(array, [NOON] * 2, [0, 1]), of_one(2))
    records = json.loads(message.body)

    found = list(entries_of(records, [message] * 3, range(3)))

    assert [place for place, _ in found] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": 7},
        {"times": []},
        {"times": [-1]},
        {"times": [1e18]},
        {"times": [NOON, NOON]},
        {"places": [1], "body": "[1]"},
        {"places": [0, 1], "body": "[1,2]"},
        {"body": "[1"},
        {"body": "[1 2]"},
        {"body": "{"},
        {"body": ""},
        {"body": "NaN"},
        {"colour": "red"},
    ],
)
def test_what_only_claims_to_be_an_excerpt_is_dead_alone(
    changes: dict[str, Any],
) -> None:
    false = json.dumps(json.loads(of_one(21.5)) | changes).encode()

    before, bad, after = read(mesh(of_one(1), false, of_one(2)))

    assert isinstance(before, Entry)
    assert isinstance(after, Entry)
    assert isinstance(bad, BadEntry)
    assert bad.dead.reason


@pytest.mark.parametrize(
    "changes",
    [{}, {"body": "{"}, {"times": []}, {"routing_key": "home.door", "body": "{"}],
)
def test_what_is_of_one_half_of_the_archive_is_of_no_other(
    changes: dict[str, Any],
) -> None:
    text = json.dumps(json.loads(of_one(21.5)) | changes).encode()
    message = mesh(text)
    records = json.loads(message.body)

    found = [
        [*entries_of(records, [message], [0], domains.__contains__)]
        for domains in ({"sensors"}, {"home"})
    ]

    assert sorted(map(len, found)) == [0, 1]


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


def test_of_an_array_the_members_are_kept_that_the_worker_did_not_refuse() -> None:
    message = foreign(b'[{"n": 1}, null, {"n": 3}]')
    found = list(entries_of([{"n": 1}, {"n": 3}], [message] * 2, [0, 2]))
    assert [json.loads(good(each).line)["record"] for _, each in found] == [
        {"n": 1},
        {"n": 3},
    ]


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
