"""Activity of sensors, gaps, incidents and outages, as plain data; and how new readings
change them. Times are epoch seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: If the time of a reading and of its message differ by more, the clock of the sensor
#: is wrong, or the reading was delayed.
CLOCK_TOLERANCE_SECONDS = 60.0
#: A shorter interval is never a gap.
SHORTEST_GAP_SECONDS = 10.0
#: A longer interval is a gap while the usual interval of the sensor is unknown.
_UNKNOWN_PAUSE_GAP_SECONDS = 900.0
#: An interval is a gap if it is longer than this multiple of the usual interval, and
#: longer than the usual interval plus this multiple of the spread.
_PAUSES, _SPREADS = 3.0, 6.0
#: Weight of the latest interval in the averages.
_WEIGHT = 0.2
#: If a sensor has two locations within this time, two devices use its id.
_MOVING_SECONDS = 600.0


#: Kinds of battery reports. Devices send them irregularly, so they have no gaps.
BATTERY, BATTERY_LOW = "battery", "battery_low"
BATTERIES = frozenset({BATTERY, BATTERY_LOW})
#: Greatest level of a battery; the smallest is 0.
FULL_PERCENT = 100


class Stretch(NamedTuple):
    """Readings without a gap between them.

    Attributes:
        first: time of the first reading.
        last: time of the last reading.
        number: number of readings.
    """

    first: float
    last: float
    number: int


class SensorActivity(NamedTuple):
    """The readings of one sensor in a batch, or the records of one routing key.

    Attributes:
        routing_key: routing key of the messages.
        sensor_id: id of the sensor; empty for records that are not readings.
        kind: kind of the readings.
        location: location of the sensor; empty if unknown.
        unit: unit of ``value``.
        value: latest value; None for records without a value.
        stretches: times of the readings, in order; empty if all were known already.
        received_at: time of receipt by the worker.
        ahead_low: smallest difference between the time of a reading and of its message,
            in seconds; negative for readings in the past.
        ahead_high: largest such difference.
        repeated: number of readings with the time of another one.
        conflict: text with two different values of one time; empty if there are none.
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
        """The value of ``ahead_low`` and ``ahead_high`` that is closer to 0."""
        return min(self.ahead_low, self.ahead_high, key=abs)

    @property
    def is_plain(self) -> bool:
        """Whether the clock is right and no reading is repeated."""
        limit = CLOCK_TOLERANCE_SECONDS
        is_on_time = -limit <= self.ahead_low and self.ahead_high <= limit
        return is_on_time and not self.repeated


#: The values of an activity as plain tuples, for transfer between processes. Encoding
#: them takes a third of the time of named tuples.
Seen = tuple[Any, ...]


def activity_of(values: Seen) -> SensorActivity:
    """Make an activity of its values."""
    stretches = tuple(map(Stretch._make, values[6]))
    return SensorActivity._make((*values[:6], stretches, *values[7:]))


class Sensor(NamedTuple):
    """A sensor, or a routing key of records that are not readings.

    Attributes:
        routing_key: routing key of the messages.
        sensor_id: id of the sensor; empty for records that are not readings.
        kind: kind of the readings.
        location: location of the sensor; empty if unknown.
        unit: unit of ``value``.
        value: latest value; None for records without a value.
        time: time of the latest reading.
        first_at: time of receipt of the first reading.
        received_at: time of receipt of the latest reading.
        number: number of readings.
        usual_seconds: usual interval between two readings; 0 while unknown.
        spread_seconds: average deviation of intervals from the usual one.
        ahead_seconds: that of the latest :class:`SensorActivity`.
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
        """A longer interval between two readings is a gap."""
        return _gap_seconds(self.kind, self.usual_seconds, self.spread_seconds)


def _gap_seconds(kind: str, usual_seconds: float, spread_seconds: float) -> float:
    if kind in BATTERIES:
        return math.inf
    if not usual_seconds:
        return _UNKNOWN_PAUSE_GAP_SECONDS
    irregular = usual_seconds + _SPREADS * spread_seconds
    return max(SHORTEST_GAP_SECONDS, _PAUSES * usual_seconds, irregular)


class Gap(NamedTuple):
    """An interval between two readings that is longer than usual.

    Attributes:
        routing_key: routing key of the sensor.
        sensor_id: id of the sensor.
        begins_at: time of the last reading before the gap.
        ends_at: time of the first reading after the gap.
    """

    routing_key: str
    sensor_id: str
    begins_at: float
    ends_at: float


class Incident(NamedTuple):
    """A fault of readings of a sensor, over some time.

    Attributes:
        routing_key: routing key of the readings.
        sensor_id: id of the sensor.
        cause: one of the constants below.
        begins_at: time of receipt of the first faulty reading.
        ends_at: time of receipt of the last faulty reading.
        number: number of faulty readings.
        reason: reason of the last dead letter; empty if there was none.
        example: the last faulty reading, shortened.
        ahead_low: see :class:`SensorActivity`.
        ahead_high: see :class:`SensorActivity`.
        first_time: earliest timestamp of the readings; None if they have none.
        last_time: latest timestamp of the readings; None if they have none.
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
        """This incident merged with a later one of the same cause."""
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


#: Causes of incidents. The last two make no dead letters; wrong clocks do only if the
#: time is too far in the past or future.
BAD_UNIT, TEXT_VALUE, OUT_OF_LIMITS = "bad unit", "text value", "out of limits"
INVALID_JSON, TOO_LARGE, BAD_RECORD = "invalid JSON", "too large", "bad record"
REFUSED_BY_STORE, GIVEN_UP = "refused by the store", "given up"
CLOCK_AHEAD, CLOCK_BEHIND = "clock ahead", "clock behind"
REPEATED, DUPLICATE_ID = "duplicate", "duplicate id"


class Span(NamedTuple):
    """A time during which a sink or the broker was unavailable, or a worker running.

    Attributes:
        kind: ``sink`` or ``broker`` (unavailable), or ``worker`` (running).
        name: name of the sink or the worker.
        seen_by: name of the worker or gateway that reports it.
        begins_at: the beginning.
        ends_at: the end; None while it lasts.
        heard_at: time of the last report.
        reason: why it is unavailable; for a worker, the queues that it consumes.
    """

    kind: str
    name: str
    seen_by: str
    begins_at: float
    ends_at: float | None
    heard_at: float
    reason: str = ""


#: Length of a bucket of counts. A quarter of an hour ends at midnight in every time
#: zone.
_BUCKET_SECONDS = 900.0


def bucket_of(at: float) -> float:
    """The beginning of the bucket of counts that contains a time."""
    return at // _BUCKET_SECONDS * _BUCKET_SECONDS


class Count(NamedTuple):
    """Outcomes of records of a queue.

    Attributes:
        done: number of records whose effect is durable.
        dead: number of dead letters.
        aside: records of ``done`` whose points were put into ``pending.timeseries``.
    """

    done: int = 0
    dead: int = 0
    aside: int = 0

    def plus(self, other: Count) -> Count:
        """The sum of both."""
        return Count(*(mine + more for mine, more in zip(self, other, strict=True)))


@dataclass
class Notes:
    """Data to be stored in the history.

    Attributes:
        activities: activities of sensors, in order of receipt.
        incidents: incidents by routing key, sensor id and cause.
        spans: spans by kind, name, reporter and beginning.
        counts: counts by bucket and queue.
    """

    activities: list[SensorActivity] = field(default_factory=list)
    incidents: dict[tuple[str, str, str], Incident] = field(default_factory=dict)
    spans: dict[tuple[str, str, str, float], Span] = field(default_factory=dict)
    counts: dict[tuple[float, str], Count] = field(default_factory=dict)

    def add_incident(self, incident: Incident) -> None:
        """Add an incident, merged with an earlier one of the same sensor and cause."""
        key = incident[:3]
        known = self.incidents.get(key)
        self.incidents[key] = incident if known is None else known.joined(incident)

    def add_span(self, span: Span) -> None:
        """Add a span; it replaces an earlier version of it."""
        self.spans[span[:4]] = span

    def add_count(self, bucket: float, queue: str, count: Count) -> None:
        """Add to the count of a queue."""
        known = self.counts.get((bucket, queue), Count())
        self.counts[bucket, queue] = known.plus(count)

    def __bool__(self) -> bool:
        return bool(self.activities or self.incidents or self.spans or self.counts)


class Change(NamedTuple):
    """The changes that result from an activity.

    Attributes:
        sensor: the sensor afterwards.
        gaps: new gaps.
        late: readings before the latest known one, which may fill gaps.
        incidents: incidents that the activity shows.
    """

    sensor: Sensor
    gaps: list[Gap]
    late: list[Stretch]
    incidents: list[Incident]


def seen(known: Sensor | None, activity: SensorActivity) -> Change:
    """The changes that result from an activity of a sensor.

    Args:
        known: the sensor before; None if it is new.
        activity: the activity.
    """
    stretches = list(activity.stretches)
    if activity.ahead_seconds > CLOCK_TOLERANCE_SECONDS:
        stretches = []  # times in the future would make the next readings late
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
    """Update usual interval and spread by ``times`` intervals of ``pause`` seconds."""
    if not usual:
        return pause, 0.0
    weight = 1 - (1 - _WEIGHT) ** min(times, 20)
    spread += weight * (abs(pause - usual) - spread)
    return usual + weight * (pause - usual), spread


def incidents_of(known: Sensor | None, activity: SensorActivity) -> Iterable[Incident]:
    """Yield the faults that an activity shows: wrong clock, duplicates."""
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
        repeated = 1  # for example after a restart of the worker
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
