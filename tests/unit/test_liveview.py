"""The view of a running mesh: what is counted, and what is drawn of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from meshtasks.demo.render import draw, line, size
from meshtasks.observation.collect import ArchiveState, QueueState, Snapshot
from meshtasks.observation.seen import DeadLetter, MonitorState, Seen, dead_letter_of
from meshtasks.records.alert import Alert

NOW = 1_795_440_000.0
QUEUE = "sensors.temperature"
LETTER = DeadLetter(
    NOW, "sensors.temperature.attic", "UnknownUnit", 'unit "lux"', QUEUE
)


@pytest.fixture
def monitor() -> MonitorState:
    return MonitorState()


def identity(number: int) -> tuple[str, int | None, bytes]:
    return f"m{number}", None, b"digest"


def alert(*, resolved: bool = False) -> bytes:
    record = Alert(
        title="attic is overheating",
        message="attic has 61.0 °C.",
        severity="critical",
        source="rules.overheating",
        resolved=resolved,
    )
    return record.model_dump_json().encode()


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "hostname": "ingest@demo", "timestamp": NOW, **fields}


# --- what passes by -------------------------------------------------------------


def test_dead_letters_are_counted_by_queue_and_by_fault(
    monitor: MonitorState,
) -> None:
    monitor.dead_letter(LETTER, identity(1))
    monitor.dead_letter(replace(LETTER, reason='unit "mile"'), identity(2))
    monitor.dead_letter(replace(LETTER, error_type="SchemaMismatch"), identity(3))

    seen = monitor.seen()

    assert seen.dead_letters == 3
    assert seen.dead_by_queue == {QUEUE: 3}
    assert seen.dead_by_type == {"UnknownUnit": 2, "SchemaMismatch": 1}
    assert seen.reasons["UnknownUnit"] == 'unit "mile"'


def test_a_dead_letter_that_comes_twice_is_counted_once(
    monitor: MonitorState,
) -> None:
    monitor.dead_letter(LETTER, identity(1))
    monitor.dead_letter(LETTER, identity(1))

    seen = monitor.seen()

    assert (seen.dead_letters, seen.repeated_dead_letters) == (1, 1)


def test_an_alert_that_dies_in_both_its_queues_is_two_dead_letters(
    monitor: MonitorState,
) -> None:
    for queue in ("alerts.critical", "alerts.notifications"):
        monitor.dead_letter(replace(LETTER, queue=queue), identity(1))

    seen = monitor.seen()

    assert (seen.dead_letters, seen.repeated_dead_letters) == (2, 0)


def test_an_array_of_which_two_records_died_is_one_dead_message(
    monitor: MonitorState,
) -> None:
    monitor.dead_letter(LETTER, ("m1", 0, b"first"))
    monitor.dead_letter(LETTER, ("m1", 3, b"second"))

    seen = monitor.seen()

    assert (seen.dead_by_queue, seen.dead_messages) == ({QUEUE: 2}, {QUEUE: 1})


def test_answers_of_models_are_told_from_refusals_and_counted_once(
    monitor: MonitorState,
) -> None:
    for message_id in ("m/1/result", "m/1/result", "m/2/error", "a camera's own"):
        monitor.result(message_id)

    seen = monitor.seen()

    assert (seen.answers, seen.refusals) == (1, 1)


def test_dead_letters_without_an_id_are_never_taken_for_the_same(
    monitor: MonitorState,
) -> None:
    monitor.dead_letter(LETTER, None)
    monitor.dead_letter(LETTER, None)

    assert monitor.seen().dead_letters == 2


def test_alerts_that_begin_and_end_are_told_apart(monitor: MonitorState) -> None:
    monitor.alert(alert(), NOW)
    monitor.alert(alert(), NOW)  # published again
    monitor.alert(alert(resolved=True), NOW)

    seen = monitor.seen()

    assert (seen.alerts, seen.resolved_alerts) == (1, 1)
    assert seen.alerts_of_rules == 2
    assert seen.alerts_by_severity == {"critical": 2}
    assert [each.resolved for each in seen.last_alerts] == [False, True]


def test_what_is_no_alert_is_left_alone(monitor: MonitorState) -> None:
    monitor.alert(b"\xff not an alert", NOW)

    assert monitor.seen().last_alerts == ()


def test_a_worker_is_known_by_its_last_batch(monitor: MonitorState) -> None:
    received = event("task-received", uuid="1", name="sensors.humidity")
    done = event("task-succeeded", uuid="1", result="3 messages", runtime=0.004)
    monitor.event(json.dumps([event("worker-heartbeat"), received]).encode(), NOW)
    monitor.event(json.dumps(done).encode(), NOW + 1)

    (worker,) = monitor.seen().workers

    assert (worker.name, worker.heard_at) == ("ingest@demo", NOW + 1)
    assert worker.last_batch is not None
    assert worker.last_batch.queue == "sensors.humidity"
    assert worker.last_batch.result == "3 messages"
    assert not worker.last_batch.failed


def test_a_worker_that_says_good_bye_is_offline(monitor: MonitorState) -> None:
    monitor.event(json.dumps(event("worker-online")).encode(), NOW)
    monitor.event(json.dumps(event("worker-offline")).encode(), NOW)

    assert not monitor.seen().workers[0].online


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {
                "x-mesh-reason": "value: expected a number",
                "x-mesh-error-type": "SchemaMismatch",
                "x-mesh-routing-key": "sensors.humidity.attic",
            },
            ("sensors.humidity.attic", "SchemaMismatch", "value: expected a number"),
        ),
        (
            {
                "x-death": [
                    {
                        "queue": "sensors.humidity",
                        "reason": "delivery_limit",
                        "routing-keys": ["sensors.humidity.attic"],
                    }
                ]
            },
            (
                "sensors.humidity.attic",
                "delivery_limit",
                "the broker took it from sensors.humidity: delivery_limit",
            ),
        ),
        ({}, ("no.such.key", "Unroutable", "no binding matches its routing key")),
    ],
    ids=["from a worker", "from the broker", "unroutable"],
)
def test_every_sort_of_dead_letter_says_why(
    headers: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    letter = dead_letter_of(headers, "no.such.key", NOW)

    assert (letter.routing_key, letter.error_type, letter.reason) == expected


# --- what is drawn --------------------------------------------------------------

BUSY = QueueState("sensors.temperature", 1_234, 1, 40, 9_999, 150.4, 149.6)
IDLE = QueueState("metrics.system", 0, 1, 0, 0, 0.0, 0.0)
UNUSED = QueueState("home.events.automations", 0, 0, 0, 0, 0.0, 0.0)
SNAPSHOT = Snapshot(
    taken_at=NOW,
    queues=(BUSY, IDLE, UNUSED),
    retry={1: 0, 120: 7},
    dead_letter_queue="dead.letter.queue",
    points=56_789,
    archive=ArchiveState(3, 45_678),
    seen=Seen(
        dead_letters=2,
        dead_by_type={"UnknownUnit": 2},
        last_dead_letters=(LETTER, LETTER),
        alerts=1,
    ),
)


def drawn(snapshot: Snapshot, width: int = 100, height: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    picture = draw(
        snapshot,
        title="title",
        published="published 9 messages",
        footer=[("Flower", "http://flower")],
        terminal=ConsoleDimensions(width, height),
    )
    with console.capture() as capture:
        console.print(picture)
    return capture.get().splitlines()


def row(lines: list[str], start: str) -> str:
    return next(line for line in lines if line.startswith(start))


def test_a_queue_shows_its_depth_consumers_and_rates() -> None:
    shown = row(drawn(SNAPSHOT), BUSY.name).split()

    assert shown == [BUSY.name, "1,234", "40", "1", "150", "150"]


def test_what_the_management_api_does_not_tell_is_unknown_not_zero() -> None:
    unknown = replace(SNAPSHOT, queues=(QueueState("sensors.motion", 5, 1),))

    shown = row(drawn(unknown), "sensors.motion").split()

    assert shown[1:] == ["5", "?", "1", "?", "?"]


def test_retries_totals_and_dead_letters_are_there() -> None:
    text = "\n".join(drawn(SNAPSHOT))

    assert "1 s: 0   2 min: 7" in text
    assert "published 9 messages · stored 56,789 values" in text
    assert "archive 3 objects, 45.7 kB · alerts 1" in text
    assert "2: UnknownUnit 2" in text
    assert 'sensors.temperature.attic  unit "lux"' in text
    assert "Flower        http://flower" in text


def test_queues_that_nobody_uses_are_counted_only() -> None:
    text = "\n".join(drawn(SNAPSHOT))

    assert UNUSED.name not in text
    assert "(1 more not shown)" in text


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (60, 20)])
def test_a_full_picture_fits_the_terminal(width: int, height: int) -> None:
    full = replace(
        SNAPSHOT,
        queues=tuple(replace(BUSY, name=f"sensors.kind-{n}") for n in range(14)),
        seen=replace(SNAPSHOT.seen, last_dead_letters=(LETTER,) * 20),
        faults=("the time-series store does not answer: " + "refused " * 20,),
    )

    lines = drawn(full, width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith("Flower")


def test_used_queues_come_before_idle_ones_when_there_is_no_room() -> None:
    many = replace(
        SNAPSHOT, queues=(*(replace(IDLE, name=f"i{n}") for n in range(20)), BUSY)
    )

    assert row(drawn(many, height=18), BUSY.name)


def test_a_silent_worker_is_in_trouble(monitor: MonitorState) -> None:
    monitor.event(json.dumps(event("worker-heartbeat")).encode(), NOW - 60)

    text = "\n".join(drawn(replace(SNAPSHOT, seen=monitor.seen())))

    assert "ingest@demo  silent for 60 s" in text


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"nonsense",
        b"[1, null, {}]",
        b"\xff",
        b"[" * 10_000,
        b'{"type": "task-succeeded", "timestamp": "noon", "runtime": [], "uuid": {}}',
        b'{"type": "task-failed", "timestamp": 1e999, "hostname": 5}',
    ],
)
def test_what_is_no_event_is_passed_over(monitor: MonitorState, body: bytes) -> None:
    monitor.event(body, NOW)
    drawn(replace(SNAPSHOT, seen=monitor.seen()))


def test_a_small_terminal_shows_the_verdict_and_queues_that_nobody_consumes() -> None:
    paused = QueueState("sensors.humidity", 120, 0, 0, 0, 0.0, 0.0)
    busy = tuple(replace(BUSY, name=f"sensors.kind-{n}") for n in range(14))
    picture = draw(
        replace(SNAPSHOT, queues=(*busy, paused)),
        title="title",
        verdict=["timeseries: circuit open: refused; sensors.humidity paused"],
        terminal=ConsoleDimensions(80, 16),
    )
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(picture)
    lines = capture.get().splitlines()
    assert lines[1:3] == [
        "1 thing wants attention",
        "  timeseries: circuit open: refused; sensors.humidity paused",
    ]
    assert row(lines, "sensors.humidity")


def test_a_log_line_says_it_all() -> None:
    assert line(SNAPSHOT, "published 9 messages") == (
        "published 9 messages · stored 56,789 values · archive 3 objects, 45.7 kB · "
        "alerts 1 · dead letters 2: UnknownUnit 2 · waiting 1,281"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (5e12, "5.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes_are_powers_of_a_thousand(size_bytes: float, text: str) -> None:
    assert size(size_bytes) == text
