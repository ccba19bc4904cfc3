"""Gathers what a report tells from the dataset and the archive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from meshtasks.cli.reporting.facts import (
    AlertHistory,
    Archive,
    ArchiveShare,
    Curve,
    Day,
    Period,
    Room,
    Spell,
)
from meshtasks.flows.analytics.layout import archive_name
from meshtasks.flows.archive.objects import ObjectStore, archived_objects
from meshtasks.records.alert import Alert
from meshtasks.records.timestamps import utc_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Names the views that :func:`readings_in`, :func:`rooms_of` and :func:`alerts_of`
#: need.
VIEWS = "readings, events"

#: Spans that a point of a curve may stand for, seconds; the smallest that gives at
#: most so many points.
_SPANS = (1, 5, 15, 60, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_POINTS = 170
#: A sensor that is silent for so many times its usual pause leaves a gap.
_GAP_FACTOR = 3.0

#: Shortest period that a report is about.
_SHORTEST = timedelta(minutes=2)

_FIRST_KINDS = ("temperature", "humidity")


def period_of(database: DuckDBPyConnection, days: int, now: datetime) -> Period:
    """The last so many days up to now, in the database's time zone; of a mesh that
    is younger, its life."""
    (row,) = database.sql("SELECT current_setting('TimeZone')").fetchall()
    end = now.astimezone(ZoneInfo(row[0]))
    asked = Period(end - timedelta(days=days), end)
    (first,) = _ask(
        database,
        "SELECT epoch(min(time)) FROM (SELECT time FROM readings UNION ALL "
        "SELECT time FROM events) WHERE time BETWEEN $1 AND $2",
        asked,
    )
    if first[0] is None:
        return asked
    born = datetime.fromtimestamp(first[0], end.tzinfo)
    return Period(min(max(asked.start, born), end - _SHORTEST), end)


def readings_in(database: DuckDBPyConnection, period: Period) -> int:
    """How many readings there are."""
    query = "SELECT count(*) FROM readings WHERE time BETWEEN $1 AND $2"
    (row,) = _ask(database, query, period)
    return int(row[0])


def rooms_of(database: DuckDBPyConnection, period: Period) -> tuple[Room, ...]:
    """Every room's curves and days, rooms by name."""
    zone = period.end.tzinfo
    span = next(s for s in (*_SPANS, 10 * _SPANS[-1]) if period.seconds / s <= _POINTS)
    points = _by_room_and_kind(
        _ask(
            database,
            "SELECT coalesce(location, sensor_id) AS room, kind, "
            "coalesce(any_value(unit), '') AS unit, "
            "floor(epoch(time) / $3) * $3 + $3 / 2 AS bucket, "
            "avg(value), min(value), max(value) FROM readings "
            "WHERE time BETWEEN $1 AND $2 "
            "GROUP BY room, kind, bucket ORDER BY room, kind, bucket",
            period,
            span,
        )
    )
    days = _by_room_and_kind(
        _ask(
            database,
            "SELECT coalesce(location, sensor_id) AS room, kind, "
            "coalesce(any_value(unit), '') AS unit, time::DATE AS day, "
            "min(value), avg(value), max(value) FROM readings "
            "WHERE time BETWEEN $1 AND $2 GROUP BY room, kind, day "
            "ORDER BY room, kind, day",
            period,
        )
    )
    return tuple(
        Room(
            name,
            tuple(_curve(kind, points[name][kind], span, zone) for kind in kinds),
            tuple(
                Day(kind, unit, day, low, mean, high)
                for kind in kinds
                for unit, day, low, mean, high in days[name][kind]
            ),
        )
        for name in points
        if (kinds := sorted(points[name], key=_kind_order))
    )


def alerts_of(database: DuckDBPyConnection, period: Period) -> tuple[AlertHistory, ...]:
    """Every alert of the period, those that go on and the latest first."""
    rows = _ask(
        database,
        "SELECT epoch(time), record FROM events WHERE domain = 'alerts' "
        "AND time BETWEEN $1 AND $2 ORDER BY time",
        period,
    )
    news: dict[str, list[tuple[datetime, Alert]]] = defaultdict(list)
    for seconds, record in rows:
        try:
            alert = Alert.model_validate_json(record)
        except ValidationError:  # anyone may publish anything; it is in the archive
            continue
        moment = utc_of(seconds).astimezone(period.end.tzinfo)
        news[alert.fingerprint].append((moment, alert))
    histories = [_history(each, period) for each in news.values()]
    histories.sort(key=lambda each: (each.goes_on, each.spells[-1].start), reverse=True)
    return tuple(histories)


def archive_of(store: ObjectStore, period: Period) -> Archive:
    """The archive's size by day and domain.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    days = Counter[date]()
    sizes, counts = Counter[str](), Counter[str]()
    first, last = period.start.astimezone(UTC).date(), period.end.astimezone(UTC).date()
    for each in archived_objects(store):
        if found := archive_name(each.name):
            counts[found.domain] += 1
            sizes[found.domain] += each.size_bytes
            days[found.day] += each.size_bytes
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return Archive(
        {day: days[day] for day in every},
        tuple(ArchiveShare(d, counts[d], size) for d, size in sizes.most_common()),
    )


def _ask(
    database: DuckDBPyConnection, query: str, period: Period, *more: float
) -> list[tuple[Any, ...]]:
    return database.execute(query, [period.start, period.end, *more]).fetchall()


def _by_room_and_kind(
    rows: Iterable[tuple[Any, ...]],
) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    """Rows that begin with room and kind, and are sorted by them."""
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
    """The points (time, mean, low, high), and one of None in every long pause."""
    pauses = [after[0] - before[0] for before, after in pairwise(points)]
    longest = _GAP_FACTOR * median(pauses or [span])
    last: float | None = None
    for seconds, mean, low, high in points:
        if last is not None and seconds - last > longest:
            yield (last + seconds) / 2, None, None, None
        yield seconds, mean, low, high
        last = seconds


def _history(news: Sequence[tuple[datetime, Alert]], period: Period) -> AlertHistory:
    """What was published of one alert, in order of time, as spells."""
    spells: list[Spell] = []
    start: datetime | None = None
    for moment, alert in news:
        began = alert.starts_at or moment
        start = start or utc_of(began.timestamp()).astimezone(period.end.tzinfo)
        if alert.resolved:
            spells.append(Spell(start, moment, alert.message))
            start = None
    last = news[-1][1]
    if start is not None:
        spells.append(Spell(start, None, last.message))
    return AlertHistory(last.title, last.severity, tuple(spells))
