r"""What is remembered of alerts, and what an update changes; pure. The JSON names of
stored fields are those of the first version of the file.

::

    (unknown) --firing--> firing --resolved, or no update for long--> resolved
                             ^                                            |
                             \------------------firing-------------------/

An alert that changed between the two too often lately is flapping.
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

#: Beginnings and ends that are remembered; as many as flapping may count.
_KEPT_CHANGES = 50
#: An alert is published to two queues, and its updates may overtake each other. So
#: its severity does not fall by an update published within so many seconds.
_OVERTAKING_SECONDS = 5.0
#: An episode that began further ahead than this began by a wrong clock: it is not
#: taken for later than those that begin now.
_CLOCK_TOLERANCE_SECONDS = 60.0

_TITLE_LIMIT_CHARS = 300
_MESSAGE_LIMIT_CHARS = 4_000


def rank(severity: Severity) -> int:
    """Severities in order: the more severe, the higher."""
    return _RANKS[severity]


@dataclass(frozen=True, slots=True)
class AlertState:
    """One alert. Times are epoch seconds.

    Attributes:
        own_labels: its labels, without severity and source.
        firing: it goes on.
        began: ``starts_at`` of its latest update, if that had one; distinguishes
            episodes.
        starts_at: when the latest episode began.
        ends_at: when it was resolved; None while it goes on.
        published_at: when its latest update was published.
        received_at: when its latest update came in.
        changes: when it began and ended, as far as is remembered.
        acknowledged_by: who wants no more reminders of this episode.
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
        """What matchers and ``group_by`` see."""
        return {**self.own_labels, "severity": self.severity, "source": self.source}

    def phase(self, flapping: Flapping, now: float) -> Phase:
        """How it is notified."""
        if self.settles_at(flapping, now) is not None:
            return "flapping"
        return "firing" if self.firing else "resolved"

    def settles_at(self, flapping: Flapping, now: float) -> float | None:
        """When it stops flapping if it changes no more; None if it does not flap."""
        if len(self.changes) < flapping.changes:
            return None
        settles_at = self.changes[-flapping.changes] + flapping.within
        return settles_at if settles_at > now else None

    def clamped(self, now: float) -> AlertState:
        """The state after the host's clock was set back: nothing recorded here lies
        ahead. (``began`` is the publisher's.)"""
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
        labels: what its alerts have in common.
        tag: identifies its notification on the phone, which the next one replaces.
        news_at: when the first change came that is not notified yet.
        notified_at: when its last notification was sent.
        failures: failed attempts to notify in a row.
        retry_at: no attempt before then.
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
        """The group after a receiver took a notification."""
        return replace(self, news_at=None, notified_at=now, failures=0, retry_at=None)

    def failed(self, retry_at: float, *, counts: bool = True) -> AlertGroup:
        """The group after no receiver took a notification."""
        return replace(self, failures=self.failures + counts, retry_at=retry_at)

    def clamped(self, now: float) -> AlertGroup:
        """The group after the host's clock was set back: a notification sent by the
        wrong clock must not delay the next one until that time."""
        return replace(
            self,
            news_at=_past(self.news_at, now),
            notified_at=_past(self.notified_at, now),
            retry_at=_past(self.retry_at, now),
        )


@dataclass(frozen=True, slots=True)
class NotificationState:
    """What the receivers of a group know of one of its alerts: phase and severity, None
    for nothing, and when they were notified.

    Attributes:
        pending: a notification was due while the alert fired, but receivers failed or
            quiet hours held it back; it is sent even if the alert is resolved by then.
    """

    phase: Phase | None = None
    severity: Severity | None = None
    at: float = 0.0
    pending: Annotated[bool, Field(alias="owed")] = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Mutes the alerts that match, from ``starts_at`` to ``ends_at``, epoch seconds."""

    id: str
    matchers: tuple[str, ...]
    starts_at: float
    ends_at: float
    created_by: str
    comment: str

    def covers(self, labels: Mapping[str, str], now: float) -> bool:
        """Whether it silences an alert with these labels now."""
        return self.starts_at <= now < self.ends_at and all_match(
            map(parse_matcher, self.matchers), labels
        )

    def shifted(self, now: float) -> Silence:
        """The silence after the host's clock was set back: one that would begin later
        begins now, and is as long as before."""
        ahead = max(0.0, self.starts_at - now)
        starts_at, ends_at = self.starts_at - ahead, self.ends_at - ahead
        return replace(self, starts_at=starts_at, ends_at=ends_at)


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """Something that happened to an alert, for people to read.

    Attributes:
        title: of the alert or the notification; the matchers of a silence.
        who: the fingerprint of the alert, the receiver or the user.
    """

    at: float
    kind: EventKind
    title: str
    who: str = ""
    detail: str = ""


def update(
    known: AlertState | None, alert: Alert, published_at: float, now: float
) -> AlertState | None:
    """The state of an alert after an update that was published at that time (not later
    than now). None when the update is outdated: the beginning of an episode that is
    over, or the end of one before the latest."""
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
    """An alert that is resolved because no update came for so long."""
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
        began=latest or None,  # of an episode whose beginning may yet come, too late
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
