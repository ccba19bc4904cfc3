r"""How an alert stands: what its news make of it.

::

    (unknown) --firing--> firing --resolved, or no news for long--> over
                             ^                                        |
                             \---------------firing------------------/

An alert that changed between the two too often lately counts as flapping.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from meshtasks.config.durations import span_text
from meshtasks.flows.alerts.config import Flapping
from meshtasks.records.alert import Alert, Severity
from meshtasks.text import clip

Phase = Literal["firing", "flapping", "resolved"]

_RANKS: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}

#: Beginnings and ends that are remembered; as many as flapping may count.
_KEPT_CHANGES = 50
#: An alert is published to two queues, and its news may overtake each other. So
#: its severity does not fall by news said within so many seconds.
_OVERTAKING_SECONDS = 5.0
#: An episode that began further ahead than this began by a clock that was wrong: it
#: is not taken for later than the ones that are told of now.
_CLOCK_TOLERANCE_SECONDS = 60.0

_TITLE_LIMIT_CHARS = 300
_MESSAGE_LIMIT_CHARS = 4_000


def rank(severity: Severity) -> int:
    """Severities in order: the graver, the higher."""
    return _RANKS[severity]


@dataclass(frozen=True, slots=True)
class Standing:
    """One alert. Times are epoch seconds.

    Attributes:
        fingerprint: its identity.
        title: one line for people.
        message: what happened, for people.
        severity: how urgent it is.
        source: who says so.
        own_labels: what it is about.
        firing: it goes on.
        began: ``starts_at`` of its latest news, if they had one; tells an episode
            from another.
        starts_at: when the latest episode began.
        ends_at: when it was over; None while it goes on.
        said_at: when its latest news was published.
        heard_at: when its latest news came in.
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
    said_at: float
    heard_at: float
    changes: tuple[float, ...] = ()
    acknowledged_by: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What matchers and ``group_by`` look at."""
        return {**self.own_labels, "severity": self.severity, "source": self.source}

    def phase(self, flapping: Flapping, now: float) -> Phase:
        """What is to be told of it."""
        if self.settles_at(flapping, now) is not None:
            return "flapping"
        return "firing" if self.firing else "resolved"

    def settles_at(self, flapping: Flapping, now: float) -> float | None:
        """When it no longer counts as flapping if it changes no more; None if it
        does not flap."""
        if len(self.changes) < flapping.changes:
            return None
        settles_at = self.changes[-flapping.changes] + flapping.within
        return settles_at if settles_at > now else None


def hear(
    known: Standing | None, alert: Alert, said_at: float, now: float
) -> Standing | None:
    """How an alert stands after news of it.

    Args:
        known: how it stood; None if it was not known.
        alert: the news.
        said_at: when it was published, epoch seconds; not later than now.
        now: epoch seconds.

    Returns:
        The new standing; None when the news is old: the beginning of an episode
        that is over, or the end of one before the latest.
    """
    began = None if alert.starts_at is None else alert.starts_at.timestamp()
    if known is None:
        return _first_heard(alert, began, said_at, now)
    same_episode = began is not None and began == known.began
    earlier_episode = (
        began is not None
        and known.began is not None
        and began < known.began <= now + _CLOCK_TOLERANCE_SECONDS
    )
    if alert.resolved:
        if known.firing and earlier_episode:
            return None
        return _ended(known, alert, began, said_at, now)
    if known.firing:
        return _continued(known, alert, began, said_at, now)
    if same_episode:
        return None
    return replace(
        _first_heard(alert, began, said_at, now),
        changes=_with_change(known, now),
        said_at=max(known.said_at, said_at),
    )


def given_up(known: Standing, timeout_seconds: float, now: float) -> Standing:
    """An alert that counts as over, since nobody spoke of it for so long."""
    return replace(
        known,
        firing=False,
        ends_at=now,
        message=f"No news of it for {span_text(timeout_seconds)}; taken as over.",
        changes=_with_change(known, now),
    )


def clock_put_right(known: Standing, now: float) -> Standing:
    """An alert after the host's clock was put back: nothing that was noted of it lies
    ahead. (When it began is its publisher's to say.)"""
    return replace(
        known,
        starts_at=min(known.starts_at, now),
        ends_at=None if known.ends_at is None else min(known.ends_at, now),
        said_at=min(known.said_at, now),
        heard_at=min(known.heard_at, now),
        changes=tuple(min(at, now) for at in known.changes),
    )


def _first_heard(
    alert: Alert, began: float | None, said_at: float, now: float
) -> Standing:
    return Standing(
        fingerprint=alert.fingerprint,
        title=clip(alert.title, _TITLE_LIMIT_CHARS),
        message=clip(alert.message, _MESSAGE_LIMIT_CHARS),
        severity=alert.severity,
        source=alert.source,
        own_labels=alert.labels,
        firing=not alert.resolved,
        began=began,
        starts_at=said_at if began is None else began,
        ends_at=now if alert.resolved else None,
        said_at=said_at,
        heard_at=now,
        changes=() if alert.resolved else (now,),
    )


def _continued(
    known: Standing, alert: Alert, began: float | None, said_at: float, now: float
) -> Standing:
    later = said_at >= known.said_at
    falls = rank(alert.severity) < rank(known.severity)
    keeps = falls and said_at < known.said_at + _OVERTAKING_SECONDS
    starts_later = began is not None and (
        known.began is None
        or began > known.began
        or known.began > now + _CLOCK_TOLERANCE_SECONDS
    )
    return replace(
        known,
        title=clip(alert.title, _TITLE_LIMIT_CHARS) if later else known.title,
        message=clip(alert.message, _MESSAGE_LIMIT_CHARS) if later else known.message,
        severity=known.severity if keeps else alert.severity,
        own_labels=alert.labels if later else known.own_labels,
        began=began if starts_later else known.began,
        said_at=max(known.said_at, said_at),
        heard_at=now,
    )


def _ended(
    known: Standing, alert: Alert, began: float | None, said_at: float, now: float
) -> Standing:
    begun = [each for each in (known.began, began) if each is not None]
    right = [each for each in begun if each <= now + _CLOCK_TOLERANCE_SECONDS]
    latest = max(right or begun, default=0)
    ended = replace(
        known,
        began=latest or None,  # of an episode whose beginning may yet come, too late
        said_at=max(known.said_at, said_at),
        heard_at=now,
    )
    if not known.firing:
        return ended
    return replace(
        ended,
        title=clip(alert.title, _TITLE_LIMIT_CHARS),
        message=clip(alert.message, _MESSAGE_LIMIT_CHARS),
        firing=False,
        ends_at=now,
        changes=_with_change(known, now),
    )


def _with_change(known: Standing, now: float) -> tuple[float, ...]:
    return (*known.changes, now)[-_KEPT_CHANGES:]
