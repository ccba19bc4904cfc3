"""What a batch shows of its sensors, and the causes of dead letters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from meshtasks.flows.sensor_activity import cause_of, of_readings, refused
from meshtasks.records.envelope import Envelope
from meshtasks.rules.detection import Series
from meshtasks.rules.evaluation import Watched
from meshtasks.state.sensor_activity import Sensor, SensorActivity, Stretch, activity_of
from meshtasks.state.sensor_activity import seen as change_of
from meshtasks.worker.recording import Times, joined

NOW = 1_795_440_000.0
SERIES = Series("temperature", "temperature", "°C", "attic", "loft")


def envelope(published_at: float | None = None, header: str = "") -> Envelope:
    key = "sensors.temperature.attic"
    table: dict[str, object] = {header: "id"} if header else {}
    return Envelope(b"", "sensors", key, "q", None, published_at, NOW, table)


def seen(
    *samples: tuple[float, float], origin: Envelope | None = None
) -> SensorActivity:
    (values,) = of_readings([Watched(SERIES, (), [*samples], origin or envelope())])
    return activity_of(values)


def test_readings_close_to_each_other_are_one_stretch() -> None:
    found = seen((NOW - 1, 1.0), (NOW - 3, 2.0), (NOW - 2, 3.0))

    assert found[:6] == (
        *("sensors.temperature.attic", "attic", "temperature", "loft", "°C"),
        1.0,
    )
    assert found.stretches == ((NOW - 3, NOW - 1, 3),)


def test_a_pause_within_a_batch_cuts_it() -> None:
    minutes = [(NOW - 3600 + 60 * n, 1.0) for n in (0, 1, 2, 3, 30, 31, 32)]

    (first, second) = seen(*minutes).stretches

    assert (first.number, second.number) == (4, 3)
    assert second.first - first.last == 27 * 60


def test_the_same_time_twice_is_a_repetition_and_with_another_value_a_conflict() -> (
    None
):
    assert seen((NOW, 1.0), (NOW, 1.0)).repeated == 1
    assert seen((NOW, 1.0), (NOW, 2.0)).conflict == "1, then 2"


def test_a_clock_is_compared_with_the_moment_of_publishing() -> None:
    waited = envelope(NOW - 3600)

    assert seen((NOW - 3600, 1.0), origin=waited).ahead_seconds == 0
    assert seen((NOW, 1.0), origin=waited).ahead_seconds == 3600
    assert seen((NOW - 7200, 1.0)).ahead_seconds == -7200


def test_what_is_replayed_from_the_archive_has_no_clock_to_judge() -> None:
    old = envelope(header="x-mesh-archived")

    assert seen((NOW - 7200, 1.0), origin=old).ahead_seconds == 0


@pytest.mark.parametrize(
    ("error_type", "reason", "cause"),
    [
        ("UnknownUnit", 'unit "X" is not a temperature unit', "bad unit"),
        ("SchemaMismatch", 'value: expected a number, got the text "a"', "text value"),
        ("SchemaMismatch", "value: 101 % cannot be: it is too much", "out of limits"),
        ("SchemaMismatch", "sensor_id: is empty", "bad record"),
        ("UndecodableMessage", "the body is not JSON: x", "invalid JSON"),
        ("UndecodableMessage", "2 bytes (max_message_bytes)", "too large"),
        ("InvalidTimestamp", "timestamp 1 is before the year 2000", "clock behind"),
        ("InvalidTimestamp", "is 2.0 days after it was received", "clock ahead"),
        ("SinkRejected", "the time-series store answered 400", "refused by the store"),
        ("ZeroDivisionError", "division by zero", "given up"),
        ("", '#/unit: unit "X" is not a temperature unit', "bad unit"),
        ("", '#/value: expected a number, got the text "a"', "text value"),
        ("", "something else", "bad record"),
    ],
)
def test_a_dead_letter_has_a_cause(error_type: str, reason: str, cause: str) -> None:
    assert cause_of(error_type, reason) == cause


def test_a_refused_record_names_its_sensor_and_its_time() -> None:
    body = b'{"sensor_id": "s1", "timestamp": %d, "value": "a"}' % (NOW - 7200)

    found = refused("sensors.temperature.x", body, "UnknownUnit", "r", NOW, NOW)

    assert (found.sensor_id, found.first_time) == ("s1", NOW - 7200)
    assert found.ahead_low == -7200


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"[1]", b"{", b'{"timestamp": "never"}', b"1" * 100_000]
)
def test_any_body_can_be_refused(body: bytes) -> None:
    found = refused("sensors.temperature.attic", body, "UnknownUnit", "r", None, NOW)

    assert (found.sensor_id, found.first_time) == ("attic", None)
    assert len(found.example) <= 301


def one(at: float, value: float) -> SensorActivity:
    return seen((at, value))


def test_a_time_that_came_before_is_a_repetition_however_many_came_since() -> None:
    times = Times()
    first = [one(NOW + n, 20.0) for n in range(10)]
    assert [each.repeated for each in times.compared(first)] == [0] * 10

    (again, other) = times.compared([one(NOW + 3, 20.0), one(NOW + 4, 5.0)])

    assert (again.repeated, again.conflict) == (1, "")
    assert other.conflict == "20, then 5"


def test_times_of_which_only_the_ends_are_known_are_not_compared() -> None:
    times = Times()
    many = one(NOW, 1.0)._replace(stretches=(Stretch(NOW, NOW + 9, 10),))
    times.compared([many])

    assert [each.repeated for each in times.compared([many])] == [0]


def test_the_first_and_the_last_reading_of_a_batch_are_known_again() -> None:
    times = Times()
    times.compared([one(NOW, 1.0)._replace(stretches=(Stretch(NOW, NOW + 9, 2),))])

    again = times.compared([one(NOW, 1.0), one(NOW + 9, 7.0), one(NOW + 5, 1.0)])

    assert [each.repeated for each in again] == [1, 1, 0]
    assert again[1].conflict == "1, then 7"


def plain(first: float, last: float, number: int) -> SensorActivity:
    on_time = one(NOW, float(number))
    return on_time._replace(stretches=(Stretch(first, last, number),))


def known_after(activities: Iterable[SensorActivity]) -> tuple[object, ...]:
    known: Sensor | None = None
    changes = []
    for each in activities:
        changes.append(change_of(known, each))
        known = changes[-1].sensor
    gaps = [gap for change in changes for gap in change.gaps]
    late = [each for change in changes for each in change.late]
    incidents = [each for change in changes for each in change.incidents]
    return known, gaps, late, incidents


def test_what_batches_had_one_after_the_other_is_one_activity() -> None:
    batches = [plain(NOW + n, NOW + n + 9, 10) for n in (0, 10, 20, 500)]

    (joined_one,) = joined(batches)

    assert len(joined_one.stretches) == 4
    assert known_after([joined_one]) == known_after(batches)


@pytest.mark.parametrize(
    "odd",
    [
        plain(NOW - 5, NOW + 5, 3),
        plain(NOW + 9, NOW + 12, 3),
        plain(NOW + 10, NOW + 19, 3)._replace(repeated=1),
        plain(NOW + 10, NOW + 19, 3)._replace(location="cellar"),
        plain(NOW + 10, NOW + 19, 3)._replace(ahead_low=-70, ahead_high=-61),
        plain(NOW + 10, NOW + 19, 3)._replace(stretches=()),
    ],
    ids=["late", "again", "repeated", "moved", "its clock is wrong", "known already"],
)
def test_what_is_odd_is_not_joined_to_what_came_before(odd: SensorActivity) -> None:
    batches = [plain(NOW, NOW + 9, 10), odd, plain(NOW + 30, NOW + 39, 10)]

    found = joined(batches)

    assert found[0] == batches[0]
    assert known_after(found) == known_after(batches)
