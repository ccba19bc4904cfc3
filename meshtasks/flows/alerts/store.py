"""The tables of alerts in the state, which all workers share: states of alerts, their
last notified states, and the time of the next decision for each group.

Only one transaction at a time changes them, on all hosts together, because a decision
for a group depends on many alerts. It takes milliseconds, and there are few alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)

from meshtasks.flows.alerts.state import (
    AlertEvent,
    AlertGroup,
    AlertState,
    EventKind,
    NotificationState,
    Silence,
)
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.tables import (
    ALERT_EVENTS,
    ALERT_GROUPS,
    ALERT_MEMBERS,
    ALERT_NOTES,
    ALERTS,
    ALERTS_SEEN,
    SILENCES,
    insert,
    put,
    storable,
)

#: How long ids of records are kept. A message that keeps failing is dead after seven
#: days, so no redelivery is older.
KEEP_SEEN_SECONDS = 8 * 86_400.0
#: How long resolved alerts are kept.
KEEP_OVER_SECONDS = 7 * 86_400.0
#: Most alerts that are kept, because publishers choose the labels; the oldest go first.
KEEP_ALERTS = 50_000
KEEP_EVENTS = 20_000

_ALL = 2**62  # a LIMIT

_T = TypeVar("_T")

_ALERT = TypeAdapter(AlertState)
_GROUP = TypeAdapter(AlertGroup)
_NOTIFIED = TypeAdapter(NotificationState)
_SILENCE = TypeAdapter(Silence)
_EVENT = TypeAdapter(AlertEvent)

_ALERT_STATES = select(ALERTS.c.state)
_GROUP_STATES = select(ALERT_GROUPS.c.state)
#: All notes; none if an alert needs to be resolved for lack of updates, or a group is
#: due.
_QUIET_NOTES = select(ALERT_NOTES.c.name, ALERT_NOTES.c.value).where(
    ~exists().where(ALERTS.c.firing, ALERTS.c.received_at < bindparam("updated_at")),
    ~exists().where(
        ALERT_GROUPS.c.wake_at <= bindparam("now"),
        ALERT_GROUPS.c.claimed_until <= bindparam("now"),
    ),
)


class Membership(NamedTuple):
    """An alert in a group, and its last notified state there."""

    alert: AlertState
    notified: NotificationState


class AlertStore(Database):
    """The database of the state, with the tables of alerts."""

    def __init__(self, location: StateLocation) -> None:
        super().__init__("alert_state", location, "alerts.sqlite")

    @contextmanager
    def tables(self) -> Iterator[AlertTables]:
        """The tables, in an exclusive transaction; if the block raises, nothing is
        written.

        Raises:
            SinkUnavailable: the state is unavailable, or locked for too long.
        """
        with self.transaction(exclusive=True) as connection:
            yield AlertTables(connection, self.now())

    def is_quiet(self, notes: Mapping[str, str], updated_at: float, now: float) -> bool:
        """Whether there is nothing to do. A single statement, because it is called
        every second, and the result is nearly always true.

        Args:
            notes: values that the notes must have.
            updated_at: no unresolved alert may have its last update before this time.
            now: no group may be due at this time.

        Raises:
            SinkUnavailable: the state is unavailable, or locked for too long.
        """
        values = {"updated_at": updated_at, "now": now}
        with self.transaction() as connection:
            found = dict(connection.execute(_QUIET_NOTES, values).all())
        return notes.items() <= found.items()


class AlertTables:
    """The tables of alerts in a transaction. Times are epoch seconds.

    Attributes:
        now: start of the transaction, by the clock of the state.
    """

    def __init__(self, connection: Connection, now: float) -> None:
        self._db = connection
        self.now = now

    # --- alerts -----------------------------------------------------------

    def is_repeated(self, record_id: str, now: float) -> bool:
        """Store the id of a record. Return whether it was stored before."""
        new = insert(self._db, ALERTS_SEEN).on_conflict_do_nothing()
        values = {"id": storable(record_id), "at": now}
        made = self._db.execute(new.returning(ALERTS_SEEN.c.id), values)
        return made.first() is None

    def seen_since(self, at: float) -> list[str]:
        """Ids of the records that were received since a time."""
        query = select(ALERTS_SEEN.c.id).where(ALERTS_SEEN.c.at >= at)
        return list(self._db.execute(query).scalars())

    def alert(self, fingerprint: str) -> AlertState | None:
        """One alert; None if it is unknown."""
        query = _ALERT_STATES.where(ALERTS.c.fingerprint == fingerprint)
        return next(iter(self._read(_ALERT, query)), None)

    def alerts(self) -> list[AlertState]:
        """All alerts, resolved or not."""
        return self._read(_ALERT, _ALERT_STATES)

    def firing(self) -> list[AlertState]:
        """The alerts that are not resolved."""
        return self._read(_ALERT, _ALERT_STATES.where(ALERTS.c.firing))

    def firing_without_update_since(self, at: float) -> list[AlertState]:
        """The alerts that are not resolved, and had no update since a time."""
        query = _ALERT_STATES.where(ALERTS.c.firing, ALERTS.c.received_at < at)
        return self._read(_ALERT, query)

    def put_alert(self, alert: AlertState) -> None:
        """Store an alert."""
        values = {
            "fingerprint": alert.fingerprint,
            "state": _json(_ALERT, alert),
            "firing": alert.firing,
            "received_at": alert.received_at,
            "ends_at": alert.ends_at,
        }
        self._db.execute(put(self._db, ALERTS), values)

    # --- groups -----------------------------------------------------------

    def group(self, group_id: str) -> AlertGroup | None:
        """One group; None if there is none."""
        query = _GROUP_STATES.where(ALERT_GROUPS.c.id == group_id)
        return next(iter(self._read(_GROUP, query)), None)

    def put_group(
        self, group: AlertGroup, wake_at: float | None, *, claimed_until: float = 0.0
    ) -> None:
        """Store a group.

        Args:
            group: the group.
            wake_at: when it is due; None for not before :meth:`wake`.
            claimed_until: no other process gets it as due before this time.
        """
        change = insert(self._db, ALERT_GROUPS)
        new = change.excluded
        change = change.on_conflict_do_update(
            index_elements=ALERT_GROUPS.primary_key,
            set_={name: new[name] for name in ("state", "wake_at", "claimed_until")},
        )
        values = {
            "id": group.id,
            "state": _json(_GROUP, group),
            "tag": group.tag,
            "wake_at": wake_at,
            "claimed_until": claimed_until,
        }
        self._db.execute(change, values)

    def groups(self) -> list[AlertGroup]:
        """All groups."""
        return self._read(_GROUP, _GROUP_STATES)

    def drop_group(self, group_id: str) -> None:
        """Delete a group."""
        self._db.execute(delete(ALERT_GROUPS).where(ALERT_GROUPS.c.id == group_id))

    def has_tag(self, tag: str) -> bool:
        """Whether a group has this tag."""
        query = select(ALERT_GROUPS.c.id).where(ALERT_GROUPS.c.tag == tag)
        return self._db.execute(query).first() is not None

    def due_group(self, now: float) -> AlertGroup | None:
        """The most urgent group that is due, of equally urgent ones the one that has
        waited longest; None if none is due."""
        groups = ALERT_GROUPS.c
        query = (
            _GROUP_STATES.where(groups.wake_at <= now, groups.claimed_until <= now)
            .order_by(groups.urgency.desc(), groups.wake_at)
            .limit(1)
        )
        return next(iter(self._read(_GROUP, query)), None)

    def wake(self, group_id: str, now: float, urgency: int) -> None:
        """Make a group due. The urgency is raised, never lowered."""
        groups = ALERT_GROUPS.c
        highest = case((groups.urgency < urgency, urgency), else_=groups.urgency)
        change = update(ALERT_GROUPS).where(groups.id == group_id)
        self._db.execute(change.values(wake_at=now, urgency=highest))

    def wake_all(self, now: float) -> None:
        """Make every group due."""
        self._db.execute(update(ALERT_GROUPS).values(wake_at=now))

    # --- members ----------------------------------------------------------

    def members(self, group_id: str) -> list[Membership]:
        """The alerts of a group, with their last notified states."""
        query = (
            select(ALERTS.c.state, ALERT_MEMBERS.c.notified)
            .join_from(ALERT_MEMBERS, ALERTS)
            .where(ALERT_MEMBERS.c.group_id == group_id)
        )
        return [
            Membership(_ALERT.validate_json(state), _NOTIFIED.validate_json(notified))
            for state, notified in self._db.execute(query)
        ]

    def memberships(self, fingerprint: str) -> dict[str, NotificationState]:
        """Last notified states of an alert, by id of the group."""
        members = ALERT_MEMBERS.c
        query = select(members.group_id, members.notified).where(
            members.fingerprint == fingerprint
        )
        return {
            group_id: _NOTIFIED.validate_json(notified)
            for group_id, notified in self._db.execute(query)
        }

    def put_member(
        self, group_id: str, fingerprint: str, notified: NotificationState
    ) -> None:
        """Store the last notified state of an alert in a group."""
        values = {
            "group_id": group_id,
            "fingerprint": fingerprint,
            "notified": _json(_NOTIFIED, notified),
            "pending": notified.pending,
        }
        self._db.execute(put(self._db, ALERT_MEMBERS), values)

    def drop_member(self, group_id: str, fingerprint: str) -> None:
        """Remove an alert from a group."""
        members = ALERT_MEMBERS.c
        it = members.group_id == group_id, members.fingerprint == fingerprint
        self._db.execute(delete(ALERT_MEMBERS).where(*it))

    # --- silences and events ----------------------------------------------

    def silences(self) -> list[Silence]:
        """All silences, including those that ended recently."""
        return self._read(
            _SILENCE, select(SILENCES.c.state).order_by(SILENCES.c.ends_at)
        )

    def put_silence(self, silence: Silence) -> None:
        """Store a silence."""
        values = {
            "id": silence.id,
            "state": _json(_SILENCE, silence),
            "ends_at": silence.ends_at,
        }
        self._db.execute(put(self._db, SILENCES), values)

    def begin_silence(self, silence: Silence, now: float) -> Silence:
        """Store a silence, and add it to the history.

        Returns:
            The silence with this id: the stored one, if a call that is repeated stored
            it before.
        """
        for known in self.silences():
            if known.id == silence.id:
                return known
        self.put_silence(silence)
        title = " ".join(silence.matchers)
        self.record_action("silenced", title, silence.created_by, silence.comment, now)
        return silence

    def end_silence(self, silence: Silence, who: str, now: float) -> None:
        """End a silence now, and add that to the history."""
        self.put_silence(replace(silence, ends_at=now))
        title = " ".join(silence.matchers)
        self.record_action("silence ended", title, who, "", now)

    def acknowledge(self, alert: AlertState, who: str, now: float) -> None:
        """Stop reminders of this episode of an alert; add that to the history."""
        self.put_alert(replace(alert, acknowledged_by=who))
        self.record_action("acknowledged", alert.title, who, "", now)

    def record_action(
        self, kind: EventKind, title: str, who: str, detail: str, now: float
    ) -> None:
        """Add an action of a user to the history, and make every group due."""
        self.add_event(AlertEvent(now, kind, title, who, detail))
        self.wake_all(now)

    def add_event(self, event: AlertEvent) -> None:
        """Add an event to the history."""
        self._db.execute(ALERT_EVENTS.insert(), {"state": _json(_EVENT, event)})

    def history(self, limit: int) -> list[AlertEvent]:
        """The latest events, the newest first."""
        events = ALERT_EVENTS.c
        query = select(events.state).order_by(events.number.desc()).limit(limit)
        return self._read(_EVENT, query)

    # --- upkeep -----------------------------------------------------------

    def note(self, name: str) -> str | None:
        """The value of a note; None if there is none."""
        query = select(ALERT_NOTES.c.value).where(ALERT_NOTES.c.name == name)
        return self._db.execute(query).scalar()

    def change_note(self, name: str, value: str) -> bool:
        """Set a note. Return whether its value has changed."""
        if self.note(name) == value:
            return False
        self._db.execute(put(self._db, ALERT_NOTES), {"name": name, "value": value})
        return True

    def clamp_receipts(self, now: float) -> None:
        """Limit the times of receipt of records to ``now``."""
        self._db.execute(
            update(ALERTS_SEEN).where(ALERTS_SEEN.c.at > now).values(at=now)
        )

    def prune(self, now: float) -> list[AlertState]:
        """Delete old rows. Return the deleted alerts whose notification was pending."""
        alerts, members, events = ALERTS.c, ALERT_MEMBERS.c, ALERT_EVENTS.c
        over = now - KEEP_OVER_SECONDS
        surplus = (
            select(alerts.fingerprint)
            .order_by(alerts.received_at.desc())
            .limit(_ALL)
            .offset(KEEP_ALERTS)
        )
        is_old = or_(
            and_(not_(alerts.firing), alerts.ends_at < over),
            alerts.fingerprint.in_(surplus),
        )
        is_pending = alerts.fingerprint.in_(
            select(members.fingerprint).where(members.pending)
        )
        lost = self._read(_ALERT, _ALERT_STATES.where(is_old, is_pending))
        self._db.execute(delete(ALERTS).where(is_old))
        oldest = now - KEEP_SEEN_SECONDS
        self._db.execute(delete(ALERTS_SEEN).where(ALERTS_SEEN.c.at < oldest))
        self._db.execute(delete(SILENCES).where(SILENCES.c.ends_at < over))
        last = select(func.max(events.number)).scalar_subquery()
        self._db.execute(
            delete(ALERT_EVENTS).where(events.number <= last - KEEP_EVENTS)
        )
        return lost

    def _read(self, kind: TypeAdapter[_T], query: Select[Any]) -> list[_T]:
        texts = self._db.execute(query).scalars()
        return [kind.validate_json(text) for text in texts]


def _json(kind: TypeAdapter[_T], value: _T) -> str:
    return kind.dump_json(value, by_alias=True).decode()
