"""Archived records become rows: each in one table, none left out."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtasks.flows.analytics.parquet import SCHEMAS, parquet_of
from meshtasks.flows.analytics.rows import (
    TABLES,
    Event,
    MetricField,
    Reading,
    Rows,
    rows_of,
)
from meshtasks.flows.excerpts import archive_line
from meshtasks.records.envelope import Envelope, record_id
from meshtasks.records.kinds import KindsConfig

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
NOON_MS = 1_795_435_200_000

KINDS = KindsConfig(default_units={"temperature": "°C"})


def line(routing_key: str, record: Any, name: str = "m", time: float = NOON) -> bytes:
    """The archive line of a record."""
    body = record if isinstance(record, bytes) else json.dumps(record).encode()
    exchange = routing_key.partition(".")[0]
    envelope = Envelope(body, exchange, routing_key, "q", name, None, time, {})
    return archive_line(record_id(envelope, body, 0, time), envelope, body, time)


def rows(*lines: bytes) -> Rows:
    """The rows of an archive object with these lines."""
    return rows_of(b"".join(each + b"\n" for each in lines), KINDS)


def reading(record: Any, routing_key: str = "sensors.temperature.attic") -> Reading:
    """The one row of a record, which is a reading."""
    (row,) = rows(line(routing_key, record)).readings
    return row


def event(record: Any, routing_key: str) -> Event:
    """The one row of a record, which is an event."""
    (row,) = rows(line(routing_key, record)).events
    return row


def test_a_reading_is_a_row_of_the_table_readings() -> None:
    record = {"sensor_id": "th1", "value": 21.5, "unit": "°C", "location": "attic"}

    found = rows(line("sensors.temperature.attic", record, "m1", NOON + 0.123))

    ((row,), [], [], []) = found
    assert row._replace(record_id="") == Reading(
        time_ms=NOON_MS + 123,
        kind="temperature",
        sensor_id="th1",
        location="attic",
        value=21.5,
        unit="°C",
        routing_key="sensors.temperature.attic",
        record_id="",
    )
    assert row.record_id.startswith("m1/")


@pytest.mark.parametrize(
    ("key", "record", "value", "unit"),
    [
        ("sensors.temperature.x", {"value": 98.6, "unit": "°F"}, 37.0, "°C"),
        ("sensors.temperature.x", {"value": 300, "unit": "K"}, 26.85, "°C"),
        ("sensors.temperature.x", {"value": 21}, 21.0, "°C"),
        ("sensors.humidity.x", {"value": 0.5, "unit": "fraction"}, 50.0, "%"),
    ],
)
def test_its_value_is_in_the_canonical_unit(
    key: str, record: Any, value: float, unit: str
) -> None:
    row = reading(record, key)
    assert (row.value, row.unit) == (value, unit)


def test_a_bare_number_is_a_reading_of_the_sensor_in_its_routing_key() -> None:
    row = reading(b"21.5", "sensors.temperature.attic.window")
    assert (row.sensor_id, row.value, row.unit) == ("attic.window", 21.5, "°C")


def test_a_kind_that_the_mesh_does_not_know_keeps_its_unit() -> None:
    row = reading({"value": 1013, "unit": "hPa"}, "sensors.pressure.attic")
    assert (row.kind, row.value, row.unit) == ("pressure", 1013.0, "hPa")


def test_a_blank_location_is_none() -> None:
    assert reading({"value": 1, "location": " "}).location is None


def test_a_metric_has_a_row_for_each_field() -> None:
    record = {
        "name": "disk",
        "fields": {"free": 7, "used_percent": 91.5, "ok": True, "fs": "zfs", "x": None},
        "tags": {"mount": "/", "host": "nas", "disk": 0},
    }

    found = rows(line("metrics.system.nas", record))

    tags = (("disk", "0"), ("host", "nas"), ("mount", "/"))
    assert [(row.field, row.value, row.text) for row in found.metrics] == [
        ("free", 7.0, None),
        ("used_percent", 91.5, None),
        ("ok", 1.0, None),
        ("fs", None, "zfs"),
    ]
    assert {(row.name, row.tags) for row in found.metrics} == {("disk", tags)}
    assert len({row.record_id for row in found.metrics}) == 1
    assert (found.readings, found.events) == ([], [])


def test_a_text_for_no_value_is_no_row() -> None:
    record = {"name": "room", "fields": {"celsius": "unavailable", "lux": 7}}

    found = rows(line("metrics.system.nas", record))

    assert [row.field for row in found.metrics] == ["lux"]


def test_a_metric_of_a_single_value_has_the_field_value() -> None:
    (row,) = rows(line("metrics.system.nas", {"name": "load", "value": 0.5})).metrics
    assert row[1:6] == ("load", "value", 0.5, None, ())


@pytest.mark.parametrize(
    ("key", "record", "entity"),
    [
        ("sensors.motion.hall", {"motion": True}, "hall"),
        ("sensors.motion.hall", {"motion": True, "sensor_id": "pir"}, "pir"),
        (
            "home.light.kitchen.state_changed",
            {"entity_id": "light.kitchen"},
            "light.kitchen",
        ),
        (
            "home.automation.lamp.trigger",
            {"automation": "automation.lamp"},
            "automation.lamp",
        ),
        ("ai.result.comfort", {"model": "comfort"}, "comfort"),
        ("alerts.critical.rules", {"source": "rules.hot", "title": "hot"}, "rules.hot"),
        ("door", {"open": True}, None),
        ("door", [1, 2], None),
    ],
)
def test_everything_else_is_an_event_with_what_it_is_about(
    key: str, record: Any, entity: str | None
) -> None:
    row = event(record, key)
    assert row.entity == entity
    assert json.loads(row.record) == record


@pytest.mark.parametrize(
    ("key", "record"),
    [
        ("sensors.temperature.x", {"value": "warm"}),
        ("sensors.temperature.x", {"value": True}),
        ("sensors.temperature.x", {"value": 1, "unit": "furlong"}),
        ("sensors.temperature.x", {"value": -300}),
        ("sensors.temperature.x", {"note": "no value"}),
        ("sensors.temperature.x", [1]),
        ("sensors.temperature", {"value": 1}),
        ("sensors", {"value": 1, "sensor_id": "a"}),
        ("metrics.system", {"value": 1}),
        ("metrics.system", {"name": "load"}),
        ("metrics.system", {"name": "load", "fields": {"a": [1]}}),
        ("metrics.system", {"name": "load", "fields": [1]}),
        ("metrics.system", {"name": "load", "value": 1, "tags": {"a": {}}}),
        ("metrics.system", {"name": "load", "value": 10**400}),
        ("metrics.system", 5),
    ],
)
def test_what_is_not_what_it_claims_to_be_is_an_event(key: str, record: Any) -> None:
    assert json.loads(event(record, key).record) == record


def test_the_json_of_an_event_is_what_was_published() -> None:
    published = (
        b'{ "entity_id": "a",  "n": 1.50, "big": 123456789012345678901234567890}'
    )
    row = event(published, "home.a")
    assert row.record == published.decode()


def test_a_line_whose_members_come_in_another_order_is_read_too() -> None:
    seen = (
        b'{"record": {"record": 2, "entity_id": "a"}, "time": "2026-11-23t12:00:00z", '
        b'"routing_key": "home.a", "id": "x"}'
    )
    (row,) = rows(seen).events
    assert row == Event(NOON_MS, "a", '{"record": 2, "entity_id": "a"}', "home.a", "x")


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["value", "unit", "name", "fields", "tags", "sensor_id"])
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)
_keys = st.sampled_from(["sensors.temperature.x", "sensors.p.x", "metrics.s", "home.a"])


@settings(deadline=None)  # the first file takes half a second
@given(st.lists(st.tuples(_keys, _json), min_size=1, max_size=4))
def test_whatever_json_is_archived_gets_its_row_in_a_file(
    records: list[tuple[str, Any]],
) -> None:
    lines = [
        line(key, record, f"m{number}") for number, (key, record) in enumerate(records)
    ]

    found = rows(*lines)

    ids = set()
    for table in TABLES:
        of_table = getattr(found, table)
        ids |= {row.record_id for row in of_table}
        if of_table:
            file = pq.read_table(io.BytesIO(parquet_of(table, of_table)))
            assert file.num_rows == len(of_table)
    assert {each.partition("/")[0] for each in ids} == {
        f"m{number}" for number in range(len(records))
    }


# Parquet


def test_the_same_rows_make_the_same_file() -> None:
    found = rows(line("sensors.temperature.a", {"value": 1})).readings
    assert parquet_of("readings", found) == parquet_of("readings", list(found))


def test_columns_are_typed() -> None:
    table = pq.read_table(
        io.BytesIO(
            parquet_of(
                "metrics",
                rows(
                    line("metrics.a", {"name": "n", "value": 1, "tags": {"a": "b"}})
                ).metrics,
            )
        )
    )
    assert table.schema == SCHEMAS["metrics"]
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    assert table.column("tags").to_pylist() == [[("a", "b")]]


@pytest.mark.parametrize(
    ("table", "row"),
    [("readings", Reading), ("metrics", MetricField), ("events", Event)],
)
def test_every_member_of_a_row_has_its_column(table: Any, row: Any) -> None:
    names = ["time_ms" if name == "time" else name for name in SCHEMAS[table].names]
    assert names == list(row._fields)


# Whatever the archive holds


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
_records = st.one_of(
    _json,
    st.fixed_dictionaries(
        {}, optional={"value": _json, "unit": _json, "name": _json, "tags": _json}
    ),
)
_keys = st.sampled_from(["sensors.temperature.x", "metrics.system", "alerts.critical"])
_times = st.sampled_from([0.0, 1.0, NOON, 253_402_300_798.0])


@settings(max_examples=200, deadline=None)
@given(_keys, _records, _times)
def test_every_record_has_a_row(key: str, record: Any, time: float) -> None:
    body = json.dumps(record).encode()
    if b"NaN" in body or b"Infinity" in body or b"\\ud" in body:
        return  # the door refuses these
    found = rows(line(key, body, time=time))
    assert found.faults == []
    assert found.readings or found.events or found.metrics
    for table in TABLES:
        if of_table := getattr(found, table):
            parquet_of(table, of_table)


@pytest.mark.parametrize(
    "record",
    [b"[" * 300 + b"]" * 300, b'{"value": %s}' % (b"1" * 5000), b'{"value": 1e999}'],
    ids=["nested", "a long number", "a large number"],
)
def test_what_the_parser_does_not_take_is_an_event(record: bytes) -> None:
    assert event(record, "sensors.temperature.x").record == record.decode()


def test_an_alert_of_1970_is_an_event_of_1970() -> None:
    found = rows(line("alerts.critical.x", {"title": "hot"}, time=0.0))
    assert [row.time_ms for row in found.events] == [0]


_sound = line("home.door", {"n": 1})
_damage = st.one_of(
    st.binary(),
    st.builds(lambda cut: _sound[:cut], st.integers(0, len(_sound) - 1)),
    st.builds(
        lambda at, byte: _sound[:at] + bytes([byte]) + _sound[at + 1 :],
        st.integers(0, len(_sound) - 1),
        st.integers(0, 255),
    ),
)


@settings(max_examples=300, deadline=None)
@given(_damage)
def test_a_damaged_line_takes_no_other_along(damaged: bytes) -> None:
    found = rows(_sound, damaged, _sound)
    assert [row.record for row in found.events].count('{"n": 1}') >= 2
    for table in TABLES:
        if of_table := getattr(found, table):
            parquet_of(table, of_table)


def test_a_line_without_rows_is_reported() -> None:
    found = rows(_sound, b'{"id": "x"}', b"[" * 50_000)
    assert len(found.events) == 1
    missing, deep = found.faults
    assert missing.startswith("line 2: routing_key")
    assert deep.startswith("line 3: ")
