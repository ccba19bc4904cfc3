"""The SQLite file of the alerts, shared by all workers of the host: states of alerts,
what receivers were notified of, and when to look at a group again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter

from meshtasks.flows.alerts.state import (
    AlertEvent,
    AlertGroup,
    AlertState,
    EventKind,
    NotificationState,
    Silence,
)
from meshtasks.flows.sinks import SinkKey
from meshtasks.state.sqlite import SqliteFile

#: The sink's name in handlers, circuits and errors.
SINK = "alert_state"

#: A message that keeps failing is given up after seven days, so no redelivery is
#: older than this.
KEEP_SEEN_SECONDS = 8 * 86_400.0
#: Resolved alerts are shown for so long.
KEEP_OVER_SECONDS = 7 * 86_400.0
#: Publishers choose the labels; of more alerts than this the latest are kept.
KEEP_ALERTS = 50_000
KEEP_EVENTS = 20_000

_SHAPE = 1
_SCHEMA = """
CREATE TABLE alerts (
    fingerprint TEXT PRIMARY KEY, state TEXT NOT NULL,
    firing INTEGER NOT NULL, heard_at REAL NOT NULL, ends_at REAL
) WITHOUT ROWID;
CREATE INDEX alerts_firing ON alerts (firing, heard_at);
CREATE TABLE groups (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, tag TEXT NOT NULL UNIQUE,
    wake_at REAL, urgency INTEGER NOT NULL DEFAULT 0,
    claimed_until REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX groups_wake ON groups (wake_at);
CREATE TABLE members (
    group_id TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL REFERENCES alerts (fingerprint) ON DELETE CASCADE,
    told TEXT NOT NULL,
    PRIMARY KEY (group_id, fingerprint)
) WITHOUT ROWID;
CREATE INDEX members_alert ON members (fingerprint);
CREATE TABLE seen (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE silences (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, ends_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (number INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
"""

_T = TypeVar("_T")

_ALERT = TypeAdapter(AlertState)
_GROUP = TypeAdapter(AlertGroup)
_NOTIFIED = TypeAdapter(NotificationState)
_SILENCE = TypeAdapter(Silence)
_EVENT = TypeAdapter(AlertEvent)


class Membership(NamedTuple):
    """An alert in a group, and what the receivers know of it."""

    alert: AlertState
    notified: NotificationState


class AlertStore(SqliteFile):
    """The file at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__(SINK, path, _SCHEMA, _SHAPE)

    @contextmanager
    def tables(self) -> Iterator[AlertTables]:
        """Hold the tables; if the block raises, nothing is written.

        Raises SinkUnavailable if the file cannot be used, or is held for too long."""
        with self.transaction() as connection:
            yield AlertTables(connection)


#: The known alerts, and what was sent of them.
ALERT_STATE = SinkKey(
    SINK, lambda sinks: AlertStore(sinks.settings.env.state_dir / "alerts.sqlite")
)


class AlertTables:
    """The tables, within a transaction. Times are epoch seconds."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # --- alerts -----------------------------------------------------------

    def is_repeated(self, record_id: str, now: float) -> bool:
        """Record that a record came in; true if it did before."""
        insert = "INSERT OR IGNORE INTO seen (id, at) VALUES (?, ?)"
        return self._db.execute(insert, (record_id, now)).rowcount == 0

    def seen_since(self, at: float) -> list[str]:
        """Ids of the records that came in since then."""
        query = "SELECT id FROM seen WHERE at >= ?"
        return [name for (name,) in self._db.execute(query, (at,))]

    def alert(self, fingerprint: str) -> AlertState | None:
        """One alert; None if it is not known."""
        query = "SELECT state FROM alerts WHERE fingerprint = ?"
        return next(iter(self._read(_ALERT, query, fingerprint)), None)

    def alerts(self) -> list[AlertState]:
        """All alerts, resolved or not."""
        return self._read(_ALERT, "SELECT state FROM alerts")

    def firing(self) -> list[AlertState]:
        """The alerts that go on."""
        return self._read(_ALERT, "SELECT state FROM alerts WHERE firing")

    def firing_without_update_since(self, at: float) -> list[AlertState]:
        """The alerts that go on, but had no update since then."""
        query = "SELECT state FROM alerts WHERE firing = 1 AND heard_at < ?"
        return self._read(_ALERT, query, at)

    def put_alert(self, alert: AlertState) -> None:
        """Store an alert."""
        self._db.execute(
            "INSERT INTO alerts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "state = excluded.state, firing = excluded.firing, "
            "heard_at = excluded.heard_at, ends_at = excluded.ends_at",
            (
                alert.fingerprint,
                _json(_ALERT, alert),
                alert.firing,
                alert.received_at,
                alert.ends_at,
            ),
        )

    # --- groups -----------------------------------------------------------

    def group(self, group_id: str) -> AlertGroup | None:
        """One group; None if there is none."""
        query = "SELECT state FROM groups WHERE id = ?"
        return next(iter(self._read(_GROUP, query, group_id)), None)

    def put_group(
        self, group: AlertGroup, wake_at: float | None, *, claimed_until: float = 0.0
    ) -> None:
        """Store a group, to be looked at then (None: when it is woken), and by no other
        process before ``claimed_until``."""
        self._db.execute(
            "INSERT INTO groups (id, state, tag, wake_at, claimed_until) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "state = excluded.state, wake_at = excluded.wake_at, "
            "claimed_until = excluded.claimed_until",
            (group.id, _json(_GROUP, group), group.tag, wake_at, claimed_until),
        )

    def groups(self) -> list[AlertGroup]:
        """All groups."""
        return self._read(_GROUP, "SELECT state FROM groups")

    def drop_group(self, group_id: str) -> None:
        """Forget a group."""
        self._db.execute("DELETE FROM groups WHERE id = ?", (group_id,))

    def has_tag(self, tag: str) -> bool:
        """Whether a group has this tag."""
        query = "SELECT 1 FROM groups WHERE tag = ?"
        return self._db.execute(query, (tag,)).fetchone() is not None

    def due_group(self, now: float) -> AlertGroup | None:
        """The most urgent group that is due; of equals the one that waits longest."""
        query = """
            SELECT state FROM groups WHERE wake_at <= ? AND claimed_until <= ?
            ORDER BY urgency DESC, wake_at LIMIT 1
        """
        return next(iter(self._read(_GROUP, query, now, now)), None)

    def wake(self, group_id: str, now: float, urgency: int) -> None:
        """Make a group due; of several urgencies the highest counts."""
        change = "UPDATE groups SET wake_at = ?, urgency = max(urgency, ?) WHERE id = ?"
        self._db.execute(change, (now, urgency, group_id))

    def wake_all(self, now: float) -> None:
        """Make every group due."""
        self._db.execute("UPDATE groups SET wake_at = ?", (now,))

    # --- members ----------------------------------------------------------

    def members(self, group_id: str) -> list[Membership]:
        """The alerts of a group."""
        query = """
            SELECT state, told FROM members JOIN alerts USING (fingerprint)
            WHERE group_id = ?
        """
        return [
            Membership(_ALERT.validate_json(state), _NOTIFIED.validate_json(notified))
            for state, notified in self._db.execute(query, (group_id,))
        ]

    def memberships(self, fingerprint: str) -> dict[str, NotificationState]:
        """What the receivers know of an alert, by group."""
        query = "SELECT group_id, told FROM members WHERE fingerprint = ?"
        return {
            group_id: _NOTIFIED.validate_json(notified)
            for group_id, notified in self._db.execute(query, (fingerprint,))
        }

    def put_member(
        self, group_id: str, fingerprint: str, notified: NotificationState
    ) -> None:
        """Store what the receivers of a group know of an alert."""
        self._db.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?)",
            (group_id, fingerprint, _json(_NOTIFIED, notified)),
        )

    def drop_member(self, group_id: str, fingerprint: str) -> None:
        """Remove an alert from a group."""
        self._db.execute(
            "DELETE FROM members WHERE group_id = ? AND fingerprint = ?",
            (group_id, fingerprint),
        )

    # --- silences and events ----------------------------------------------

    def silences(self) -> list[Silence]:
        """All silences, those that ended lately included."""
        query = "SELECT state FROM silences ORDER BY ends_at"
        return self._read(_SILENCE, query)

    def put_silence(self, silence: Silence) -> None:
        """Store a silence."""
        self._db.execute(
            "INSERT OR REPLACE INTO silences VALUES (?, ?, ?)",
            (silence.id, _json(_SILENCE, silence), silence.ends_at),
        )

    def begin_silence(self, silence: Silence, now: float) -> None:
        """Begin a silence; the same one again changes nothing."""
        self.put_silence(silence)
        title = " ".join(silence.matchers)
        self.record_action("silenced", title, silence.created_by, silence.comment, now)

    def record_action(
        self, kind: EventKind, title: str, who: str, detail: str, now: float
    ) -> None:
        """Add what a person did to the history, and make every group due."""
        self.add_event(AlertEvent(now, kind, title, who, detail))
        self.wake_all(now)

    def add_event(self, event: AlertEvent) -> None:
        """Add an event to the history."""
        insert = "INSERT INTO events (state) VALUES (?)"
        self._db.execute(insert, (_json(_EVENT, event),))

    def history(self, limit: int) -> list[AlertEvent]:
        """The latest events, the newest first."""
        query = "SELECT state FROM events ORDER BY number DESC LIMIT ?"
        return self._read(_EVENT, query, limit)

    # --- upkeep -----------------------------------------------------------

    def note(self, name: str) -> str | None:
        """The value of a note; None if there is none."""
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else row[0]

    def change_note(self, name: str, value: str) -> bool:
        """Set a note; true if it had another value."""
        if self.note(name) == value:
            return False
        self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))
        return True

    def clamp_receipts(self, now: float) -> None:
        """Records came in now at the latest."""
        self._db.execute("UPDATE seen SET at = ? WHERE at > ?", (now, now))

    def prune(self, now: float) -> list[AlertState]:
        """Forget what is old; returns the alerts with a notification still pending."""
        old = """
            SELECT fingerprint FROM alerts WHERE firing = 0 AND ends_at < :over
            UNION SELECT fingerprint FROM (
                SELECT fingerprint FROM alerts
                ORDER BY heard_at DESC LIMIT -1 OFFSET :keep
            )
        """
        values = {"over": now - KEEP_OVER_SECONDS, "keep": KEEP_ALERTS}
        pending = f"""
            SELECT DISTINCT state FROM alerts JOIN members USING (fingerprint)
            WHERE json_extract(told, '$.owed') AND fingerprint IN ({old})
        """  # noqa: S608 - our own text
        lost = [
            _ALERT.validate_json(state)
            for (state,) in self._db.execute(pending, values)
        ]
        drop = f"DELETE FROM alerts WHERE fingerprint IN ({old})"  # noqa: S608 - ours
        self._db.execute(drop, values)
        self._db.execute("DELETE FROM seen WHERE at < ?", (now - KEEP_SEEN_SECONDS,))
        over = (now - KEEP_OVER_SECONDS,)
        self._db.execute("DELETE FROM silences WHERE ends_at < ?", over)
        self._db.execute(
            "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?",
            (KEEP_EVENTS,),
        )
        return lost

    def _read(self, kind: TypeAdapter[_T], query: str, *values: Any) -> list[_T]:
        rows = self._db.execute(query, values).fetchall()
        return [kind.validate_json(text) for (text,) in rows]


def _json(kind: TypeAdapter[_T], value: _T) -> str:
    return kind.dump_json(value, by_alias=True).decode()
