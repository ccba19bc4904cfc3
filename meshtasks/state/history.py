"""History of sensors, and of the services that they depend on, which explains gaps.

It is bounded (:data:`BOUNDS`): sensors are deleted after 90 days of silence, gaps and
incidents after 30 days, outages after 90 days, counts after nine days. If there are
more than 100,000 sensors, 20,000 gaps, 20,000 incidents or 5,000 outages, the oldest
are deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    func,
    select,
    tuple_,
)

from meshtasks.state.database import Database, StateLocation
from meshtasks.state.sensor_activity import (
    Count,
    Gap,
    Incident,
    Notes,
    Sensor,
    SensorActivity,
    Span,
    Stretch,
    incidents_of,
    seen,
)
from meshtasks.state.tables import (
    COUNTS,
    SENSOR_GAPS,
    SENSOR_INCIDENTS,
    SENSORS,
    SPANS,
    clean,
    insert_of,
    put,
    storable,
)

_DAY = 86_400.0
#: Bounds: table, column with the time of a row, greatest age in seconds, most rows.
BOUNDS = (
    (SENSORS, SENSORS.c.received_at, 90 * _DAY, 100_000),
    (SENSOR_GAPS, SENSOR_GAPS.c.ends_at, 30 * _DAY, 20_000),
    (SENSOR_INCIDENTS, SENSOR_INCIDENTS.c.ends_at, 30 * _DAY, 20_000),
    (SPANS, SPANS.c.heard_at, 90 * _DAY, 5_000),
    (COUNTS, COUNTS.c.bucket, 9 * _DAY, 50_000),
)
#: Incidents of one cause with less time between them are merged.
_SAME_INCIDENT_SECONDS = 600.0
#: Most activities that are stored in one transaction.
_TOGETHER = 400
_CHUNK = 400  # most pairs of keys in a statement of SQLite
_REASON_CHARS, _EXAMPLE_CHARS = 500, 1_000


def _of_keys(table: Table) -> Select[Any]:
    """A query of the rows of some sensors, with the parameter ``keys``."""
    key = tuple_(table.c.routing_key, table.c.sensor_id)
    return select(table).where(key.in_(bindparam("keys", expanding=True)))


_KNOWN = _of_keys(SENSORS)
_LATEST = (
    _of_keys(SENSOR_INCIDENTS)
    .where(SENSOR_INCIDENTS.c.ends_at >= bindparam("since"))
    .order_by(SENSOR_INCIDENTS.c.begins_at)
)

_Row = TypeVar("_Row", bound=NamedTuple)


class History(Database):
    """The history in the state. Its last transactions may be lost by a power cut."""

    def __init__(self, location: StateLocation) -> None:
        super().__init__("history", location, "history.sqlite", disposable=True)

    # --- writing ----------------------------------------------------------

    def write(self, notes: Notes) -> None:
        """Store notes.

        Activities are stored in several transactions, so that other processes need not
        wait long for the database. They are removed from the notes when stored.

        Raises:
            SinkUnavailable: the database cannot be written; the data that is left in
                the notes is not stored.
        """
        while len(notes.activities) > _TOGETHER:
            with self.transaction(exclusive=True) as connection:
                tables = _Tables(connection)
                tables.add_incidents(tables.see(notes.activities[:_TOGETHER]))
            del notes.activities[:_TOGETHER]
        with self.transaction(exclusive=True) as connection:
            tables = _Tables(connection)
            incidents = tables.see(notes.activities)
            tables.add_incidents([*notes.incidents.values(), *incidents])
            tables.put(SPANS, notes.spans.values())
            tables.add_counts(notes.counts)

    def prune(self, now: float) -> None:
        """Delete rows beyond the bounds.

        Args:
            now: current time in epoch seconds.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        with self.transaction(exclusive=True) as connection:
            for table, age, seconds, most in BOUNDS:
                connection.execute(delete(table).where(age < now - seconds))
                surplus = select(age).order_by(age.desc()).offset(most).limit(1)
                oldest = connection.execute(surplus).scalar()
                if oldest is not None:
                    connection.execute(delete(table).where(age <= oldest))

    def end_spans(self, seen_by: str) -> None:
        """End the open spans of a worker or gateway that starts again.

        They end at the time of their last report.

        Args:
            seen_by: name of the worker or gateway.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        own = (SPANS.c.seen_by == storable(seen_by), SPANS.c.ends_at.is_(None))
        with self.transaction() as connection:
            ended = {"ends_at": SPANS.c.heard_at}
            connection.execute(SPANS.update().where(*own).values(ended))

    # --- reading ----------------------------------------------------------

    def sensors(self) -> list[Sensor]:
        """All sensors, by routing key.

        Raises:
            SinkUnavailable: the database cannot be read; the methods below raise it,
                too.
        """
        query = select(SENSORS).order_by(SENSORS.c.routing_key, SENSORS.c.sensor_id)
        return self._read(Sensor, query)

    def gaps(self, since: float) -> list[Gap]:
        """Gaps that ended after ``since``, by beginning."""
        query = select(SENSOR_GAPS).where(SENSOR_GAPS.c.ends_at >= since)
        return self._read(Gap, query.order_by(SENSOR_GAPS.c.begins_at))

    def incidents(self, since: float) -> list[Incident]:
        """Incidents that ended after ``since``, by beginning."""
        query = select(SENSOR_INCIDENTS).where(SENSOR_INCIDENTS.c.ends_at >= since)
        return self._read(Incident, query.order_by(SENSOR_INCIDENTS.c.begins_at))

    def spans(self, since: float) -> list[Span]:
        """Spans that are open or ended after ``since``, by beginning."""
        query = select(SPANS).where(
            SPANS.c.ends_at.is_(None) | (SPANS.c.ends_at >= since)
        )
        return self._read(Span, query.order_by(SPANS.c.begins_at))

    def counts(self, since: float) -> dict[str, Count]:
        """Outcomes of records since then, by queue."""
        sums = [func.sum(COUNTS.c[name]) for name in Count._fields]
        query = select(COUNTS.c.queue, *sums).where(COUNTS.c.bucket >= since)
        with self.transaction() as connection:
            rows = connection.execute(query.group_by(COUNTS.c.queue)).all()
        return {queue: Count(*map(int, numbers)) for queue, *numbers in rows}

    def _read(self, row: type[_Row], query: Any) -> list[_Row]:
        with self.transaction() as connection:
            return [row(*values) for values in connection.execute(query)]


class _Tables:
    """The tables, within a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def see(self, activities: Sequence[SensorActivity]) -> list[Incident]:
        """Store activities; return the incidents that they show."""
        ordered = [_storable(each) for each in activities]
        known = self._known({each[:2] for each in ordered})
        gaps: list[Gap] = []
        incidents: list[Incident] = []
        for activity in ordered:
            key = activity[:2]
            if not activity.stretches:
                incidents += incidents_of(known.get(key), activity)
                continue
            change = seen(known.get(key), activity)
            known[key] = change.sensor
            gaps += change.gaps
            incidents += change.incidents
            for stretch in change.late:
                gaps = [part for gap in gaps for part in _cut(gap, key, stretch, 0.0)]
                self._fill(change.sensor, stretch)
        self.put(SENSORS, known.values())
        self.put(SENSOR_GAPS, gaps)
        return incidents

    def _known(self, keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Sensor]:
        rows = self._rows_of(keys, _KNOWN)
        return {(row[0], row[1]): Sensor(*row) for row in rows}

    def _rows_of(
        self, keys: Iterable[tuple[str, ...]], query: Select[Any], **values: float
    ) -> Iterator[Any]:
        """Yield the rows of some sensors, queried in chunks."""
        wanted = sorted(keys)
        for start in range(0, len(wanted), _CHUNK):
            chunk = wanted[start : start + _CHUNK]
            yield from self._db.execute(query, {"keys": chunk, **values})

    def _fill(self, sensor: Sensor, stretch: Stretch) -> None:
        """Delete or shorten the gaps that late readings fill."""
        gaps = SENSOR_GAPS.c
        within = (
            gaps.routing_key == sensor.routing_key,
            gaps.sensor_id == sensor.sensor_id,
            gaps.begins_at < stretch.last,
            gaps.ends_at > stretch.first,
        )
        query = select(SENSOR_GAPS).where(*within)
        found = [Gap(*row) for row in self._db.execute(query)]
        if found:
            self._db.execute(delete(SENSOR_GAPS).where(*within))
            key = sensor.routing_key, sensor.sensor_id
            parts = [
                part
                for gap in found
                for part in _cut(gap, key, stretch, sensor.gap_seconds)
            ]
            self.put(SENSOR_GAPS, parts)

    def add_incidents(self, incidents: Iterable[Incident]) -> None:
        """Store incidents, merged with recent ones of the same sensor and cause."""
        made = [
            each._replace(
                routing_key=storable(each.routing_key),
                sensor_id=storable(each.sensor_id),
                reason=clean(each.reason)[:_REASON_CHARS],
                example=clean(each.example)[:_EXAMPLE_CHARS],
            )
            for each in incidents
        ]
        if not made:
            return
        since = min(each.begins_at for each in made) - _SAME_INCIDENT_SECONDS
        rows = self._rows_of({each[:2] for each in made}, _LATEST, since=since)
        known = [Incident(*row) for row in rows]
        self.put(SENSOR_INCIDENTS, _together(known, made))

    def add_counts(self, counts: dict[tuple[float, str], Count]) -> None:
        """Add to the stored counts."""
        if not counts:
            return
        rows = [
            {"bucket": bucket, "queue": storable(queue), **count._asdict()}
            for (bucket, queue), count in sorted(counts.items())
        ]
        self._db.execute(_more(self._db.dialect.name), rows)

    def put(self, table: Table, rows: Iterable[Any]) -> None:
        """Insert rows, or replace those with the same primary key."""
        names = table.columns.keys()
        values = [dict(zip(names, map(_clean, row), strict=True)) for row in rows]
        if values:
            self._db.execute(put(self._db, table), values)


def _together(known: Iterable[Incident], made: Iterable[Incident]) -> list[Incident]:
    """Merge new incidents with recent ones of the same sensor and cause.

    While a backlog is processed, every batch has an incident of each faulty sensor.
    """
    latest = {each[:3]: each for each in known}  # in order of time
    result: dict[tuple[object, ...], Incident] = {}  # by primary key
    for incident in made:
        before = latest.get(incident[:3])
        joined = incident
        if before and before.ends_at >= incident.begins_at - _SAME_INCIDENT_SECONDS:
            joined = before.joined(incident)._replace(begins_at=before.begins_at)
        latest[incident[:3]] = result[joined[:4]] = joined
    return [*result.values()]


@lru_cache
def _more(dialect_name: str) -> Any:
    """An INSERT of counts that adds to existing rows."""
    statement = insert_of(dialect_name, COUNTS)
    return statement.on_conflict_do_update(
        index_elements=COUNTS.primary_key,
        set_={
            name: COUNTS.c[name] + statement.excluded[name] for name in Count._fields
        },
    )


def _storable(activity: SensorActivity) -> SensorActivity:
    key, sensor_id = activity[:2]
    names = storable(key), storable(sensor_id)
    if names == (key, sensor_id):
        return activity
    return SensorActivity._make((*names, *activity[2:]))


def _clean(value: object) -> object:
    return clean(value) if isinstance(value, str) else value


def _cut(
    gap: Gap, key: tuple[str, ...], stretch: Stretch, shortest: float
) -> list[Gap]:
    """The parts of a gap that are left after readings within it."""
    first, last, _ = stretch
    if gap[:2] != key or last <= gap.begins_at or first >= gap.ends_at:
        return [gap]
    parts = (gap._replace(ends_at=first), gap._replace(begins_at=last))
    return [part for part in parts if part.ends_at - part.begins_at > shortest]
