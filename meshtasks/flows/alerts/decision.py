"""Decides which alerts of a group to notify, and when to decide again, without side
effects.

A group has the last notified state of each of its alerts. It has news if that differs
from the state of the alert. So no change is lost, and a change is notified twice only
after a crash between sending and recording.

News are due ``group_wait`` after the first change, but not before ``group_interval``
after the last notification. Alertmanager checks a group every ``group_interval``
instead, so news of a group without recent notifications wait longer there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from meshtasks.flows.alerts.config import AlertPolicy, Flapping, Route
from meshtasks.flows.alerts.state import (
    AlertGroup,
    AlertState,
    NotificationState,
    Phase,
    Silence,
    rank,
)


class Mute(NamedTuple):
    """Why an alert is muted at present.

    Attributes:
        reason: ``silenced``, ``inhibited`` or ``quiet hours``.
        until: end of the mute, epoch seconds; None if unknown.
        keeps_pending: whether an alert that begins and ends meanwhile is notified
            afterwards.
    """

    reason: str
    until: float | None
    keeps_pending: bool


class Muting:
    """Mutes alerts at one time: by active alerts that inhibit, silences and quiet
    hours.

    Args:
        policy: the policy.
        silences: all silences.
        firing: all active alerts.
        now: epoch seconds.
    """

    def __init__(
        self,
        policy: AlertPolicy,
        silences: Sequence[Silence],
        firing: Sequence[AlertState],
        now: float,
    ) -> None:
        self._policy = policy
        self._silences = silences
        self._now = now
        self._inhibitors = [
            alert.labels for alert in firing if policy.may_inhibit(alert.labels)
        ]
        quiet = policy.quiet_hours
        self._quiet_until = quiet.end_of(now, policy.zone) if quiet else None

    def of(self, alert: AlertState) -> Mute | None:
        """Why an alert is muted; None if it is not."""
        labels = alert.labels
        ends = [
            silence.ends_at
            for silence in self._silences
            if silence.covers(labels, self._now)
        ]
        if ends:
            return Mute("silenced", max(ends), keeps_pending=False)
        if any(
            rule.inhibits(source, labels)
            for source in self._inhibitors
            for rule in self._policy.inhibit
        ):
            return Mute("inhibited", None, keeps_pending=False)
        if self._quiet_until is not None and alert.severity != "critical":
            return Mute("quiet hours", self._quiet_until, keeps_pending=True)
        return None


class Member(NamedTuple):
    """An alert of a group, its last notified state, and why it is muted, if it is."""

    alert: AlertState
    notified: NotificationState
    mute: Mute | None


class Decision(NamedTuple):
    """What to do with a group. Alerts are given by fingerprint.

    Attributes:
        notify: alerts to notify now; empty if none is due.
        repeats: whether the notification is only a reminder.
        pending: alerts whose news are due, but held back by quiet hours.
        drop: alerts that need no further notification.
        has_news: whether there are news, to be notified now or later.
        wake_at: when to decide again, epoch seconds; None for the next change.
    """

    notify: tuple[str, ...]
    repeats: bool
    pending: tuple[str, ...]
    drop: tuple[str, ...]
    has_news: bool
    wake_at: float | None


class _View(NamedTuple):
    """A member with its phase, and the time at which it stops flapping."""

    alert: AlertState
    notified: NotificationState
    mute: Mute | None
    phase: Phase
    settles_at: float | None

    @property
    def name(self) -> str:
        return self.alert.fingerprint

    @property
    def goes_on(self) -> bool:
        return self.phase != "resolved"

    @property
    def is_news(self) -> bool:
        known = self.notified
        if self.phase == "resolved":
            return known.pending if known.phase is None else known.phase != "resolved"
        if self.phase != known.phase:
            return True
        severity = known.severity
        return severity is not None and rank(self.alert.severity) > rank(severity)

    @property
    def is_open(self) -> bool:
        return self.is_news or self.goes_on

    @property
    def becomes_pending(self) -> bool:
        held_back = self.mute is not None and self.mute.keeps_pending
        return held_back and self.is_news and self.goes_on and not self.notified.pending


def decide(
    group: AlertGroup,
    members: Sequence[Member],
    route: Route,
    flapping: Flapping,
    now: float,
) -> Decision:
    """Decide what to do with a group.

    Args:
        group: the group.
        members: its alerts.
        route: its route.
        flapping: when an alert counts as flapping.
        now: epoch seconds.
    """
    views = [_view(member, flapping, now) for member in members]
    open_ = [view for view in views if view.is_open]
    audible = [view for view in open_ if view.mute is None]
    news = [view for view in audible if view.is_news]
    held_back = [view for view in open_ if view.becomes_pending]
    news_due_at = _news_due_at(group, route, now)
    reminders = [
        view.notified.at + route.repeat_interval
        for view in audible
        if not view.is_news and view.alert.acknowledged_by is None
    ]
    has_due_news = bool(news) and news_due_at <= now
    is_due = has_due_news or any(at <= now for at in reminders)
    waits = group.retry_at is not None and group.retry_at > now
    included = audible if has_due_news else [view for view in audible if view.goes_on]
    wakes = [
        *reminders,
        *(view.settles_at for view in views),
        *(view.mute.until for view in open_ if view.mute is not None),
        news_due_at if news or held_back else None,
        group.retry_at if is_due else None,
    ]
    return Decision(
        notify=tuple(view.name for view in included) if is_due and not waits else (),
        repeats=not has_due_news,
        pending=(tuple(view.name for view in held_back) if news_due_at <= now else ()),
        drop=tuple(view.name for view in views if not view.is_open),
        has_news=any(view.is_news for view in open_),
        wake_at=min((at for at in wakes if at is not None and at > now), default=None),
    )


def reviewed(group: AlertGroup, decision: Decision, now: float) -> AlertGroup:
    """The group after a decision, with the time since which it has news."""
    if not decision.has_news:
        return replace(group, news_at=None)
    return group if group.news_at is not None else replace(group, news_at=now)


def _view(member: Member, flapping: Flapping, now: float) -> _View:
    alert = member.alert
    phase, settles_at = alert.phase(flapping, now), alert.settles_at(flapping, now)
    return _View(*member, phase, settles_at)


def _news_due_at(group: AlertGroup, route: Route, now: float) -> float:
    gathered_at = (now if group.news_at is None else group.news_at) + route.group_wait
    if group.notified_at is None:
        return gathered_at
    return max(gathered_at, group.notified_at + route.group_interval)
