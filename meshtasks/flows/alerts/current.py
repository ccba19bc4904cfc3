"""Reads alerts, with their states in words, for commands and the console."""

from __future__ import annotations

from datetime import tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from meshtasks.flows.alerts.config import AlertPolicy, local_time
from meshtasks.flows.alerts.decision import Muting
from meshtasks.flows.alerts.state import AlertState, NotificationState, rank

if TYPE_CHECKING:
    from meshtasks.flows.alerts.store import AlertTables


class CurrentAlert(NamedTuple):
    """An alert, with its state in words.

    Attributes:
        alert: the alert.
        state: phase, or why it is muted.
        notified: phases of which receivers were notified, ``pending``, or ``-``.
    """

    alert: AlertState
    state: str
    notified: str

    def as_json(self) -> dict[str, Any]:
        """Plain data; times are epoch seconds."""
        alert = self.alert
        return {
            "fingerprint": alert.fingerprint,
            "state": self.state,
            "notified": self.notified,
            "severity": alert.severity,
            "title": alert.title,
            "message": alert.message,
            "source": alert.source,
            "labels": alert.own_labels,
            "starts_at": alert.starts_at,
            "ends_at": alert.ends_at,
            "acknowledged_by": alert.acknowledged_by,
        }


def current_alerts(
    tables: AlertTables, policy: AlertPolicy, now: float, *, every: bool
) -> list[CurrentAlert]:
    """The active alerts, or all if ``every``; active ones first, then by severity and
    start, the latest first."""
    firing = tables.firing()
    muting = Muting(policy, tables.silences(), firing, now)
    shown = [
        CurrentAlert(
            alert,
            _state(alert, policy, muting, now),
            _notified(tables.memberships(alert.fingerprint)),
        )
        for alert in (tables.alerts() if every else firing)
    ]
    return sorted(
        shown,
        key=lambda each: (
            not each.alert.firing,
            -rank(each.alert.severity),
            -each.alert.starts_at,
        ),
    )


class Episode(NamedTuple):
    """A time in which an alert was active, epoch seconds; no end while it is active."""

    began_at: float
    ended_at: float | None


def episodes(alert: AlertState) -> list[Episode]:
    """The known times in which an alert was active, the latest last."""
    changes = list(alert.changes)
    if not changes:
        return [Episode(alert.starts_at, alert.ends_at)]
    latest = [Episode(changes.pop(), None)] if alert.firing else []
    if len(changes) % 2:  # an end whose beginning is no longer stored
        changes = changes[1:]
    pairs = zip(changes[::2], changes[1::2], strict=True)
    return [Episode(*pair) for pair in pairs] + latest


def routes_notified(
    tables: AlertTables, fingerprint: str
) -> dict[str, NotificationState]:
    """The notified state of an alert, by name of the route."""
    memberships = tables.memberships(fingerprint)
    groups = {name: tables.group(name) for name in memberships}
    return {group.route: memberships[name] for name, group in groups.items() if group}


def route_line(route: str, known: NotificationState, zone: tzinfo | None) -> str:
    """The notified state of an alert in a route, and its time, as text."""
    moment = f"{local_time(known.at, zone):%d %b %H:%M}"
    phase = f"{known.phase} at {moment}" if known.phase else "nothing"
    return f"by route {route}: {phase}{' (pending)' * known.pending}"


def _state(alert: AlertState, policy: AlertPolicy, muting: Muting, now: float) -> str:
    if not alert.firing:
        return "resolved"
    if (mute := muting.of(alert)) is not None:
        return mute.reason
    if alert.phase(policy.flapping, now) == "flapping":
        return "flapping"
    return "acknowledged" if alert.acknowledged_by else "firing"


def _notified(memberships: dict[str, NotificationState]) -> str:
    known = memberships.values()
    if any(notified.pending for notified in known):
        return "pending"
    phases = sorted({notified.phase for notified in known if notified.phase})
    return ",".join(phases) or "-"
