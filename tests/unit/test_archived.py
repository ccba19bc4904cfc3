"""Reading what the archive wrote, and finding the way back for it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshtasks.errors import SchemaMismatch
from meshtasks.flows.archive.layout import Entry, objects_of
from meshtasks.flows.archive.reading import (
    ArchivedRecord,
    fault_of,
    parse_name,
    records_in,
)
from meshtasks.flows.excerpts import archive_line
from meshtasks.observation.archived import replayed, way_back
from meshtasks.records.envelope import record_id
from tests.support.archive import NOON, message
from tests.support.topologies import shipped_topology

ENVELOPE = message(b'{"value": 20}', "sensors.temperature.attic", exchange="sensors")


def entry(number: int) -> Entry:
    time = NOON + number
    line = archive_line(f"id-{number}", ENVELOPE, ENVELOPE.body, time)
    return Entry(f"id-{number}", "sensors", time, line)


(OBJECT,) = objects_of("metrics", [entry(0), entry(1)])


def test_a_name_holds_class_domain_and_hour() -> None:
    said = parse_name(OBJECT.name)
    assert said is not None
    assert said[:2] == ("metrics", "sensors")
    assert said.hour.timestamp() == NOON
    assert said.day.isoformat() == "2026-11-23"
    assert OBJECT.name.endswith(f"-{said.digest}.jsonl.zst")


@pytest.mark.parametrize(
    "name",
    [
        "metrics/sensors/readme.txt",
        "analytics/sensors/date=2026-11-23/hour=12/x.jsonl.zst",
        "metrics/sensors/date=2026-13-45/hour=12/x.jsonl.zst",
    ],
)
def test_foreign_names_are_known_as_such(name: str) -> None:
    assert parse_name(name) is None
    assert fault_of(name, OBJECT.content) == "the mesh gives no objects such names"


def test_a_record_comes_out_as_it_went_in() -> None:
    first, _ = records_in(OBJECT.content)
    assert first == ArchivedRecord(
        "id-0",
        "sensors",
        "sensors.temperature.attic",
        NOON,
        ENVELOPE.body,
        entry(0).line,
    )


def test_a_line_that_is_none_is_numbered() -> None:
    with pytest.raises(SchemaMismatch, match="line 3"):
        list(records_in(OBJECT.content + b'{"id": 1}\n'))


def test_a_whole_object_has_no_fault() -> None:
    assert fault_of(OBJECT.name, OBJECT.content) is None


@pytest.mark.parametrize("kept", [slice(1), slice(0)], ids=["one", "all"])
def test_records_that_are_missing_are_noticed(kept: slice) -> None:
    lines = OBJECT.content.splitlines(keepends=True)
    assert fault_of(OBJECT.name, b"".join(lines[kept])) is not None


def test_a_replayed_record_keeps_its_id_and_its_time() -> None:
    record = ArchivedRecord(
        "m7/abc", "sensors", "sensors.temperature.attic", NOON + 0.25, b"{}", b""
    )
    sent = replayed(record, ("", "sensors.temperature"), quiet=True)

    assert (sent.exchange, sent.routing_key) == ("", "sensors.temperature")
    assert sent.headers
    assert sent.headers["x-mesh-received-at"] == NOON + 0.25
    envelope = replace(ENVELOPE, headers=sent.headers)
    assert record_id(envelope, b"{}", 3, NOON) == "m7/abc"
    assert envelope.is_archived
    assert envelope.is_quiet


@pytest.mark.parametrize(
    ("exchange", "routing_key", "expected"),
    [
        ("sensors", "sensors.temperature.attic", ("sensors.temperature",)),
        ("amq.topic", "sensors.temperature.attic", ("sensors.temperature",)),
        ("alerts", "alerts.x", ("alerts.critical", "alerts.notifications")),
        ("sensors", "sensors.nobody.asked", ()),
        ("archive", "sensors.temperature.attic", ()),
        ("of.somebody.else", "sensors.temperature.attic", ()),
        ("", "sensors.temperature", ()),
    ],
)
def test_the_way_back_leads_to_queues_of_the_mesh_or_nowhere(
    exchange: str, routing_key: str, expected: tuple[str, ...]
) -> None:
    assert way_back(shipped_topology())(exchange, routing_key) == expected
