"""What is remembered of sensors, outages and counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from meshtasks.state import history as module
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import (
    CLOCK_BEHIND,
    DUPLICATE_ID,
    REPEATED,
    Count,
    Incident,
    Notes,
    SensorActivity,
    Span,
    Stretch,
)

NOW = 1_795_440_000.0
KEY = "sensors.temperature.attic", "attic"


@pytest.fixture
def history(state_location: StateLocation) -> Iterator[History]:
    with closing(History(state_location)) as opened:
        yield opened


def activity(
    *stretches: tuple[float, float, int],
    value: float = 21.5,
    location: str = "attic",
    ahead: float = 0.0,
) -> SensorActivity:
    made = tuple(Stretch(NOW + a, NOW + b, n) for a, b, n in stretches)
    at = made[-1].last - ahead
    return SensorActivity(
        *KEY, "temperature", location, "°C", value, made, at, ahead, ahead
    )


def see(history: History, *activities: SensorActivity) -> None:
    history.write(Notes(list(activities)))


def gaps(history: History) -> list[tuple[float, float]]:
    found = (gap for gap in history.gaps(0.0) if gap.routing_key == KEY[0])
    return [(each.begins_at - NOW, each.ends_at - NOW) for each in found]


def test_a_silence_much_longer_than_usual_is_a_gap(history: History) -> None:
    see(history, activity((0, 290, 30)))
    see(history, activity((320, 320, 1)))
    see(history, activity((330, 400, 8)))

    assert gaps(history) == []

    see(history, activity((500, 600, 11)))

    assert gaps(history) == [(400, 500)]
    (sensor,) = history.sensors()
    assert (sensor.time, sensor.number) == (NOW + 600, 50)
    assert 9 < sensor.usual_seconds < 13


def test_readings_that_come_late_fill_a_gap(history: History) -> None:
    see(history, activity((0, 90, 10)))
    see(history, activity((500, 590, 10)))
    see(history, activity((100, 300, 21)))

    assert gaps(history) == [(300, 500)]

    see(history, activity((310, 490, 19)))

    assert gaps(history) == []


def test_a_gap_within_one_batch_is_seen(history: History) -> None:
    see(history, activity((0, 90, 10), (400, 490, 10)))

    assert gaps(history) == [(90, 400)]


def test_a_clock_that_is_ahead_hides_nothing_of_what_comes_until_then(
    history: History,
) -> None:
    see(history, activity((0, 90, 10)))
    see(history, activity((7300, 7310, 2), ahead=7200.0))
    see(history, activity((200, 290, 10)))

    assert gaps(history) == [(90, 200)]


def test_troubles_close_to_each_other_are_one(history: History) -> None:
    def refused(at: float, count: int) -> None:
        bad = Incident(*KEY, "UnknownUnit", at, at, count, f"°X at {at:.0f}", '"°X"')
        notes = Notes()
        notes.add_incident(bad)
        notes.add_incident(bad._replace(ends_at=at + 10))
        history.write(notes)

    refused(NOW, 2)
    refused(NOW + 60, 1)
    refused(NOW + 7200, 1)

    first, second = history.incidents(0.0)
    assert (first.begins_at, first.ends_at, first.number) == (NOW, NOW + 70, 6)
    assert first.reason == f"°X at {NOW + 60:.0f}"
    assert (second.begins_at, second.number) == (NOW + 7200, 2)


def test_a_clock_behind_repetitions_and_two_places_are_incidents(
    history: History,
) -> None:
    see(history, activity((0, 0, 1)))
    see(history, activity((0, 0, 1)))
    see(history, activity((0, 0, 1), value=3.0))
    see(history, activity((10, 10, 1), ahead=-7200.0))
    see(history, activity((20, 20, 1), location="cellar"))

    found = {each.cause: each for each in history.incidents(0.0)}

    assert found.keys() == {REPEATED, CLOCK_BEHIND, DUPLICATE_ID}
    assert found[DUPLICATE_ID].reason == "they come from attic and cellar"
    assert found[CLOCK_BEHIND].ahead_low == -7200.0


def test_what_many_batches_show_is_one_incident_also_if_noted_at_once(
    history: History,
) -> None:
    see(history, *(activity((n, n, 1), ahead=-100.0) for n in range(0, 50, 10)))
    see(history, activity((60, 60, 1), ahead=-100.0))

    (found,) = history.incidents(0.0)

    assert (found.cause, found.number) == (CLOCK_BEHIND, 6)
    assert (found.first_time, found.last_time) == (NOW, NOW + 60)


def test_an_outage_ends_or_is_of_somebody_who_started_anew(history: History) -> None:
    notes = Notes()
    away = Span("sink", "timeseries", "w1", NOW, None, NOW, "refused")
    notes.add_span(away)
    notes.add_span(away._replace(heard_at=NOW + 30))
    notes.add_span(away._replace(name="n8n"))
    history.write(notes)
    ended = Notes()
    ended.add_span(away._replace(name="n8n", ends_at=NOW + 5, heard_at=NOW + 5))
    history.write(ended)

    history.end_spans("another")
    found = {each.name: each.ends_at for each in history.spans(0.0)}
    assert found == {"timeseries": None, "n8n": NOW + 5}

    history.end_spans("w1")
    found = {each.name: each.ends_at for each in history.spans(0.0)}
    assert found == {"timeseries": NOW + 30, "n8n": NOW + 5}
    assert [each.name for each in history.spans(NOW + 10)] == ["timeseries"]


def test_counts_add_up_by_queue(history: History) -> None:
    for bucket in (NOW - 900, NOW, NOW):
        notes = Notes()
        notes.add_count(bucket, "sensors.temperature", Count(3, 1))
        notes.add_count(bucket, "sensors.temperature", Count(1, 0, 1))
        history.write(notes)

    assert history.counts(0.0) == {"sensors.temperature": Count(12, 3, 3)}
    assert history.counts(NOW) == {"sensors.temperature": Count(8, 2, 2)}


def test_text_that_no_database_takes_is_kept_readable(history: History) -> None:
    key = ("sensors.temperature." + "x" * 5000, "a\0b\ud800")
    notes = Notes([activity((0, 0, 1))._replace(routing_key=key[0], sensor_id=key[1])])
    notes.add_incident(Incident(*key, "Bad", NOW, NOW, 1, "nul \0", "half \ud800"))
    history.write(notes)

    assert [each.number for each in history.sensors()] == [1]
    assert [each.example for each in history.incidents(0.0)] == ["half ?"]


def test_what_is_old_or_too_much_is_forgotten(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = tuple((*each[:3], 3) for each in module.BOUNDS)
    monkeypatch.setattr(module, "BOUNDS", bounds)
    for day in range(0, 200, 10):
        at = NOW + day * 86_400.0
        notes = Notes()
        for number in range(3):
            incident = Incident(*KEY, f"c{number}", at + number, at + number, 1, "")
            notes.add_incident(incident)
        notes.add_span(Span("broker", "", "w1", at, at, at))
        history.write(notes)
        history.prune(at)

    assert len(history.incidents(0.0)) == 3
    assert len(history.spans(0.0)) == 3
