"""What happened to sensors and to what their readings need, as far as it explains a
hole in a curve.

Bounded: sensors that were silent for 90 days are forgotten, and of more than 100,000
those that were silent longest; gaps and incidents after 30 days, and of more than
20,000 each the oldest; what was away after 90 days, and of more than 5,000 the oldest;
counts after nine days.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from meshtasks.state.connecting import Transaction
from meshtasks.state.database import Database, StateLocation, upsert
from meshtasks.state.keys import clean, storable
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

_DAY = 86_400.0
#: Tables: the time that makes a row's age, how old it may be, how many there may be.
BOUNDS = (
    ("sensors", "received_at", 90 * _DAY, 100_000),
    ("sensor_gaps", "ends_at", 30 * _DAY, 20_000),
    ("sensor_incidents", "ends_at", 30 * _DAY, 20_000),
    ("spans", "heard_at", 90 * _DAY, 5_000),
    ("counts", "bucket", 9 * _DAY, 50_000),
)


def _all_of(table: str, row: type[NamedTuple]) -> str:
    return f"SELECT {', '.join(row._fields)} FROM {table}"  # noqa: S608 - ours


def _put(row: type[NamedTuple], table: str, keys: int) -> str:
    return upsert(table, row._fields[:keys], row._fields[keys:])


_SENSORS = _all_of("sensors", Sensor)
_GAPS = _all_of("sensor_gaps", Gap)
_INCIDENTS = _all_of("sensor_incidents", Incident)
_SPANS = _all_of("spans", Span)
_PUT_SENSOR = _put(Sensor, "sensors", 2)
_PUT_GAP = _put(Gap, "sensor_gaps", 3)
_PUT_INCIDENT = _put(Incident, "sensor_incidents", 4)
_PUT_SPAN = _put(Span, "spans", 4)
_COUNT = """
INSERT INTO counts (bucket, queue, done, dead, aside)
VALUES (:bucket, :queue, :done, :dead, :aside)
ON CONFLICT (bucket, queue) DO UPDATE SET done = counts.done + excluded.done,
dead = counts.dead + excluded.dead, aside = counts.aside + excluded.aside
"""
_COUNTS = """
SELECT queue, sum(done), sum(dead), sum(aside) FROM counts
WHERE bucket >= :since GROUP BY queue
"""
_END = """
UPDATE spans SET ends_at = heard_at WHERE seen_by = :seen_by AND ends_at IS NULL
"""
_WITHIN = """
WHERE routing_key = :routing_key AND sensor_id = :sensor_id
AND begins_at < :last AND ends_at > :first
"""
_FORGET_GAPS = f"DELETE FROM sensor_gaps {_WITHIN}"  # noqa: S608 - ours
_SAME = """
WHERE routing_key = :routing_key AND sensor_id = :sensor_id AND cause = :cause
AND ends_at >= :since ORDER BY begins_at DESC LIMIT 1
"""
#: Incidents of one kind with less between them are one.
_SAME_INCIDENT_SECONDS = 600.0
#: Activities that are stored in one transaction.
_TOGETHER = 400
_CHUNK = 400  # SQLite takes so many pairs of keys in a statement
_REASON_CHARS, _EXAMPLE_CHARS = 500, 1_000

_Row = TypeVar("_Row", bound=NamedTuple)


class History(Database):
    """The history in the state. What it has can be done without."""

    def __init__(self, location: StateLocation) -> None:
        super().__init__("history", location, "history.sqlite", disposable=True)

    # --- writing ----------------------------------------------------------

    def write(self, notes: Notes) -> None:
        """Remember what was noted. Activities are removed from the notes as they are
        stored, some at a time, so that nobody has to wait long for the database.

        Raises:
            SinkUnavailable: the database cannot be written; what is left in the notes
                is not stored.
        """
        while len(notes.activities) > _TOGETHER:
            with self.transaction(exclusive=True) as db:
                tables = _Tables(db)
                tables.add_incidents(tables.see(notes.activities[:_TOGETHER]))
            del notes.activities[:_TOGETHER]
        with self.transaction(exclusive=True) as db:
            tables = _Tables(db)
            incidents = tables.see(notes.activities)
            tables.add_incidents([*notes.incidents.values(), *incidents])
            tables.put(_PUT_SPAN, notes.spans.values())
            tables.add_counts(notes.counts)

    def prune(self, now: float) -> None:
        """Forget what is old, or too much.

        Args:
            now: epoch seconds.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        with self.transaction(exclusive=True) as db:
            for table, age, seconds, most in BOUNDS:
                forget = f"DELETE FROM {table} WHERE {age}"  # noqa: S608 - ours
                db.execute(f"{forget} < :oldest", {"oldest": now - seconds})
                surplus = (
                    f"SELECT {age} FROM {table} "  # noqa: S608 - ours
                    f"ORDER BY {age} DESC LIMIT 1 OFFSET :most"
                )
                if found := db.execute(surplus, {"most": most}).fetchone():
                    db.execute(f"{forget} <= :oldest", {"oldest": found[0]})

    def end_spans(self, seen_by: str) -> None:
        """Somebody starts anew: what went on by their account ended when they last
        said so.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        with self.transaction() as db:
            db.execute(_END, {"seen_by": storable(seen_by)})

    # --- reading ----------------------------------------------------------

    def sensors(self) -> list[Sensor]:
        """All that are known, by routing key.

        Raises:
            SinkUnavailable: the database cannot be read; as all that follow.
        """
        return self._read(Sensor, f"{_SENSORS} ORDER BY routing_key, sensor_id")

    def gaps(self, since: float, routing_key: str = "") -> list[Gap]:
        """Gaps that ended since then, of one routing key or all, in order of time."""
        where = "WHERE ends_at >= :since"
        if routing_key:
            where += " AND routing_key = :key"
        values = {"since": since, "key": storable(routing_key)}
        return self._read(Gap, f"{_GAPS} {where} ORDER BY begins_at", values)

    def incidents(self, since: float) -> list[Incident]:
        """Incidents that went on since then, in order of time."""
        query = f"{_INCIDENTS} WHERE ends_at >= :since ORDER BY begins_at"
        return self._read(Incident, query, {"since": since})

    def spans(self, since: float) -> list[Span]:
        """What went on since then, in order of time."""
        where = "WHERE ends_at IS NULL OR ends_at >= :since"
        return self._read(
            Span, f"{_SPANS} {where} ORDER BY begins_at", {"since": since}
        )

    def counts(self, since: float) -> dict[str, Count]:
        """What became of records since then, by queue."""
        with self.transaction() as db:
            rows = db.execute(_COUNTS, {"since": since})
            return {queue: Count(*map(int, numbers)) for queue, *numbers in rows}

    def _read(
        self, row: type[_Row], query: str, values: dict[str, Any] | None = None
    ) -> list[_Row]:
        with self.transaction() as db:
            return [row(*each) for each in db.execute(query, values or {})]


class _Tables:
    """The tables within a transaction."""

    def __init__(self, db: Transaction) -> None:
        self._db = db

    def see(self, activities: Sequence[SensorActivity]) -> list[Incident]:
        """Remember activities; what incidents they show."""
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
        self.put(_PUT_SENSOR, known.values())
        self.put(_PUT_GAP, gaps)
        return incidents

    def _known(self, keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Sensor]:
        wanted, known = sorted(keys), dict[tuple[str, ...], Sensor]()
        for start in range(0, len(wanted), _CHUNK):
            values = {
                f"{name}{number}": part
                for number, key in enumerate(wanted[start : start + _CHUNK])
                for name, part in zip("ks", key, strict=True)
            }
            pairs = ", ".join(f"(:k{n}, :s{n})" for n in range(len(values) // 2))
            query = f"{_SENSORS} WHERE (routing_key, sensor_id) IN (VALUES {pairs})"
            for row in self._db.execute(query, values):
                known[row[0], row[1]] = Sensor(*row)
        return known

    def _fill(self, sensor: Sensor, stretch: Stretch) -> None:
        """Readings came late: what was a gap is none, or a shorter one."""
        values = {
            "routing_key": sensor.routing_key,
            "sensor_id": sensor.sensor_id,
            "first": stretch.first,
            "last": stretch.last,
        }
        found = [Gap(*row) for row in self._db.execute(_GAPS + _WITHIN, values)]
        if found:
            self._db.execute(_FORGET_GAPS, values)
            key = sensor.routing_key, sensor.sensor_id
            parts = [
                part
                for gap in found
                for part in _cut(gap, key, stretch, sensor.gap_seconds)
            ]
            self.put(_PUT_GAP, parts)

    def add_incidents(self, incidents: Iterable[Incident]) -> None:
        """Remember them, joined to what went on shortly before."""
        for incident in incidents:
            made = incident._replace(
                routing_key=storable(incident.routing_key),
                sensor_id=storable(incident.sensor_id),
                reason=clean(incident.reason)[:_REASON_CHARS],
                example=clean(incident.example)[:_EXAMPLE_CHARS],
            )
            values = made._asdict() | {"since": made.begins_at - _SAME_INCIDENT_SECONDS}
            if found := self._db.execute(_INCIDENTS + _SAME, values).fetchone():
                before = Incident(*found)
                made = before.joined(made)._replace(begins_at=before.begins_at)
            self.put(_PUT_INCIDENT, [made])

    def add_counts(self, counts: dict[tuple[float, str], Count]) -> None:
        """Count more."""
        rows = [
            {"bucket": bucket, "queue": storable(queue), **count._asdict()}
            for (bucket, queue), count in sorted(counts.items())
        ]
        self._db.executemany(_COUNT, rows)

    def put(self, statement: str, rows: Iterable[Any]) -> None:
        """Store rows in the place of those with the same keys."""
        values = [
            {name: _clean(value) for name, value in row._asdict().items()}
            for row in rows
        ]
        self._db.executemany(statement, values)


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
    """What is left of a gap after readings within it."""
    first, last, _ = stretch
    if gap[:2] != key or last <= gap.begins_at or first >= gap.ends_at:
        return [gap]
    parts = (gap._replace(ends_at=first), gap._replace(begins_at=last))
    return [part for part in parts if part.ends_at - part.begins_at > shortest]
