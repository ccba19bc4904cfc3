"""What a group of alerts has to tell, and when to look at it again.

A group remembers of each alert what its receivers were told last. It has news when
that differs from how the alert stands now; so news cannot be lost on the way, and
telling them twice takes nothing but a crash between sending and noting it.

The earliest moment to tell news is ``group_wait`` after the first of them and
``group_interval`` after the last notification. Alertmanager looks at a group every
``group_interval`` instead, so news of a group that was long quiet waits longer there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from meshtasks.flows.alerts.config import Flapping, Route
from meshtasks.flows.alerts.muting import Mute
from meshtasks.flows.alerts.standing import Phase, Standing, rank
from meshtasks.records.alert import Severity


@dataclass(frozen=True, slots=True)
class Group:
    """Alerts that are told together. Times are epoch seconds.

    Attributes:
        id: see :class:`~meshtasks.flows.alerts.config.GroupKey`.
        route: name of its route.
        labels: what its alerts have in common.
        tag: names its notification on the phone, which the next one replaces.
        news_at: when the first news came that are not told yet.
        notified_at: when it was last told.
        failures: attempts to tell it that failed in a row.
        retry_at: not before then is it tried again.
    """

    id: str
    route: str
    labels: dict[str, str]
    tag: str
    news_at: float | None = None
    notified_at: float | None = None
    failures: int = 0
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a group's receivers know of one of its alerts.

    Attributes:
        phase: the phase they were told last; None for nothing.
        severity: the severity they were told last.
        at: when that was, epoch seconds.
        owed: telling it was due while the alert fired, but receivers failed or
            quiet hours held it back; it is told even if it is over by then.
    """

    phase: Phase | None = None
    severity: Severity | None = None
    at: float = 0.0
    owed: bool = False


class Member(NamedTuple):
    """An alert of a group, what is known of it, and why it may not be told."""

    alert: Standing
    told: Told
    mute: Mute | None


class Decision(NamedTuple):
    """What to do with a group.

    Attributes:
        tell: fingerprints of the alerts to tell now; empty when nothing is due.
        repeats: what is told is only reminders.
        owe: fingerprints of the alerts whose news is due, but held back.
        forget: fingerprints of the alerts that there is nothing more to tell of.
        has_news: there is news, told now or later.
        wake_at: when to decide again, epoch seconds; None: when something happens.
    """

    tell: tuple[str, ...]
    repeats: bool
    owe: tuple[str, ...]
    forget: tuple[str, ...]
    has_news: bool
    wake_at: float | None


def decide(
    group: Group,
    members: Sequence[Member],
    route: Route,
    flapping: Flapping,
    now: float,
) -> Decision:
    """Decide what to do with a group now.

    Args:
        group: the group.
        members: its alerts.
        route: its route.
        flapping: what counts as flapping.
        now: epoch seconds.
    """
    views = [_view(member, flapping, now) for member in members]
    open_ = [each for each in views if each.is_open]
    audible = [each for each in open_ if each.mute is None]
    news = [each for each in audible if each.is_news]
    held_back = [each for each in open_ if each.would_be_owed]
    news_due_at = _news_due_at(group, route, now)
    reminders = [
        each.told.at + route.repeat_interval
        for each in audible
        if not each.is_news and each.alert.acknowledged_by is None
    ]
    tells_news = bool(news) and news_due_at <= now
    is_due = tells_news or any(at <= now for at in reminders)
    waits = group.retry_at is not None and group.retry_at > now
    told = audible if tells_news else [each for each in audible if each.goes_on]
    wakes = [
        *reminders,
        *(each.settles_at for each in views),
        *(each.mute.until for each in open_ if each.mute is not None),
        news_due_at if news or held_back else None,
        group.retry_at if is_due else None,
    ]
    return Decision(
        tell=tuple(each.name for each in told) if is_due and not waits else (),
        repeats=not tells_news,
        owe=tuple(each.name for each in held_back) if news_due_at <= now else (),
        forget=tuple(each.name for each in views if not each.is_open),
        has_news=any(each.is_news for each in open_),
        wake_at=min((at for at in wakes if at is not None and at > now), default=None),
    )


def reviewed(group: Group, decision: Decision, now: float) -> Group:
    """The group after a decision: it knows since when it has news."""
    if not decision.has_news:
        return replace(group, news_at=None)
    return group if group.news_at is not None else replace(group, news_at=now)


def taken(group: Group, now: float) -> Group:
    """The group after a receiver took a notification."""
    return replace(group, news_at=None, notified_at=now, failures=0, retry_at=None)


def failed(group: Group, retry_at: float, *, counts: bool = True) -> Group:
    """The group after no receiver took a notification."""
    return replace(group, failures=group.failures + counts, retry_at=retry_at)


def clock_put_right(group: Group, now: float) -> Group:
    """The group after the host's clock was put back: a notification that was told by
    the wrong clock must not keep it quiet until that time comes."""

    def past(at: float | None) -> float | None:
        return None if at is None else min(at, now)

    return replace(
        group,
        news_at=past(group.news_at),
        notified_at=past(group.notified_at),
        retry_at=past(group.retry_at),
    )


class _View(NamedTuple):
    """A member as a decision sees it."""

    alert: Standing
    told: Told
    mute: Mute | None
    phase: Phase
    settles_at: float | None
    is_news: bool

    @property
    def name(self) -> str:
        return self.alert.fingerprint

    @property
    def goes_on(self) -> bool:
        return self.phase != "resolved"

    @property
    def is_open(self) -> bool:
        return self.is_news or self.goes_on

    @property
    def would_be_owed(self) -> bool:
        held_back = self.mute is not None and self.mute.owes
        return held_back and self.is_news and self.goes_on and not self.told.owed


def _view(member: Member, flapping: Flapping, now: float) -> _View:
    alert, told, mute = member
    phase = alert.phase(flapping, now)
    settles_at = alert.settles_at(flapping, now)
    return _View(alert, told, mute, phase, settles_at, _is_news(alert, phase, told))


def _is_news(alert: Standing, phase: Phase, told: Told) -> bool:
    if phase == "resolved":
        return told.owed if told.phase is None else told.phase != "resolved"
    if phase != told.phase:
        return True
    return told.severity is not None and rank(alert.severity) > rank(told.severity)


def _news_due_at(group: Group, route: Route, now: float) -> float:
    gathered_at = (now if group.news_at is None else group.news_at) + route.group_wait
    if group.notified_at is None:
        return gathered_at
    return max(gathered_at, group.notified_at + route.group_interval)
