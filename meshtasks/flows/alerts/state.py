r"""States of alerts, groups and silences, and their changes, without side effects.

Some fields have other names in the stored JSON, those of the first version of the file.

::

    (unknown) --firing--> firing --resolved, or no update for long--> resolved
                             ^                                            |
                             \------------------firing-------------------/

An alert that has changed too often recently is flapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from meshtasks.config.durations import span_text
from meshtasks.flows.alerts.config import Flapping, all_match, parse_matcher
from meshtasks.records.alert import Alert, Severity
from meshtasks.text import clip

Phase = Literal["firing", "flapping", "resolved"]

EventKind = Literal[
    "firing",
    "resolved",
    "given up",
    "sent",
    "not sent",
    "no receiver",
    "acknowledged",
    "silenced",
    "silence ended",
]

_RANKS: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}

#: Number of beginnings and ends that are stored, the most that flapping may count.
_KEPT_CHANGES = 50
#: An alert is published to two queues, so its updates may overtake each other.
#: Therefore an update lowers the severity only if it was published at least this long
#: after the latest one.
_OVERTAKING_SECONDS = 5.0
#: An episode that begins further in the future comes from a wrong clock; it is not
#: treated as later than episodes that begin now.
_CLOCK_TOLERANCE_SECONDS = 60.0

_TITLE_LIMIT_CHARS = 300
_MESSAGE_LIMIT_CHARS = 4_000


def rank(severity: Severity) -> int:
    """A number that is higher for a more severe severity."""
    return _RANKS[severity]


@dataclass(frozen=True, slots=True)
class AlertState:
    """One alert. Times are epoch seconds.

    Attributes:
        fingerprint: identifies the alert.
        title: one line.
        message: text.
        severity: severity of the present or last episode.
        source: what raised it.
        own_labels: labels without severity and source.
        firing: whether it is not resolved.
        began: latest ``starts_at`` of its updates, to distinguish episodes; None if
            they have none.
        starts_at: begin of the latest episode.
        ends_at: when it was resolved; None while it is not.
        published_at: when its latest update was published.
        received_at: when its latest update was received.
        changes: times of the latest beginnings and ends.
        acknowledged_by: who acknowledged this episode, so that there are no reminders.
    """

    fingerprint: str
    title: str
    message: str
    severity: Severity
    source: str
    own_labels: dict[str, str]
    firing: bool
    began: float | None
    starts_at: float
    ends_at: float | None
    published_at: Annotated[float, Field(alias="said_at")]
    received_at: Annotated[float, Field(alias="heard_at")]
    changes: tuple[float, ...] = ()
    acknowledged_by: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Labels for matchers and ``group_by``: with severity and source."""
        return {**self.own_labels, "severity": self.severity, "source": self.source}

    def phase(self, flapping: Flapping, now: float) -> Phase:
        """The phase that is notified."""
        if self.settles_at(flapping, now) is not None:
            return "flapping"
        return "firing" if self.firing else "resolved"

    def settles_at(self, flapping: Flapping, now: float) -> float | None:
        """When it stops flapping unless it changes; None if it is not flapping."""
        if len(self.changes) < flapping.changes:
            return None
        settles_at = self.changes[-flapping.changes] + flapping.within
        return settles_at if settles_at > now else None

    def clamped(self, now: float) -> AlertState:
        """The state after the clock was set back: no time is in the future, except
        ``began``, which is of the publisher's clock."""
        return replace(
            self,
            starts_at=min(self.starts_at, now),
            ends_at=_past(self.ends_at, now),
            published_at=min(self.published_at, now),
            received_at=min(self.received_at, now),
            changes=tuple(min(at, now) for at in self.changes),
        )


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """Alerts that share notifications. Times are epoch seconds.

    Attributes:
        id: see :class:`~meshtasks.flows.alerts.config.GroupKey`.
        route: name of its route.
        labels: common labels of its alerts.
        tag: identifies its notification on the phone; the next one replaces it.
        news_at: time of the first change that is not notified yet; None if there is
            none.
        notified_at: when its last notification was sent; None if none was.
        failures: number of failed attempts in a row.
        retry_at: no attempt before this time; None if the last did not fail.
    """

    id: str
    route: str
    labels: dict[str, str]
    tag: str
    news_at: float | None = None
    notified_at: float | None = None
    failures: int = 0
    retry_at: float | None = None

    def delivered(self, now: float) -> AlertGroup:
        """The group after a receiver accepted a notification."""
        return replace(self, news_at=None, notified_at=now, failures=0, retry_at=None)

    def failed(self, retry_at: float, *, counts: bool = True) -> AlertGroup:
        """The group after no receiver accepted a notification.

        Args:
            retry_at: when to retry.
            counts: whether to count the failure.
        """
        return replace(self, failures=self.failures + counts, retry_at=retry_at)

    def clamped(self, now: float) -> AlertGroup:
        """The group after the clock was set back: no time is in the future, so that the
        last notification does not delay the next one."""
        return replace(
            self,
            news_at=_past(self.news_at, now),
            notified_at=_past(self.notified_at, now),
            retry_at=_past(self.retry_at, now),
        )


@dataclass(frozen=True, slots=True)
class NotificationState:
    """The last notified state of an alert in a group.

    Attributes:
        phase: notified phase; None if the alert was not notified.
        severity: notified severity; None if the alert was not notified.
        at: time of the notification, epoch seconds.
        pending: whether a notification was due while the alert was active, but
            receivers failed or quiet hours held it back. It is sent even if the alert
            is resolved by then.
    """

    phase: Phase | None = None
    severity: Severity | None = None
    at: float = 0.0
    pending: Annotated[bool, Field(alias="owed")] = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Mutes matching alerts from ``starts_at`` to ``ends_at``, epoch seconds."""

    id: str
    matchers: tuple[str, ...]
    starts_at: float
    ends_at: float
    created_by: str
    comment: str

    def covers(self, labels: Mapping[str, str], now: float) -> bool:
        """Whether it mutes an alert with these labels now."""
        return self.starts_at <= now < self.ends_at and all_match(
            map(parse_matcher, self.matchers), labels
        )

    def shifted(self, now: float) -> Silence:
        """The silence after the clock was set back: if it would begin in the future, it
        begins now, and is as long as before."""
        return self.begun(now) if self.starts_at > now else self

    def begun(self, now: float) -> Silence:
        """The silence if it begins now, as long as before."""
        ends_at = now + (self.ends_at - self.starts_at)
        return replace(self, starts_at=now, ends_at=ends_at)


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """An entry of the history of alerts.

    Attributes:
        at: epoch seconds.
        kind: what happened.
        title: title of the alert or notification, or matchers of the silence.
        who: fingerprint of the alert, name of the receiver, or name of the user.
        detail: further text; may be empty.
    """

    at: float
    kind: EventKind
    title: str
    who: str = ""
    detail: str = ""


def update(
    known: AlertState | None, alert: Alert, published_at: float, now: float
) -> AlertState | None:
    """The state of an alert after an update.

    Args:
        known: state before; None if the alert is unknown.
        alert: the update.
        published_at: when it was published, epoch seconds, not later than ``now``.
        now: epoch seconds.

    Returns:
        None if the update is outdated: the beginning of an episode that has ended, or
        the end of an episode before the latest.
    """
    began = None if alert.starts_at is None else alert.starts_at.timestamp()
    if known is None:
        return _first(alert, began, published_at, now)
    if alert.resolved:
        is_of_earlier_episode = (
            began is not None
            and known.began is not None
            and began < known.began <= now + _CLOCK_TOLERANCE_SECONDS
        )
        if known.firing and is_of_earlier_episode:
            return None
        return _ended(known, alert, began, published_at, now)
    if known.firing:
        return _continued(known, alert, began, published_at, now)
    if began is not None and began == known.began:
        return None
    return replace(
        _first(alert, began, published_at, now),
        changes=_with_change(known, now),
        published_at=max(known.published_at, published_at),
    )


def timed_out(known: AlertState, timeout_seconds: float, now: float) -> AlertState:
    """The state of an alert that is resolved because it had no update for a time."""
    return replace(
        known,
        firing=False,
        ends_at=now,
        message=f"No news of it for {span_text(timeout_seconds)}; taken as over.",
        changes=_with_change(known, now),
    )


def _first(
    alert: Alert, began: float | None, published_at: float, now: float
) -> AlertState:
    return AlertState(
        fingerprint=alert.fingerprint,
        title=clip(alert.title, _TITLE_LIMIT_CHARS),
        message=clip(alert.message, _MESSAGE_LIMIT_CHARS),
        severity=alert.severity,
        source=alert.source,
        own_labels=alert.labels,
        firing=not alert.resolved,
        began=began,
        starts_at=published_at if began is None else began,
        ends_at=now if alert.resolved else None,
        published_at=published_at,
        received_at=now,
        changes=() if alert.resolved else (now,),
    )


def _continued(
    known: AlertState,
    alert: Alert,
    began: float | None,
    published_at: float,
    now: float,
) -> AlertState:
    later = published_at >= known.published_at
    falls = rank(alert.severity) < rank(known.severity)
    keeps = falls and published_at < known.published_at + _OVERTAKING_SECONDS
    starts_later = began is not None and (
        known.began is None
        or began > known.began
        or known.began > now + _CLOCK_TOLERANCE_SECONDS
    )
    return replace(
        _with_texts(known, alert) if later else known,
        severity=known.severity if keeps else alert.severity,
        own_labels=alert.labels if later else known.own_labels,
        began=began if starts_later else known.began,
        published_at=max(known.published_at, published_at),
        received_at=now,
    )


def _ended(
    known: AlertState,
    alert: Alert,
    began: float | None,
    published_at: float,
    now: float,
) -> AlertState:
    begun = [at for at in (known.began, began) if at is not None]
    possible = [at for at in begun if at <= now + _CLOCK_TOLERANCE_SECONDS]
    latest = max(possible or begun, default=0)
    ended = replace(
        known,
        began=latest or None,  # the update of its beginning may still arrive
        published_at=max(known.published_at, published_at),
        received_at=now,
    )
    if not known.firing:
        return ended
    return replace(
        _with_texts(ended, alert),
        firing=False,
        ends_at=now,
        changes=_with_change(known, now),
    )


def _with_texts(known: AlertState, alert: Alert) -> AlertState:
    title = clip(alert.title, _TITLE_LIMIT_CHARS)
    message = clip(alert.message, _MESSAGE_LIMIT_CHARS)
    return replace(known, title=title, message=message)


def _with_change(known: AlertState, now: float) -> tuple[float, ...]:
    return (*known.changes, now)[-_KEPT_CHANGES:]


def _past(at: float | None, now: float) -> float | None:
    return None if at is None else min(at, now)
