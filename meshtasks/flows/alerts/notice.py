"""What is told: the alerts as templates see them, and the notification they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from meshtasks.flows.alerts.config import Flapping
from meshtasks.flows.alerts.decision import Group
from meshtasks.flows.alerts.quiet import local_time
from meshtasks.flows.alerts.standing import Phase, Standing, rank
from meshtasks.records.alert import Severity


@dataclass(frozen=True, slots=True)
class Said:
    """One alert of a notice.

    Attributes:
        title: one line.
        message: what happened.
        severity: how urgent it is.
        source: who says so.
        labels: what it is about.
        status: ``firing``, ``flapping`` or ``resolved``.
        starts_at: when it began, by the clock on the wall.
        ends_at: when it was over.
        lasted_seconds: from then to then, or to now.
        changes: how often it began and ended lately.
        acknowledged_by: who wants no more reminders; empty for nobody.
    """

    title: str
    message: str
    severity: Severity
    source: str
    labels: dict[str, str]
    status: Phase
    starts_at: datetime
    ends_at: datetime | None
    lasted_seconds: float
    changes: int
    acknowledged_by: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What templates are given.

    Attributes:
        status: ``firing`` if any alert fires, else ``flapping`` if any flaps, else
            ``resolved``.
        severity: the gravest of the alerts that go on, or of all if none does.
        repeats: it only reminds; there is no news.
        going_on: the alerts that fire or flap, the gravest and latest first.
        ended: the alerts that are over.
        group: the labels that they have in common.
        route: name of the route.
        now: by the clock on the wall.
    """

    status: Phase
    severity: Severity
    repeats: bool
    going_on: list[Said]
    ended: list[Said]
    group: dict[str, str]
    route: str
    now: datetime

    @property
    def alerts(self) -> list[Said]:
        """All alerts, those that go on first."""
        return [*self.going_on, *self.ended]


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, ready to be sent.

    Attributes:
        title: one line, never empty.
        body: short text, never empty.
        priority: 1 (hardly noticed) to 5 (makes itself heard), as ntfy has them.
        tags: words; phones show some of them as emoji.
        tag: a later notification with the same one replaces it on the phone.
        severity: how urgent it is.
        resolved: it says that all is over.
    """

    title: str
    body: str
    priority: int
    tags: tuple[str, ...]
    tag: str
    severity: Severity
    resolved: bool


def notice_of(
    group: Group,
    alerts: Sequence[Standing],
    flapping: Flapping,
    zone: tzinfo | None,
    now: float,
    *,
    repeats: bool,
) -> Notice:
    """The notice of some alerts of a group.

    Args:
        group: the group.
        alerts: at least one.
        flapping: what counts as flapping.
        zone: time zone of the texts; the host's own when None.
        now: epoch seconds.
        repeats: it only reminds.
    """
    ordered = sorted(alerts, key=lambda each: (-rank(each.severity), -each.starts_at))
    told = [_said(each, flapping, zone, now) for each in ordered]
    going_on = [each for each in told if each.status != "resolved"]
    statuses = {each.status for each in going_on}
    status: Phase = "firing" if "firing" in statuses else "flapping"
    return Notice(
        status=status if going_on else "resolved",
        severity=(going_on or told)[0].severity,
        repeats=repeats,
        going_on=going_on,
        ended=[each for each in told if each.status == "resolved"],
        group=group.labels,
        route=group.route,
        now=local_time(now, zone),
    )


def _said(alert: Standing, flapping: Flapping, zone: tzinfo | None, now: float) -> Said:
    ends_at = alert.ends_at
    return Said(
        title=alert.title,
        message=alert.message,
        severity=alert.severity,
        source=alert.source,
        labels=alert.own_labels,
        status=alert.phase(flapping, now),
        starts_at=local_time(alert.starts_at, zone),
        ends_at=None if ends_at is None else local_time(ends_at, zone),
        lasted_seconds=(now if ends_at is None else ends_at) - alert.starts_at,
        changes=sum(at > now - flapping.within for at in alert.changes),
        acknowledged_by=alert.acknowledged_by or "",
    )
