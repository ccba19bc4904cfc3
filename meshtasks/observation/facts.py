"""Find the contents of a report in the dataset and the archive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from meshtasks.flows.analytics.layout import archive_name
from meshtasks.flows.archive.objects import ObjectStore, archived_objects
from meshtasks.records.alert import Alert, Severity
from meshtasks.records.timestamps import utc_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Names of the views that :func:`facts_of` needs.
VIEWS = "readings, events"

#: Intervals that a point of a curve may stand for, in seconds. The smallest is used
#: with which the curve has at most this many points.
_SPANS = (1, 5, 15, 60, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_POINTS = 170
#: A pause longer than this multiple of the median pause leaves a gap in the curve.
_GAP_FACTOR = 3.0

#: Shortest period of a report.
_SHORTEST = timedelta(minutes=2)

_FIRST_KINDS = ("temperature", "humidity")


@dataclass(frozen=True, slots=True)
class Period:
    """The time that a report covers.

    Attributes:
        start: its beginning, in the report's time zone.
        end: when the report was made.
    """

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """The duration, in seconds."""
        return (self.end - self.start).total_seconds()

    def share(self, moment: datetime) -> float:
        """The position of a moment in the period: 0 at the start, 1 at the end. A
        moment outside gets the nearer end."""
        share = (moment - self.start).total_seconds() / self.seconds
        return min(max(share, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """One kind of reading in one room; each point stands for an interval.

    Attributes:
        kind: such as ``temperature``.
        unit: unit of all values.
        times: the middles of the intervals, ascending.
        means: mean of the readings of each interval; None is a gap.
        lows: smallest reading of each interval.
        highs: largest reading of each interval.
    """

    kind: str
    unit: str
    times: tuple[datetime, ...]
    means: tuple[float | None, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """One kind of reading in one room on one day.

    Attributes:
        kind: such as ``temperature``.
        unit: unit of the values.
        day: the date in the report's time zone.
        low: smallest reading.
        mean: mean of all readings.
        high: largest reading.
    """

    kind: str
    unit: str
    day: date
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Room:
    """A room: a location, or the id of a sensor without one.

    Attributes:
        name: the location or the id, as published.
        curves: one for each kind.
        days: days of each kind.
    """

    name: str
    curves: tuple[Curve, ...]
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """One time that an alert was active.

    Attributes:
        start: when it began.
        end: when it ended; None while the alert is active.
        message: the last message published.
    """

    start: datetime
    end: datetime | None
    message: str


@dataclass(frozen=True, slots=True)
class AlertHistory:
    """The episodes of one alert in the period."""

    title: str
    severity: Severity
    episodes: tuple[Episode, ...]

    @property
    def goes_on(self) -> bool:
        """Whether the alert is active."""
        return self.episodes[-1].end is None

    @property
    def latest_start(self) -> datetime:
        """When the last episode began."""
        return self.episodes[-1].start


@dataclass(frozen=True, slots=True)
class ArchiveShare:
    """The part of the archive that belongs to one domain."""

    domain: str
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The size of the archive and its growth.

    Attributes:
        bytes_by_day: bytes of each UTC date of the period.
        shares: all objects by domain, largest first.
    """

    bytes_by_day: dict[date, int]
    shares: tuple[ArchiveShare, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all objects."""
        return sum(share.size_bytes for share in self.shares)


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """The contents of a report."""

    period: Period
    readings: int
    rooms: tuple[Room, ...]
    alerts: tuple[AlertHistory, ...]
    archive: Archive


def facts_of(
    database: DuckDBPyConnection, store: ObjectStore, days: int, now: datetime
) -> ReportFacts:
    """Find the contents of a report.

    Args:
        database: a connection with the :data:`VIEWS`.
        store: the archive.
        days: length of the period.
        now: end of the period.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    period = _period_of(database, days, now)
    query = "SELECT count(*) FROM readings WHERE time BETWEEN $1 AND $2"
    ((readings,),) = _rows_of(database, query, period)
    return ReportFacts(
        period,
        readings,
        _rooms_of(database, period),
        _alerts_of(database, period),
        _archive_of(store, period),
    )


def rooms_of(database: DuckDBPyConnection, now: datetime) -> tuple[Room, ...]:
    """The rooms of the last 24 hours with their curves and days.

    Args:
        database: a connection with the :data:`VIEWS`.
        now: end of the period.
    """
    return _rooms_of(database, _period_of(database, 1, now))


def _period_of(database: DuckDBPyConnection, days: int, now: datetime) -> Period:
    """The last ``days`` days up to now, in the database's time zone. If the mesh is
    younger, the period begins with its first record."""
    (row,) = database.sql("SELECT current_setting('TimeZone')").fetchall()
    end = now.astimezone(ZoneInfo(row[0]))
    wanted = Period(end - timedelta(days=days), end)
    (first,) = _rows_of(
        database,
        "SELECT epoch(min(time)) FROM (SELECT time FROM readings UNION ALL "
        "SELECT time FROM events) WHERE time BETWEEN $1 AND $2",
        wanted,
    )
    if first[0] is None:
        return wanted
    born = datetime.fromtimestamp(first[0], end.tzinfo)
    return Period(min(max(wanted.start, born), end - _SHORTEST), end)


def _rooms_of(database: DuckDBPyConnection, period: Period) -> tuple[Room, ...]:
    """Curves and days of every room, by name."""
    zone = period.end.tzinfo
    span = next(s for s in (*_SPANS, 10 * _SPANS[-1]) if period.seconds / s <= _POINTS)
    middle_of_span = "floor(epoch(time) / $3) * $3 + $3 / 2"
    points = _by_room_and_kind(database, middle_of_span, period, span)
    days = _by_room_and_kind(database, "time::DATE", period)
    return tuple(
        Room(
            name,
            tuple(_curve(kind, points[name][kind], span, zone) for kind in kinds),
            tuple(
                Day(kind, unit, day, low, mean, high)
                for kind in kinds
                for unit, day, mean, low, high in days[name][kind]
            ),
        )
        for name in points
        if (kinds := sorted(points[name], key=_kind_order))
    )


def _alerts_of(
    database: DuckDBPyConnection, period: Period
) -> tuple[AlertHistory, ...]:
    """Every alert of the period: active ones first, then by their latest start."""
    rows = _rows_of(
        database,
        "SELECT epoch(time), record FROM events WHERE domain = 'alerts' "
        "AND time BETWEEN $1 AND $2 ORDER BY time",
        period,
    )
    news: dict[str, list[tuple[datetime, Alert]]] = defaultdict(list)
    for seconds, record in rows:
        try:
            alert = Alert.model_validate_json(record)
        except ValidationError:  # any client may publish here; the archive has it
            continue
        moment = utc_of(seconds).astimezone(period.end.tzinfo)
        news[alert.fingerprint].append((moment, alert))
    histories = (_history(of_one, period) for of_one in news.values())
    order = attrgetter("goes_on", "latest_start")
    return tuple(sorted(histories, key=order, reverse=True))


def _archive_of(store: ObjectStore, period: Period) -> Archive:
    days = Counter[date]()
    sizes, counts = Counter[str](), Counter[str]()
    first, last = period.start.astimezone(UTC).date(), period.end.astimezone(UTC).date()
    for info in archived_objects(store):
        if found := archive_name(info.name):
            counts[found.domain] += 1
            sizes[found.domain] += info.size_bytes
            days[found.day] += info.size_bytes
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return Archive(
        {day: days[day] for day in every},
        tuple(ArchiveShare(d, counts[d], size) for d, size in sizes.most_common()),
    )


def _rows_of(
    database: DuckDBPyConnection, query: str, period: Period, *more: float
) -> list[tuple[Any, ...]]:
    return database.execute(query, [period.start, period.end, *more]).fetchall()


def _by_room_and_kind(
    database: DuckDBPyConnection, part: str, period: Period, *more: float
) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    """Unit, part, mean, smallest and largest value of each part of the period, by room
    and kind.

    Args:
        part: SQL expression that identifies the part of a row.
    """
    rows = _rows_of(
        database,
        "SELECT coalesce(location, sensor_id) AS room, kind, "  # noqa: S608 - ours
        f"coalesce(any_value(unit), '') AS unit, {part} AS part, "
        "avg(value), min(value), max(value) FROM readings "
        "WHERE time BETWEEN $1 AND $2 GROUP BY room, kind, part "
        "ORDER BY room, kind, part",
        period,
        *more,
    )
    return {
        room: {
            kind: [row[2:] for row in of_kind]
            for kind, of_kind in groupby(of_room, key=lambda row: row[1])
        }
        for room, of_room in groupby(rows, key=lambda row: row[0])
    }


def _kind_order(kind: str) -> tuple[int, str]:
    first = kind in _FIRST_KINDS
    return (_FIRST_KINDS.index(kind) if first else len(_FIRST_KINDS), kind)


def _curve(kind: str, rows: Sequence[tuple[Any, ...]], span: int, zone: Any) -> Curve:
    points = list(_with_gaps([row[1:] for row in rows], span))
    times, means, lows, highs = zip(*points, strict=True)
    return Curve(
        kind,
        rows[0][0],
        tuple(utc_of(seconds).astimezone(zone) for seconds in times),
        means,
        lows,
        highs,
    )


def _with_gaps(
    points: Sequence[tuple[float, ...]], span: int
) -> Iterator[tuple[float, float | None, float | None, float | None]]:
    """The points (time, mean, low, high), with a point of None in each long pause."""
    pauses = [after[0] - before[0] for before, after in pairwise(points)]
    longest = _GAP_FACTOR * median(pauses or [span])
    last: float | None = None
    for seconds, mean, low, high in points:
        if last is not None and seconds - last > longest:
            yield (last + seconds) / 2, None, None, None
        yield seconds, mean, low, high
        last = seconds


def _history(news: Sequence[tuple[datetime, Alert]], period: Period) -> AlertHistory:
    """The episodes of one alert, from its messages in order of time."""
    episodes: list[Episode] = []
    start: datetime | None = None
    for moment, alert in news:
        began = alert.starts_at or moment
        start = start or utc_of(began.timestamp()).astimezone(period.end.tzinfo)
        if alert.resolved:
            episodes.append(Episode(start, moment, alert.message))
            start = None
    last = news[-1][1]
    if start is not None:
        episodes.append(Episode(start, None, last.message))
    return AlertHistory(last.title, last.severity, tuple(episodes))
