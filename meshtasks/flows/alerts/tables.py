"""The tables of the alert manager, as they are seen within a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from meshtasks.flows.alerts.decision import Group, Told
from meshtasks.flows.alerts.events import Event
from meshtasks.flows.alerts.muting import Silence
from meshtasks.flows.alerts.standing import Standing

#: A message that keeps failing is given up after seven days, so no redelivery is
#: older than this.
KEEP_SEEN_SECONDS = 8 * 86_400.0
#: Alerts that are over are shown for so long.
KEEP_OVER_SECONDS = 7 * 86_400.0
#: Publishers choose the labels; of more alerts than this the latest are kept.
KEEP_ALERTS = 50_000
KEEP_EVENTS = 20_000

_T = TypeVar("_T")

_STANDING = TypeAdapter(Standing)
_GROUP = TypeAdapter(Group)
_TOLD = TypeAdapter(Told)
_SILENCE = TypeAdapter(Silence)
_EVENT = TypeAdapter(Event)


class Membership(NamedTuple):
    """An alert in a group."""

    alert: Standing
    told: Told


class AlertTables:
    """The tables, within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # --- alerts -----------------------------------------------------------

    def is_repeated(self, record_id: str, now: float) -> bool:
        """Note that a record came in; true if it did before."""
        insert = "INSERT OR IGNORE INTO seen (id, at) VALUES (?, ?)"
        return self._db.execute(insert, (record_id, now)).rowcount == 0

    def seen_since(self, at: float) -> list[str]:
        """Ids of the records that came in since then."""
        query = "SELECT id FROM seen WHERE at >= ?"
        return [name for (name,) in self._db.execute(query, (at,))]

    def alert(self, fingerprint: str) -> Standing | None:
        """One alert; None if it is not known."""
        query = "SELECT state FROM alerts WHERE fingerprint = ?"
        return next(iter(self._read(_STANDING, query, fingerprint)), None)

    def alerts(self) -> list[Standing]:
        """All alerts, over or not."""
        return self._read(_STANDING, "SELECT state FROM alerts")

    def firing(self) -> list[Standing]:
        """The alerts that go on."""
        return self._read(_STANDING, "SELECT state FROM alerts WHERE firing")

    def firing_unheard_since(self, at: float) -> list[Standing]:
        """The alerts that go on, but without news since then."""
        query = "SELECT state FROM alerts WHERE firing = 1 AND heard_at < ?"
        return self._read(_STANDING, query, at)

    def put_alert(self, alert: Standing) -> None:
        """Store an alert."""
        self._db.execute(
            "INSERT INTO alerts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "state = excluded.state, firing = excluded.firing, "
            "heard_at = excluded.heard_at, ends_at = excluded.ends_at",
            (
                alert.fingerprint,
                _json(alert),
                alert.firing,
                alert.heard_at,
                alert.ends_at,
            ),
        )

    # --- groups -----------------------------------------------------------

    def group(self, group_id: str) -> Group | None:
        """One group; None if there is none."""
        query = "SELECT state FROM groups WHERE id = ?"
        return next(iter(self._read(_GROUP, query, group_id)), None)

    def put_group(
        self, group: Group, wake_at: float | None, *, claimed_until: float = 0.0
    ) -> None:
        """Store a group.

        Args:
            group: the group.
            wake_at: when to look at it, epoch seconds; None: when it is woken.
            claimed_until: nobody else looks at it before, epoch seconds.
        """
        self._db.execute(
            "INSERT INTO groups (id, state, tag, wake_at, claimed_until) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "state = excluded.state, wake_at = excluded.wake_at, "
            "claimed_until = excluded.claimed_until",
            (group.id, _json(group), group.tag, wake_at, claimed_until),
        )

    def groups(self) -> list[Group]:
        """All groups."""
        return self._read(_GROUP, "SELECT state FROM groups")

    def drop_group(self, group_id: str) -> None:
        """Forget a group."""
        self._db.execute("DELETE FROM groups WHERE id = ?", (group_id,))

    def has_tag(self, tag: str) -> bool:
        """Whether a group has this tag."""
        query = "SELECT 1 FROM groups WHERE tag = ?"
        return self._db.execute(query, (tag,)).fetchone() is not None

    def due_group(self, now: float) -> Group | None:
        """The most urgent group to look at now, then the one that waits longest."""
        query = """
            SELECT state FROM groups WHERE wake_at <= ? AND claimed_until <= ?
            ORDER BY urgency DESC, wake_at LIMIT 1
        """
        return next(iter(self._read(_GROUP, query, now, now)), None)

    def wake(self, group_id: str, now: float, urgency: int) -> None:
        """Have a group looked at now.

        Args:
            group_id: the group.
            now: epoch seconds.
            urgency: of the alert it is woken for; groups go by the highest.
        """
        update = "UPDATE groups SET wake_at = ?, urgency = max(urgency, ?) WHERE id = ?"
        self._db.execute(update, (now, urgency, group_id))

    def wake_all(self, now: float) -> None:
        """Have every group looked at now."""
        self._db.execute("UPDATE groups SET wake_at = ?", (now,))

    # --- members ----------------------------------------------------------

    def members(self, group_id: str) -> list[Membership]:
        """The alerts of a group."""
        query = """
            SELECT state, told FROM members JOIN alerts USING (fingerprint)
            WHERE group_id = ?
        """
        return [
            Membership(_STANDING.validate_json(state), _TOLD.validate_json(told))
            for state, told in self._db.execute(query, (group_id,))
        ]

    def memberships(self, fingerprint: str) -> dict[str, Told]:
        """What the groups of an alert know of it, by group."""
        query = "SELECT group_id, told FROM members WHERE fingerprint = ?"
        return {
            group_id: _TOLD.validate_json(told)
            for group_id, told in self._db.execute(query, (fingerprint,))
        }

    def put_member(self, group_id: str, fingerprint: str, told: Told) -> None:
        """Store what a group knows of an alert."""
        self._db.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?)",
            (group_id, fingerprint, _json(told)),
        )

    def drop_member(self, group_id: str, fingerprint: str) -> None:
        """Take an alert out of a group."""
        self._db.execute(
            "DELETE FROM members WHERE group_id = ? AND fingerprint = ?",
            (group_id, fingerprint),
        )

    # --- silences and events ----------------------------------------------

    def silences(self) -> list[Silence]:
        """All silences, those that have ended lately included."""
        query = "SELECT state FROM silences ORDER BY ends_at"
        return self._read(_SILENCE, query)

    def put_silence(self, silence: Silence) -> None:
        """Store a silence."""
        self._db.execute(
            "INSERT OR REPLACE INTO silences VALUES (?, ?, ?)",
            (silence.id, _json(silence), silence.ends_at),
        )

    def note(self, event: Event) -> None:
        """Add an event to the history."""
        insert = "INSERT INTO events (state) VALUES (?)"
        self._db.execute(insert, (_json(event),))

    def history(self, limit: int) -> list[Event]:
        """The latest events, the newest first."""
        query = "SELECT state FROM events ORDER BY number DESC LIMIT ?"
        return self._read(_EVENT, query, limit)

    # --- upkeep -----------------------------------------------------------

    def noted(self, name: str) -> str | None:
        """The value of a note; None if there is none."""
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else row[0]

    def changes_note(self, name: str, value: str) -> bool:
        """Set a note; true if it had another value."""
        if self.noted(name) == value:
            return False
        self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))
        return True

    def forget_future_receipts(self, now: float) -> None:
        """Records came in now at the latest."""
        self._db.execute("UPDATE seen SET at = ? WHERE at > ?", (now, now))

    def prune(self, now: float) -> list[Standing]:
        """Forget what is old.

        Args:
            now: epoch seconds.

        Returns:
            The alerts that nobody was told of although it was due.
        """
        old = """
            SELECT fingerprint FROM alerts WHERE firing = 0 AND ends_at < :over
            UNION SELECT fingerprint FROM (
                SELECT fingerprint FROM alerts
                ORDER BY heard_at DESC LIMIT -1 OFFSET :keep
            )
        """
        values = {"over": now - KEEP_OVER_SECONDS, "keep": KEEP_ALERTS}
        owed = f"""
            SELECT DISTINCT state FROM alerts JOIN members USING (fingerprint)
            WHERE json_extract(told, '$.owed') AND fingerprint IN ({old})
        """  # noqa: S608 - our own text
        lost = [
            _STANDING.validate_json(state)
            for (state,) in self._db.execute(owed, values)
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
        rows: Sequence[tuple[str]] = self._db.execute(query, values).fetchall()
        return [kind.validate_json(text) for (text,) in rows]


def _json(value: Any) -> str:
    return to_json(asdict(value)).decode()
