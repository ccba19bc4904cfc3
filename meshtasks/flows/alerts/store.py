"""The alerts in the state, shared by all workers: states of alerts, what receivers were
notified of, and when to look at a group again.

One transaction at a time changes them, on whatever host: what is decided of a group
depends on many alerts. It takes milliseconds, and alerts are few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from meshtasks.state.connecting import Transaction
from meshtasks.state.database import Database, StateLocation, upsert
from meshtasks.state.keys import storable

#: A message that keeps failing is given up after seven days, so no redelivery is
#: older than this.
KEEP_SEEN_SECONDS = 8 * 86_400.0
#: Resolved alerts are shown for so long.
KEEP_OVER_SECONDS = 7 * 86_400.0
#: Publishers choose the labels; of more alerts than this the latest are kept.
KEEP_ALERTS = 50_000
KEEP_EVENTS = 20_000

_T = TypeVar("_T")

_ALERT = TypeAdapter(AlertState)
_GROUP = TypeAdapter(AlertGroup)
_NOTIFIED = TypeAdapter(NotificationState)
_SILENCE = TypeAdapter(Silence)
_EVENT = TypeAdapter(AlertEvent)

_PUT_ALERT = upsert(
    "alerts", ("fingerprint",), ("state", "firing", "received_at", "ends_at")
)
#: The urgency stays.
_PUT_GROUP = """
INSERT INTO alert_groups (id, state, tag, wake_at, claimed_until)
VALUES (:id, :state, :tag, :wake_at, :claimed_until)
ON CONFLICT (id) DO UPDATE SET state = excluded.state, wake_at = excluded.wake_at,
claimed_until = excluded.claimed_until
"""
_PUT_MEMBER = upsert(
    "alert_members", ("group_id", "fingerprint"), ("notified", "pending")
)
_PUT_SILENCE = upsert("silences", ("id",), ("state", "ends_at"))
_PUT_NOTE = upsert("alert_notes", ("name",), ("value",))
_SEE = """
INSERT INTO alerts_seen (id, at) VALUES (:id, :at) ON CONFLICT DO NOTHING RETURNING id
"""
_DUE_GROUP = """
SELECT state FROM alert_groups WHERE wake_at <= :now AND claimed_until <= :now
ORDER BY urgency DESC, wake_at LIMIT 1
"""
_WAKE = """
UPDATE alert_groups SET wake_at = :now,
urgency = CASE WHEN urgency < :urgency THEN :urgency ELSE urgency END
WHERE id = :id
"""
_MEMBERS = """
SELECT alerts.state, alert_members.notified FROM alert_members
JOIN alerts ON alerts.fingerprint = alert_members.fingerprint
WHERE alert_members.group_id = :id
"""
_IS_OLD = """
(NOT firing AND ends_at < :over OR fingerprint IN (
    SELECT fingerprint FROM alerts ORDER BY received_at DESC
    LIMIT 9000000000000000 OFFSET :keep
))
"""
_IS_PENDING = "fingerprint IN (SELECT fingerprint FROM alert_members WHERE pending)"
_FORGET_EVENTS = """
DELETE FROM alert_events
WHERE number <= (SELECT max(number) FROM alert_events) - :keep
"""


class Membership(NamedTuple):
    """An alert in a group, and what the receivers know of it."""

    alert: AlertState
    notified: NotificationState


class AlertStore(Database):
    """The alerts in the state."""

    def __init__(self, location: StateLocation) -> None:
        super().__init__("alert_state", location, "alerts.sqlite")

    @contextmanager
    def tables(self) -> Iterator[AlertTables]:
        """Hold the tables; if the block raises, nothing is written.

        Raises SinkUnavailable if the state cannot be used, or is held for too long."""
        with self.transaction(exclusive=True) as db:
            yield AlertTables(db)


class AlertTables:
    """The tables, within a transaction. Times are epoch seconds."""

    def __init__(self, db: Transaction) -> None:
        self._db = db

    # --- alerts -----------------------------------------------------------

    def is_repeated(self, record_id: str, now: float) -> bool:
        """Record that a record came in; true if it did before."""
        made = self._db.execute(_SEE, {"id": storable(record_id), "at": now})
        return not made.fetchall()

    def seen_since(self, at: float) -> list[str]:
        """Ids of the records that came in since then."""
        query = "SELECT id FROM alerts_seen WHERE at >= :at"
        return [name for (name,) in self._db.execute(query, {"at": at})]

    def alert(self, fingerprint: str) -> AlertState | None:
        """One alert; None if it is not known."""
        query = "SELECT state FROM alerts WHERE fingerprint = :it"
        return next(iter(self._read(_ALERT, query, it=fingerprint)), None)

    def alerts(self) -> list[AlertState]:
        """All alerts, resolved or not."""
        return self._read(_ALERT, "SELECT state FROM alerts")

    def firing(self) -> list[AlertState]:
        """The alerts that go on."""
        return self._read(_ALERT, "SELECT state FROM alerts WHERE firing")

    def firing_without_update_since(self, at: float) -> list[AlertState]:
        """The alerts that go on, but had no update since then."""
        query = "SELECT state FROM alerts WHERE firing AND received_at < :at"
        return self._read(_ALERT, query, at=at)

    def put_alert(self, alert: AlertState) -> None:
        """Store an alert."""
        values = {
            "fingerprint": alert.fingerprint,
            "state": _json(_ALERT, alert),
            "firing": alert.firing,
            "received_at": alert.received_at,
            "ends_at": alert.ends_at,
        }
        self._db.execute(_PUT_ALERT, values)

    # --- groups -----------------------------------------------------------

    def group(self, group_id: str) -> AlertGroup | None:
        """One group; None if there is none."""
        query = "SELECT state FROM alert_groups WHERE id = :id"
        return next(iter(self._read(_GROUP, query, id=group_id)), None)

    def put_group(
        self, group: AlertGroup, wake_at: float | None, *, claimed_until: float = 0.0
    ) -> None:
        """Store a group, to be looked at then (None: when it is woken), and by no other
        process before ``claimed_until``."""
        values = {
            "id": group.id,
            "state": _json(_GROUP, group),
            "tag": group.tag,
            "wake_at": wake_at,
            "claimed_until": claimed_until,
        }
        self._db.execute(_PUT_GROUP, values)

    def groups(self) -> list[AlertGroup]:
        """All groups."""
        return self._read(_GROUP, "SELECT state FROM alert_groups")

    def drop_group(self, group_id: str) -> None:
        """Forget a group."""
        self._db.execute("DELETE FROM alert_groups WHERE id = :id", {"id": group_id})

    def has_tag(self, tag: str) -> bool:
        """Whether a group has this tag."""
        query = "SELECT 1 FROM alert_groups WHERE tag = :tag"
        return self._db.execute(query, {"tag": tag}).fetchone() is not None

    def due_group(self, now: float) -> AlertGroup | None:
        """The most urgent group that is due; of equals the one that waits longest."""
        return next(iter(self._read(_GROUP, _DUE_GROUP, now=now)), None)

    def wake(self, group_id: str, now: float, urgency: int) -> None:
        """Make a group due; of several urgencies the highest counts."""
        values = {"now": now, "urgency": urgency, "id": group_id}
        self._db.execute(_WAKE, values)

    def wake_all(self, now: float) -> None:
        """Make every group due."""
        self._db.execute("UPDATE alert_groups SET wake_at = :now", {"now": now})

    # --- members ----------------------------------------------------------

    def members(self, group_id: str) -> list[Membership]:
        """The alerts of a group."""
        return [
            Membership(_ALERT.validate_json(state), _NOTIFIED.validate_json(notified))
            for state, notified in self._db.execute(_MEMBERS, {"id": group_id})
        ]

    def memberships(self, fingerprint: str) -> dict[str, NotificationState]:
        """What the receivers know of an alert, by group."""
        query = "SELECT group_id, notified FROM alert_members WHERE fingerprint = :it"
        return {
            group_id: _NOTIFIED.validate_json(notified)
            for group_id, notified in self._db.execute(query, {"it": fingerprint})
        }

    def put_member(
        self, group_id: str, fingerprint: str, notified: NotificationState
    ) -> None:
        """Store what the receivers of a group know of an alert."""
        values = {
            "group_id": group_id,
            "fingerprint": fingerprint,
            "notified": _json(_NOTIFIED, notified),
            "pending": notified.pending,
        }
        self._db.execute(_PUT_MEMBER, values)

    def drop_member(self, group_id: str, fingerprint: str) -> None:
        """Remove an alert from a group."""
        its = "DELETE FROM alert_members WHERE group_id = :id AND fingerprint = :it"
        self._db.execute(its, {"id": group_id, "it": fingerprint})

    # --- silences and events ----------------------------------------------

    def silences(self) -> list[Silence]:
        """All silences, those that ended lately included."""
        return self._read(_SILENCE, "SELECT state FROM silences ORDER BY ends_at")

    def put_silence(self, silence: Silence) -> None:
        """Store a silence."""
        values = {
            "id": silence.id,
            "state": _json(_SILENCE, silence),
            "ends_at": silence.ends_at,
        }
        self._db.execute(_PUT_SILENCE, values)

    def begin_silence(self, silence: Silence, now: float) -> None:
        """Begin a silence; the same one again changes nothing."""
        self.put_silence(silence)
        title = " ".join(silence.matchers)
        self.record_action("silenced", title, silence.created_by, silence.comment, now)

    def end_silence(self, silence: Silence, who: str, now: float) -> None:
        """End a silence."""
        self.put_silence(replace(silence, ends_at=now))
        title = " ".join(silence.matchers)
        self.record_action("silence ended", title, who, "", now)

    def acknowledge(self, alert: AlertState, who: str, now: float) -> None:
        """Stop the reminders of this episode of an alert."""
        self.put_alert(replace(alert, acknowledged_by=who))
        self.record_action("acknowledged", alert.title, who, "", now)

    def record_action(
        self, kind: EventKind, title: str, who: str, detail: str, now: float
    ) -> None:
        """Add what a person did to the history, and make every group due."""
        self.add_event(AlertEvent(now, kind, title, who, detail))
        self.wake_all(now)

    def add_event(self, event: AlertEvent) -> None:
        """Add an event to the history."""
        add = "INSERT INTO alert_events (state) VALUES (:state)"
        self._db.execute(add, {"state": _json(_EVENT, event)})

    def history(self, limit: int) -> list[AlertEvent]:
        """The latest events, the newest first."""
        query = "SELECT state FROM alert_events ORDER BY number DESC LIMIT :limit"
        return self._read(_EVENT, query, limit=limit)

    # --- upkeep -----------------------------------------------------------

    def note(self, name: str) -> str | None:
        """The value of a note; None if there is none."""
        query = "SELECT value FROM alert_notes WHERE name = :name"
        found = self._db.execute(query, {"name": name}).fetchone()
        return found[0] if found else None

    def change_note(self, name: str, value: str) -> bool:
        """Set a note; true if it had another value."""
        if self.note(name) == value:
            return False
        self._db.execute(_PUT_NOTE, {"name": name, "value": value})
        return True

    def clamp_receipts(self, now: float) -> None:
        """Records came in now at the latest."""
        self._db.execute(
            "UPDATE alerts_seen SET at = :now WHERE at > :now", {"now": now}
        )

    def prune(self, now: float) -> list[AlertState]:
        """Forget what is old; returns the alerts with a notification still pending."""
        over = now - KEEP_OVER_SECONDS
        old = {"over": over, "keep": KEEP_ALERTS}
        query = f"SELECT state FROM alerts WHERE {_IS_OLD} AND {_IS_PENDING}"  # noqa: S608 - ours
        lost = self._read(_ALERT, query, **old)
        self._db.execute(f"DELETE FROM alerts WHERE {_IS_OLD}", old)  # noqa: S608 - ours
        oldest = {"oldest": now - KEEP_SEEN_SECONDS}
        self._db.execute("DELETE FROM alerts_seen WHERE at < :oldest", oldest)
        self._db.execute("DELETE FROM silences WHERE ends_at < :over", {"over": over})
        self._db.execute(_FORGET_EVENTS, {"keep": KEEP_EVENTS})
        return lost

    def _read(self, kind: TypeAdapter[_T], query: str, **values: Any) -> list[_T]:
        rows = self._db.execute(query, values)
        return [kind.validate_json(text) for (text,) in rows]


def _json(kind: TypeAdapter[_T], value: _T) -> str:
    return kind.dump_json(value, by_alias=True).decode()
