"""What explains a hole, from what is known; without servers."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from meshtasks.observation.causes import causes
from meshtasks.observation.sensor_facts import Cause, Facts, QueueNow, Window, clock
from meshtasks.state.sensor_activity import (
    BAD_UNIT,
    CLOCK_BEHIND,
    DUPLICATE_ID,
    Gap,
    Incident,
    Sensor,
    Span,
)

NOW = 1_795_440_000.0
QUEUE = "sensors.temperature"
KEY = "sensors.temperature.attic"


def sensor(key: str = KEY, at: float = NOW - 5) -> Sensor:
    what = key, "attic", "temperature", "loft", "°C"
    return Sensor(*what, 21.5, at, NOW - 9000, at, 900, 10.0, 0.0, 0.0)


def facts(**known: object) -> Facts:
    worker = Span("worker", "w", "w", NOW - 90_000, None, NOW, QUEUE)
    spans = [worker, *known.pop("spans", ())]  # type: ignore[misc]
    given = {
        "sensor": sensor(),
        "queues": frozenset({QUEUE}),
        "sinks": frozenset({"timeseries", "rule_state", "objects"}),
        "blocking": frozenset({"rule_state"}),
        **known,
    }
    return Facts(now=NOW, spans=spans, **given)  # type: ignore[arg-type]


def found(
    known: Facts, hole: tuple[float, float] | None, at: float | None = None
) -> list[str]:
    window = Window(NOW - 900, None) if hole is None else Window(*hole)
    answer = causes(known, window, at, is_hole=hole is not None)
    return [each.cause for each in answer]


def incident(cause: str, begins: float, ends: float, **more: object) -> Incident:
    made = Incident(KEY, "attic", cause, begins, ends, 3, "because")
    return made._replace(**more)  # type: ignore[arg-type]


HOLE = NOW - 600, NOW - 300


def test_a_hole_that_nothing_explains_is_a_silent_device() -> None:
    assert found(facts(), HOLE) == ["device silent"]


def test_refused_readings_say_more_than_what_was_away() -> None:
    away = Span("broker", "", "w", NOW - 590, NOW - 310, NOW - 310)
    refused = incident(BAD_UNIT, NOW - 500, NOW - 400)

    assert found(facts(spans=[away], incidents=[refused]), HOLE) == [
        "bad unit",
        "broker away",
    ]


def test_an_outage_explains_a_hole_that_it_covers_and_no_other() -> None:
    def away(begins: float, ends: float) -> Facts:
        return facts(spans=[Span("broker", "", "w", begins, ends, ends)])

    assert found(away(NOW - 590, NOW - 310), HOLE) == ["broker away"]
    assert found(away(NOW - 500, NOW - 490), HOLE) == ["broker away", "device silent"]


def test_a_store_that_is_away_explains_no_missing_reading() -> None:
    away = Span("sink", "timeseries", "w", NOW - 700, None, NOW, "refused")

    assert found(facts(spans=[away]), HOLE) == ["device silent", "store away"]
    assert found(facts(spans=[away]), None) == ["store away"]


def test_a_sink_without_which_the_queue_is_paused_explains_it() -> None:
    away = Span("sink", "rule_state", "w", NOW - 600, NOW - 300, NOW, "locked")

    assert found(facts(spans=[away]), HOLE) == ["queue paused"]


def test_a_full_disk_of_the_archive_is_named_as_such() -> None:
    full = Span("sink", "objects", "w", NOW - 60, None, NOW, "No space left on device")

    assert found(facts(spans=[full]), None) == ["disk full"]


def test_a_worker_that_did_not_run_leaves_its_queue_alone() -> None:
    running = [
        Span("worker", "w", "w", NOW - 9_000, NOW - 590, NOW - 590, QUEUE),
        Span("worker", "w", "w", NOW - 310, None, NOW, QUEUE),
    ]
    known = facts()
    known = Facts(known.sensor, NOW, spans=running, queues=known.queues)

    assert found(known, HOLE) == ["no worker"]


@pytest.mark.parametrize(
    ("queue", "workers", "cause"),
    [
        (QueueNow(QUEUE, 5, 0), 0, "no worker"),
        (QueueNow(QUEUE, 5, 0), 2, "no consumer"),
        (QueueNow(QUEUE, 5, 1, "the store is away"), 1, "queue paused"),
    ],
)
def test_a_queue_of_this_moment(queue: QueueNow, workers: int, cause: str) -> None:
    assert found(facts(queues_now=[queue], workers=workers), None) == [cause]


def test_a_lag_that_stays_is_a_clock_and_one_that_shrinks_is_not() -> None:
    steady = incident(
        CLOCK_BEHIND, NOW - 9, NOW - 9, reason="", ahead_low=-7210.0, ahead_high=-7200.0
    )
    late = steady._replace(ahead_high=-90.0)

    assert found(facts(incidents=[steady]), None) == ["clock behind"]
    assert found(facts(incidents=[late]), None) == ["late"]


def test_a_refused_reading_is_found_by_its_own_time_as_well() -> None:
    earlier = incident(
        BAD_UNIT, NOW - 5, NOW - 5, first_time=NOW - 500, last_time=NOW - 400
    )

    assert found(facts(incidents=[earlier]), HOLE) == ["bad unit"]


def test_one_id_on_two_routing_keys_is_two_devices() -> None:
    other = sensor("sensors.temperature.cellar")

    assert found(facts(siblings=[other]), None) == [DUPLICATE_ID]


def test_a_silence_is_named_when_the_readings_are_there() -> None:
    mute = Cause("rule silenced", NOW - 100, None, "It is muted.")

    assert found(facts(mutes=[mute]), None) == ["rule silenced"]


def test_what_goes_on_at_the_moment_asked_about_comes_first() -> None:
    away = Span("broker", "", "w", NOW - 100, NOW - 90, NOW - 90)
    refused = incident(BAD_UNIT, NOW - 400, NOW - 390)

    known = facts(spans=[away], incidents=[refused])

    assert found(known, None, NOW - 95) == ["broker away", "bad unit"]
    assert found(known, None, NOW - 395) == ["bad unit", "broker away"]


def test_a_silence_that_goes_on_is_a_hole_to_now() -> None:
    known = facts(sensor=sensor(at=NOW - 120))

    assert known.silence == (NOW - 120, None)
    assert facts().silence is None
    assert facts(gaps=[Gap(KEY, "attic", *HOLE)]).hole_at(NOW - 400) == HOLE


def test_a_worker_of_other_queues_that_does_not_answer_in_time_still_runs() -> None:
    other = Span("worker", "o", "o", NOW - 9_000, None, NOW, "sensors.humidity")
    known = facts(spans=[other], queues_now=[QueueNow(QUEUE, 5, 0)], workers=0)

    assert found(known, None) == ["no consumer"]


def test_a_queue_that_is_consumed_has_a_worker_even_if_none_said_so_lately() -> None:
    unheard = Span("worker", "w", "w", NOW - 9_000, None, NOW - 300, QUEUE)
    known = facts(queues_now=[QueueNow(QUEUE, 0, 1)])
    known = replace(known, spans=[unheard])

    assert found(known, None) == []
    assert found(replace(known, queues_now=()), None) == ["no worker"]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_a_moment_that_no_calendar_has_is_said_all_the_same(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    year_one, last = -62_135_596_800.0, 253_402_300_799.0

    try:
        said = [clock(at, NOW) for at in (year_one, last, 9e14, -9e14)]
    finally:
        monkeypatch.undo()
        time.tzset()

    assert [each.rpartition(" or ")[2] for each in said] == [
        *("earlier", "later", "later", "earlier")
    ]
