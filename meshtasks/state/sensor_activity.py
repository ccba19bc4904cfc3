"""What the mesh notes of its sensors, and of what their readings need; plain data, and
what new readings change of what is known. Times are epoch seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: A reading whose time and whose message's differ by more has a clock that is wrong, or
#: was held back.
CLOCK_TOLERANCE_SECONDS = 60.0
#: A shorter silence is no gap.
SHORTEST_GAP_SECONDS = 10.0
#: Of a sensor whose usual pause is not known yet.
_UNKNOWN_PAUSE_GAP_SECONDS = 900.0
#: A silence of so many times the usual pause is a gap; of an irregular sensor, also so
#: many times what its pauses differ by.
_PAUSES, _SPREADS = 3.0, 6.0
#: Weight of the latest pause among all.
_WEIGHT = 0.2
#: Two locations of one sensor within so long are two sensors.
_MOVING_SECONDS = 600.0


#: Kinds of what a device says of its battery. It says so when it likes: no pause is a
#: gap.
BATTERY, BATTERY_LOW = "battery", "battery_low"
BATTERIES = frozenset({BATTERY, BATTERY_LOW})
#: A level is from 0 to this.
FULL_PERCENT = 100


class Stretch(NamedTuple):
    """Readings without a gap between them: the times of the first and the last, and how
    many there are."""

    first: float
    last: float
    number: int


class SensorActivity(NamedTuple):
    """What a batch had of one sensor, or of one routing key.

    Attributes:
        routing_key: of the messages.
        sensor_id: empty for records that are no readings.
        kind: of the readings.
        location: empty when not known.
        unit: of ``value``.
        value: the latest; None of what has none.
        stretches: in order of time; none of records that were known already.
        received_at: by the worker.
        ahead_low: how far the times of readings are ahead of their message, negative
            if behind; the smallest.
        ahead_high: the largest.
        repeated: readings that have the time of another one.
        conflict: two values of one time, if there are.
    """

    routing_key: str
    sensor_id: str
    kind: str
    location: str
    unit: str
    value: float | None
    stretches: tuple[Stretch, ...]
    received_at: float
    ahead_low: float = 0.0
    ahead_high: float = 0.0
    repeated: int = 0
    conflict: str = ""

    @property
    def ahead_seconds(self) -> float:
        """The one of the two that is nearer to none."""
        return min(self.ahead_low, self.ahead_high, key=abs)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is odd about it."""
        limit = CLOCK_TOLERANCE_SECONDS
        is_on_time = -limit <= self.ahead_low and self.ahead_high <= limit
        return is_on_time and not self.repeated


#: A activity as it goes from one process to another: its values in plain tuples, which
#: take a third of the time of named ones.
Seen = tuple[Any, ...]


def activity_of(values: Seen) -> SensorActivity:
    """The activity that these are the values of."""
    stretches = tuple(map(Stretch._make, values[6]))
    return SensorActivity._make((*values[:6], stretches, *values[7:]))


class Sensor(NamedTuple):
    """What is known of a sensor, or of a routing key.

    Attributes:
        time: of the latest reading.
        first_at: when the first one was received.
        received_at: when the latest one was received.
        number: of readings.
        usual_seconds: the usual pause between two; 0 while not known.
        spread_seconds: what pauses differ by.
        ahead_seconds: see :class:`SensorActivity`; of the latest.
    """

    routing_key: str
    sensor_id: str
    kind: str
    location: str
    unit: str
    value: float | None
    time: float
    first_at: float
    received_at: float
    number: int
    usual_seconds: float
    spread_seconds: float
    ahead_seconds: float

    @property
    def gap_seconds(self) -> float:
        """A longer silence is a gap."""
        return _gap_seconds(self.kind, self.usual_seconds, self.spread_seconds)


def _gap_seconds(kind: str, usual_seconds: float, spread_seconds: float) -> float:
    if kind in BATTERIES:
        return math.inf
    if not usual_seconds:
        return _UNKNOWN_PAUSE_GAP_SECONDS
    irregular = usual_seconds + _SPREADS * spread_seconds
    return max(SHORTEST_GAP_SECONDS, _PAUSES * usual_seconds, irregular)


class Gap(NamedTuple):
    """From the last reading before a silence to the first one after it."""

    routing_key: str
    sensor_id: str
    begins_at: float
    ends_at: float


class Incident(NamedTuple):
    """Something that was wrong with readings of a sensor, while it went on.

    Attributes:
        cause: one of the words below.
        begins_at: when the first was received.
        ends_at: when the last was received.
        number: of readings.
        reason: of the last; empty if no dead letter was made of it.
        example: the last, shortened.
        ahead_low: see :class:`SensorActivity`.
        ahead_high: likewise.
        first_time: of the readings, by their own timestamps where they have any.
        last_time: likewise.
    """

    routing_key: str
    sensor_id: str
    cause: str
    begins_at: float
    ends_at: float
    number: int
    reason: str
    example: str = ""
    ahead_low: float = 0.0
    ahead_high: float = 0.0
    first_time: float | None = None
    last_time: float | None = None

    def joined(self, later: Incident) -> Incident:
        """With what came later of the same."""
        firsts = [at for at in (self.first_time, later.first_time) if at is not None]
        lasts = [at for at in (self.last_time, later.last_time) if at is not None]
        return later._replace(
            begins_at=min(self.begins_at, later.begins_at),
            ends_at=max(self.ends_at, later.ends_at),
            number=self.number + later.number,
            ahead_low=min(self.ahead_low, later.ahead_low),
            ahead_high=max(self.ahead_high, later.ahead_high),
            first_time=min(firsts, default=None),
            last_time=max(lasts, default=None),
        )


#: Causes of incidents; the last two make no dead letter, and the clocks' only if they
#: are too far from the time.
BAD_UNIT, TEXT_VALUE, OUT_OF_LIMITS = "bad unit", "text value", "out of limits"
INVALID_JSON, TOO_LARGE, BAD_RECORD = "invalid JSON", "too large", "bad record"
REFUSED_BY_STORE, GIVEN_UP = "refused by the store", "given up"
CLOCK_AHEAD, CLOCK_BEHIND = "clock ahead", "clock behind"
REPEATED, DUPLICATE_ID = "duplicate", "duplicate id"


class Span(NamedTuple):
    """From when to when something was so.

    Attributes:
        kind: ``sink`` away, ``broker`` away, or ``worker`` running.
        name: of the sink; of the worker; what it consumes comes as ``reason``.
        seen_by: who noticed it.
        begins_at: the beginning.
        ends_at: the end; None while it goes on.
        heard_at: when ``seen_by`` last said so.
        reason: why.
    """

    kind: str
    name: str
    seen_by: str
    begins_at: float
    ends_at: float | None
    heard_at: float
    reason: str = ""


#: Counts are kept by so many seconds: every time zone's midnight is the end of one.
_BUCKET_SECONDS = 900.0


def bucket_of(at: float) -> float:
    """When the bucket of counts began that a moment is in."""
    return at // _BUCKET_SECONDS * _BUCKET_SECONDS


class Count(NamedTuple):
    """What became of records of a queue.

    Attributes:
        done: their effect is durable.
        dead: dead letters.
        aside: those of ``done`` whose points were put into ``pending.timeseries``.
    """

    done: int = 0
    dead: int = 0
    aside: int = 0

    def plus(self, other: Count) -> Count:
        """The sum."""
        return Count(*(mine + more for mine, more in zip(self, other, strict=True)))


@dataclass
class Notes:
    """What is to be remembered."""

    activities: list[SensorActivity] = field(default_factory=list)
    incidents: dict[tuple[str, str, str], Incident] = field(default_factory=dict)
    spans: dict[tuple[str, str, str, float], Span] = field(default_factory=dict)
    counts: dict[tuple[float, str], Count] = field(default_factory=dict)

    def add_incident(self, incident: Incident) -> None:
        """Join it to what is noted of the same."""
        key = incident[:3]
        known = self.incidents.get(key)
        self.incidents[key] = incident if known is None else known.joined(incident)

    def add_span(self, span: Span) -> None:
        """Note it, in the place of what was noted of it before."""
        self.spans[span[:4]] = span

    def add_count(self, bucket: float, queue: str, count: Count) -> None:
        """Count more."""
        known = self.counts.get((bucket, queue), Count())
        self.counts[bucket, queue] = known.plus(count)

    def __bool__(self) -> bool:
        return bool(self.activities or self.incidents or self.spans or self.counts)


class Change(NamedTuple):
    """What a activity changes.

    Attributes:
        sensor: afterwards.
        gaps: that are new.
        late: stretches that lie before what was known, and may fill gaps.
        incidents: that it shows.
    """

    sensor: Sensor
    gaps: list[Gap]
    late: list[Stretch]
    incidents: list[Incident]


def seen(known: Sensor | None, activity: SensorActivity) -> Change:
    """What is known of a sensor after a activity of it."""
    stretches = list(activity.stretches)
    if activity.ahead_seconds > CLOCK_TOLERANCE_SECONDS:
        stretches = []  # what is ahead of the clock must not hide what comes until then
    at = known.time if known else 0.0
    usual = known.usual_seconds if known else 0.0
    spread = known.spread_seconds if known else 0.0
    gaps: list[Gap] = []
    late: list[Stretch] = []
    for stretch in stretches:
        first, last, count = stretch
        pause = first - at
        if known and pause < 0:
            late.append(stretch)
            at = max(at, last)
            continue
        if count > 1 and last > first:
            within = (last - first) / (count - 1)
            usual, spread = _usual(usual, spread, within, count - 1)
        if at and pause > 0:
            if pause > _gap_seconds(activity.kind, usual, spread):
                gaps.append(Gap(*activity[:2], at, first))
            else:
                usual, spread = _usual(usual, spread, pause, 1)
        at = last
    return Change(
        _sensor(known, activity, at, usual, spread),
        gaps,
        late,
        list(incidents_of(known, activity)),
    )


def _sensor(
    known: Sensor | None,
    activity: SensorActivity,
    at: float,
    usual: float,
    spread: float,
) -> Sensor:
    received_at = activity.received_at
    return Sensor(
        *activity[:5],
        value=activity.value,
        time=at,
        first_at=known.first_at if known else received_at,
        received_at=max(received_at, known.received_at if known else 0.0),
        number=(known.number if known else 0)
        + sum(each.number for each in activity.stretches),
        usual_seconds=usual,
        spread_seconds=spread,
        ahead_seconds=activity.ahead_seconds,
    )


def _usual(
    usual: float, spread: float, pause: float, times: int
) -> tuple[float, float]:
    """The usual pause, and what pauses differ by, after as many more of a length."""
    if not usual:
        return pause, 0.0
    weight = 1 - (1 - _WEIGHT) ** min(times, 20)
    spread += weight * (abs(pause - usual) - spread)
    return usual + weight * (pause - usual), spread


def incidents_of(known: Sensor | None, activity: SensorActivity) -> Iterable[Incident]:
    """What a activity shows to be wrong, or odd."""
    now = activity.received_at
    ahead = activity.ahead_seconds
    aheads = activity.ahead_low, activity.ahead_high
    count = sum(each.number for each in activity.stretches)
    times = [at for each in activity.stretches for at in (each.first, each.last)]
    key = activity[:2]
    first, last = min(times, default=None), max(times, default=None)

    def incident(cause: str, number: int, reason: str) -> Incident:
        ends = first, last
        return Incident(*key, cause, now, now, number, reason, "", *aheads, *ends)

    if abs(ahead) > CLOCK_TOLERANCE_SECONDS and times:
        yield incident(CLOCK_AHEAD if ahead > 0 else CLOCK_BEHIND, count, "")
    repeated, conflict = activity.repeated, activity.conflict
    if known and times and times[0] == known.time and not repeated:
        repeated = 1  # after a worker has begun anew, say
        if count == 1 and activity.value != known.value:
            conflict = f"{known.value:g}, then {activity.value:g}"
    if conflict:
        yield incident(DUPLICATE_ID, max(repeated, 1), f"one time has {conflict}")
    elif repeated:
        yield incident(REPEATED, repeated, "")
    if (
        known
        and activity.location
        and known.location not in {"", activity.location}
        and now - known.received_at < _MOVING_SECONDS
    ):
        places = sorted((known.location, activity.location))
        yield incident(DUPLICATE_ID, count, f"they come from {' and '.join(places)}")
