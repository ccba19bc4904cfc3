"""Why an alert is not told at present: silenced, inhibited, or quiet hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from meshtasks.flows.alerts.config import AlertPolicy
from meshtasks.flows.alerts.matchers import all_match, parse_matcher
from meshtasks.flows.alerts.standing import Standing


class Mute(NamedTuple):
    """An alert is not told.

    Attributes:
        reason: ``silenced``, ``inhibited`` or ``quiet hours``.
        until: epoch seconds; None when nobody can tell.
        owes: what begins and ends meanwhile is told afterwards all the same.
    """

    reason: str
    until: float | None
    owes: bool


@dataclass(frozen=True, slots=True)
class Silence:
    """Somebody wants to hear nothing of the alerts that match.

    Attributes:
        id: 8 hex digits.
        matchers: their texts.
        starts_at: epoch seconds.
        ends_at: epoch seconds.
        created_by: who.
        comment: why.
    """

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


def clock_put_right(silence: Silence, now: float) -> Silence:
    """A silence after the host's clock was put back: one that was begun by the wrong
    clock begins now, and is no longer for that."""
    ahead = max(0.0, silence.starts_at - now)
    return replace(
        silence,
        starts_at=silence.starts_at - ahead,
        ends_at=silence.ends_at - ahead,
    )


class Muting:
    """Everything that mutes alerts at one moment.

    Args:
        policy: inhibition rules and quiet hours.
        silences: all there are.
        firing: all alerts that fire; some may inhibit others.
        now: epoch seconds.
    """

    def __init__(
        self,
        policy: AlertPolicy,
        silences: Sequence[Silence],
        firing: Sequence[Standing],
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

    def of(self, alert: Standing) -> Mute | None:
        """Why this alert is not told; None if it may be."""
        labels = alert.labels
        ends = [
            silence.ends_at
            for silence in self._silences
            if silence.covers(labels, self._now)
        ]
        if ends:
            return Mute("silenced", max(ends), owes=False)
        if any(
            rule.inhibits(source, labels)
            for source in self._inhibitors
            for rule in self._policy.inhibit
        ):
            return Mute("inhibited", None, owes=False)
        if self._quiet_until is not None and alert.severity != "critical":
            return Mute("quiet hours", self._quiet_until, owes=True)
        return None
