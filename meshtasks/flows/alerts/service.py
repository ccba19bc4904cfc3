r"""Changes the stored state of alerts, one transaction for each step, and reads it.

::

    updates --receive--> groups due --claim--> notification --(sent or not)--> resolve
                             ^                                                    |
                             \---------------------- wake_at --------------------/

A claim lasts longer than sending can take. If the worker is killed, the claim expires,
and the notification is sent again. So it may be sent twice, but is never lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from meshtasks.flows.alerts.config import AlertPolicy, GroupKey
from meshtasks.flows.alerts.decision import Member, Muting, decide, reviewed
from meshtasks.flows.alerts.state import (
    AlertEvent,
    AlertGroup,
    AlertState,
    EventKind,
    NotificationState,
    Phase,
    rank,
    timed_out,
    update,
)
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.records.alert import Alert

if TYPE_CHECKING:
    from meshtasks.flows.alerts.store import AlertStore, AlertTables


def _open_store(sinks: Sinks) -> AlertStore:
    # loads SQLAlchemy
    from meshtasks.flows.alerts.store import AlertStore  # noqa: PLC0415
    from meshtasks.state.database import StateLocation  # noqa: PLC0415

    return AlertStore(StateLocation.of(sinks.settings.env))


#: The state of alerts: known alerts and their notifications.
ALERT_STATE = SinkKey("alert_state", _open_store)

#: Duration of a claim per receiver; longer than any receiver takes to fail.
_CLAIM_SECONDS_PER_RECEIVER = 60.0

_PRUNE_EVERY_SECONDS = 3_600.0
#: Names of the notes: time, digest of the configuration, last deletion of old rows.
_CLOCK, _POLICY, _PRUNED = "clock", "policy", "pruned"
#: Resolution of the recorded time. If the clock is set back by more, it is noticed.
_CLOCK_SECONDS = 10.0


class AlertUpdate(NamedTuple):
    """One record of a queue of alerts, its id (the same if it is delivered again), and
    its time of publication, epoch seconds."""

    record_id: str
    alert: Alert
    published_at: float


class ClaimedNotification(NamedTuple):
    """A notification to send: alerts of a group, the phase of each by fingerprint, and
    whether it is only a reminder."""

    group: AlertGroup
    alerts: list[AlertState]
    phases: dict[str, Phase]
    repeats: bool


class AlertService:
    """Stores updates of alerts, and claims notifications. Times are epoch seconds.

    Every method raises SinkUnavailable if the state is busy or unavailable.
    """

    def __init__(self, store: AlertStore, policy: AlertPolicy) -> None:
        self._store = store
        self._policy = policy

    def receive(self, updates: Iterable[AlertUpdate], now: float) -> None:
        """Store the states of alerts after updates. Repeated records change nothing."""
        inhibits = False
        with self._store.tables() as tables:
            _watch_clock(tables, now)
            for record_id, alert, published_at in updates:
                if tables.is_repeated(record_id, now):
                    continue
                known = tables.alert(alert.fingerprint)
                state = update(known, alert, published_at, now)
                if state is not None:
                    inhibits |= self._store_change(tables, known, state, now)
            if inhibits:
                tables.wake_all(now)

    def claim(self, now: float) -> ClaimedNotification | None:
        """Claim the most urgent notification that is due; None if none is due.

        The caller must send it and then call :meth:`resolve`.
        """
        policy = self._policy
        upkeep = {
            _CLOCK: _clock_note(now),
            _POLICY: policy.digest,
            _PRUNED: _prune_note(now),
        }
        if self._store.is_quiet(upkeep, now - policy.resolve_timeout, now):
            return None
        with self._store.tables() as tables:
            self._keep_up(tables, now)
            while (group := tables.due_group(now)) is not None:
                claimed = self._review(tables, group, now)
                if claimed is not None:
                    return claimed
        return None

    def resolve(
        self,
        claimed: ClaimedNotification,
        events: Iterable[AlertEvent],
        now: float,
        *,
        retry_at: float | None,
        tried: bool = True,
    ) -> None:
        """Store the result of a notification.

        Args:
            claimed: the notification.
            events: events for the history.
            now: epoch seconds.
            retry_at: when to retry; None if no retry is needed.
            tried: whether a receiver was tried, so that a failure counts.
        """
        with self._store.tables() as tables:
            for event in events:
                tables.add_event(event)
            group = tables.group(claimed.group.id)
            if group is None:
                return
            known = {
                alert.fingerprint: notified
                for alert, notified in tables.members(group.id)
            }
            for alert in claimed.alerts:
                name = alert.fingerprint
                if name not in known:
                    continue
                phase = claimed.phases[name]
                if retry_at is None:
                    notified = NotificationState(phase, alert.severity, at=now)
                else:
                    pending = known[name].pending or phase != "resolved"
                    notified = replace(known[name], pending=pending)
                tables.put_member(group.id, name, notified)
            if retry_at is None:
                group = group.delivered(now)
            else:
                group = group.failed(retry_at, counts=tried)
            tables.put_group(group, wake_at=now)

    def _store_change(
        self,
        tables: AlertTables,
        known: AlertState | None,
        alert: AlertState,
        now: float,
    ) -> bool:
        """Store a changed alert and put it into its groups.

        Returns:
            Whether all groups must be checked, because other alerts may now be
            inhibited, or no longer. The caller wakes them once for all alerts.
        """
        tables.put_alert(alert)
        changes = alert.firing != (known is not None and known.firing)
        if changes:
            kind: EventKind = "firing" if alert.firing else "resolved"
            tables.add_event(
                AlertEvent(now, kind, alert.title, alert.fingerprint, alert.message)
            )
        self._assign(tables, alert, now, moves=False)
        return changes and self._policy.may_inhibit(alert.labels)

    def _assign(
        self, tables: AlertTables, alert: AlertState, now: float, *, moves: bool
    ) -> None:
        """Put an alert into its groups, and make these due.

        A resolved alert stays in the groups in which it was notified. If ``moves``, the
        routes have changed, not the alert: its notified state is kept, so that it is
        not notified again.
        """
        name = alert.fingerprint
        present = tables.memberships(name)
        keys: Mapping[str, GroupKey] = {}
        if alert.firing or (moves and present):
            keys = {key.id: key for key in self._policy.groups_of(name, alert.labels)}
            known = NotificationState()
            if moves:
                known = max(present.values(), key=lambda state: state.at, default=known)
            free_tags = _leave(tables, name, present, present.keys() - keys.keys())
            for key in keys.values():
                if key.id in present:
                    continue
                if tables.group(key.id) is None:
                    _open_group(tables, key, free_tags)
                tables.put_member(key.id, name, known)
        for group_id in keys or present:
            tables.wake(group_id, now, rank(alert.severity))

    def _review(
        self, tables: AlertTables, group: AlertGroup, now: float
    ) -> ClaimedNotification | None:
        """Decide what to do with a group; claim it if a notification is due."""
        policy = self._policy
        route = policy.by_name[group.route]
        present = tables.members(group.id)
        # There may be thousands of active alerts, which most groups do not need.
        inhibited = any(policy.may_be_inhibited(alert.labels) for alert, _ in present)
        firing = tables.firing() if inhibited else ()
        muting = Muting(policy, tables.silences(), firing, now)
        members = [Member(alert, known, muting.of(alert)) for alert, known in present]
        decision = decide(group, members, route, policy.flapping, now)
        group = reviewed(group, decision, now)
        for name in decision.drop:
            tables.drop_member(group.id, name)
        known_by_name = {alert.fingerprint: known for alert, known in present}
        for name in decision.pending:
            pending = replace(known_by_name[name], pending=True)
            tables.put_member(group.id, name, pending)
        if decision.notify:
            until = now + _CLAIM_SECONDS_PER_RECEIVER * (len(route.receivers) + 1)
            tables.put_group(group, wake_at=now, claimed_until=until)
            chosen = frozenset(decision.notify)
            alerts = [alert for alert, _ in present if alert.fingerprint in chosen]
            phases = {
                alert.fingerprint: alert.phase(policy.flapping, now) for alert in alerts
            }
            return ClaimedNotification(group, alerts, phases, decision.repeats)
        wake_at = decision.wake_at
        if len(decision.drop) == len(present):
            # An empty group is kept for its interval: otherwise an alert that returns
            # would be notified too soon.
            wake_at = (group.notified_at or 0.0) + route.group_interval
            if wake_at <= now:
                tables.drop_group(group.id)
                return None
        tables.put_group(group, wake_at)
        return None

    def _keep_up(self, tables: AlertTables, now: float) -> None:
        """Apply a changed clock or configuration, resolve alerts without updates, and
        delete old rows."""
        _watch_clock(tables, now)
        if tables.change_note(_POLICY, self._policy.digest):
            for alert in tables.alerts():
                self._assign(tables, alert, now, moves=True)
        inhibited = False
        timeout = self._policy.resolve_timeout
        for known in tables.firing_without_update_since(now - timeout):
            alert = timed_out(known, timeout, now)
            inhibited |= self._store_change(tables, known, alert, now)
        if inhibited:
            tables.wake_all(now)
        if tables.change_note(_PRUNED, _prune_note(now)):
            detail = "no receiver took it in time"
            for alert in tables.prune(now):
                name = alert.fingerprint
                tables.add_event(AlertEvent(now, "given up", alert.title, name, detail))


def _leave(
    tables: AlertTables,
    fingerprint: str,
    present: Mapping[str, NotificationState],
    group_ids: Iterable[str],
) -> list[str]:
    """Remove an alert from groups, and delete groups that are then empty.

    Returns:
        Tags of the deleted groups that were notified. A new group that uses one of them
        replaces the old notification on the phone, which would not be updated any more.
    """
    free_tags = []
    for group_id in group_ids:
        tables.drop_member(group_id, fingerprint)
        group = tables.group(group_id)
        if group is not None and not tables.members(group_id):
            tables.drop_group(group_id)
            if present[group_id].phase is not None:
                free_tags.append(group.tag)
    return free_tags


def _open_group(tables: AlertTables, key: GroupKey, free_tags: list[str]) -> None:
    tag = free_tags.pop() if free_tags else f"mesh-{key.id}"
    while tables.has_tag(tag):  # another group has taken it over
        tag += "-"
    tables.put_group(AlertGroup(key.id, key.route, key.labels, tag), wake_at=None)


def _watch_clock(tables: AlertTables, now: float) -> None:
    """If the clock was set back, limit all stored times to the present."""
    recorded = tables.note(_CLOCK)
    if recorded is None or now < float(recorded):
        _clamp(tables, now)
    tables.change_note(_CLOCK, _clock_note(now))


def _clamp(tables: AlertTables, now: float) -> None:
    """Limit all stored times to the present: a notification with a future time would
    delay the next one."""
    for alert in tables.alerts():
        tables.put_alert(alert.clamped(now))
    for group in tables.groups():
        for alert, notified in tables.members(group.id):
            if notified.at > now:
                right = replace(notified, at=now)
                tables.put_member(group.id, alert.fingerprint, right)
        tables.put_group(group.clamped(now), wake_at=now)
    for silence in tables.silences():
        tables.put_silence(silence.shifted(now))
    tables.clamp_receipts(now)


def _clock_note(now: float) -> str:
    return str(now // _CLOCK_SECONDS * _CLOCK_SECONDS)


def _prune_note(now: float) -> str:
    return str(now // _PRUNE_EVERY_SECONDS)
