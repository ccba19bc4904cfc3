"""The sentence on top, and the ledger of the day."""

from __future__ import annotations

import pytest

from meshtasks.flows.alerts.current import CurrentAlert
from meshtasks.flows.alerts.state import update
from meshtasks.observation.collect import QueueState, Snapshot, WorkerAnswer
from meshtasks.observation.headline import aside, headline, ledger_of, ledger_sentence
from meshtasks.observation.sensor_facts import Remembered
from meshtasks.records.alert import Severity
from meshtasks.state.sensor_activity import (
    BAD_UNIT,
    CLOCK_BEHIND,
    DUPLICATE_ID,
    Count,
    Incident,
    Sensor,
    Span,
)
from tests.support.alerting import alert

NOW = 1_795_440_000.0
TEMPERATURES, PENDING = "sensors.temperature", "pending.timeseries"
KEY = "sensors.temperature.attic"
HANDLED = (TEMPERATURES, PENDING, "archive.metrics", "alerts.critical")
WELL = WorkerAnswer("w", (TEMPERATURES, PENDING), (), {})


def snapshot(*queues: QueueState, faults: tuple[str, ...] = ()) -> Snapshot:
    known = queues or (QueueState(TEMPERATURES, 0, 1),)
    return Snapshot(NOW, () if faults else known, faults=faults)


def said(
    taken: Snapshot,
    remembered: Remembered = Remembered(),  # noqa: B008 - does not change
    answer: WorkerAnswer | None = WELL,
    **more: object,
) -> list[str]:
    answers = [] if answer is None else [answer]
    waits = {"waits_for_store": 0, **more}
    lines = headline(taken, answers, remembered, **waits)  # type: ignore[arg-type]
    return [line.text for line in lines]


def incident(cause: str, reason: str = "", ahead: float = 0.0) -> Incident:
    times = NOW - 60, NOW - 30
    return Incident(KEY, "attic", cause, *times, 3, reason, "", ahead, ahead)


def sensor(at: float) -> Sensor:
    key = KEY, "attic", "temperature", "loft", "°C"
    return Sensor(*key, 21.5, at, NOW - 9000, at, 100, 60.0, 0.0, 0.0)


def test_nothing_is_said_when_all_is_well() -> None:
    assert said(snapshot(), Remembered([sensor(NOW - 30)])) == []


def test_a_store_that_is_away_is_named_with_what_waits() -> None:
    away = Span("sink", "timeseries", "w", NOW - 180, None, NOW, "refused")
    down = WELL._replace(down={"timeseries": "refused"}, resting=(PENDING,))

    (line,) = said(snapshot(), Remembered(spans=[away]), down, waits_for_store=5_818)

    assert line == (
        "The time-series store is away for 3 min; 5,818 readings wait, nothing is lost "
        "(refused)."
    )


def test_a_broker_that_is_away_is_named_once() -> None:
    away = Span("broker", "", "w", NOW - 60, None, NOW, "lost")

    (line,) = said(
        snapshot(faults=("it cannot be reached",)), Remembered(spans=[away]), None
    )

    assert line.startswith("The broker is away for 1 min: it cannot be reached.")


@pytest.mark.parametrize(
    ("answer", "words"), [(WELL, "nobody consumes it"), (None, "no worker answers")]
)
def test_messages_that_nobody_takes_are_counted(
    answer: WorkerAnswer | None, words: str
) -> None:
    (line,) = said(snapshot(QueueState(TEMPERATURES, 7, 0)), answer=answer)

    assert line == (f"7 messages wait in {TEMPERATURES}, and {words}; nothing is lost.")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (incident(BAD_UNIT, "unit"), "3 readings of attic were refused (bad unit)."),
        (incident(CLOCK_BEHIND, ahead=-7200.0), "came with a time 2 h behind."),
        (incident(DUPLICATE_ID), "Two devices use the id of attic."),
    ],
)
def test_troubles_of_sensors_are_named(found: Incident, words: str) -> None:
    (line,) = said(snapshot(), Remembered(incidents=[found]))

    assert words in line


def test_a_sensor_that_is_silent_is_missed_for_a_day() -> None:
    assert said(snapshot(), Remembered([sensor(NOW - 720)])) == [
        "loft is silent for 12 min."
    ]
    assert said(snapshot(), Remembered([sensor(NOW - 90_000)])) == []


def current(title: str, severity: Severity, state: str = "firing") -> CurrentAlert:
    known = update(None, alert(title=title, severity=severity), NOW, NOW)
    assert known
    return CurrentAlert(known, state, "firing")


def test_alerts_that_go_on_are_named_and_critical_ones_first() -> None:
    alerts = [current("attic is damp", "warning"), current("attic burns", "critical")]

    lines = said(snapshot(), Remembered([sensor(NOW - 720)]), alerts=alerts)

    assert lines == [
        'The critical alert "attic burns" goes on.',
        'The warning alert "attic is damp" goes on.',
        "loft is silent for 12 min.",
    ]


def test_of_many_alerts_some_are_named_and_the_others_counted() -> None:
    lines = said(snapshot(), alerts=[current("damp", "info")] * 12)

    assert (len(lines), lines[-1]) == (4, "9 more alerts go on.")


def test_a_muted_alert_is_named() -> None:
    (line,) = said(snapshot(), alerts=[current("oven is hot", "info", "silenced")])

    assert line == 'The alert "oven is hot" goes on, and a silence mutes it.'


def test_every_record_of_the_day_is_in_one_column() -> None:
    today = {
        TEMPERATURES: Count(1_000, 20, 300),
        PENDING: Count(90, 10, 0),
        "archive.metrics": Count(5_000, 0, 0),
    }
    taken = snapshot(
        QueueState(TEMPERATURES, 5, 1, unacked=2), QueueState(PENDING, 4, 1)
    )
    waits = aside(today, taken)

    ledger = ledger_of(today, waits, taken, HANDLED)

    assert waits == 200
    assert ledger == (790, 30, 207)
    assert ledger_sentence(ledger) == (
        "today 1,027 in = 790 stored + 30 dead + 207 waiting"
    )


def test_nothing_waits_for_the_store_when_its_queue_is_empty() -> None:
    counts = {TEMPERATURES: Count(10, 0, 10)}

    assert aside(counts, snapshot(QueueState(PENDING, 0, 1))) == 0
