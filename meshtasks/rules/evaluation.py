"""Following a series with its rules: pure, and harmless to repeat.

Late and repeated readings (not later than the last one seen) change nothing, so
a redelivered message is harmless. The price: with several pool processes the
batches of one sensor may be evaluated out of order, and the readings of the
earlier one are then not looked at. Rules follow states, not single readings.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple, NotRequired

from typing_extensions import TypedDict

from meshtasks.records.alert import Alert
from meshtasks.records.envelope import Envelope
from meshtasks.rules.config import Rule
from meshtasks.rules.detection import RuleState, Run, Sample, Series

#: A reading further ahead of the clock than this is looked at as one of now, and makes
#: no other late: a clock that is wrong must not blind the rules until it is caught up
#: with, nor have them forget what lies behind it.
CLOCK_TOLERANCE_SECONDS = 60.0

_TIME = itemgetter(0)


class SeriesState(TypedDict):
    """What all rules remember of one series; plain JSON.

    Attributes:
        seen: time of the last reading evaluated, epoch seconds.
        ahead: the same of those by a clock that is ahead, by that clock.
        rules: rule name → its state; idle rules have none.
    """

    seen: float
    ahead: NotRequired[float]
    rules: dict[str, RuleState]


class Watched(NamedTuple):
    """New samples of one series, and the rules that watch it.

    Attributes:
        envelope: of the message that the first sample came in, if somebody asks.
    """

    series: Series
    rules: tuple[Rule, ...]
    samples: list[Sample]
    envelope: Envelope | None = None


def evaluate(
    rules: Iterable[Rule],
    series: Series,
    state: SeriesState | None,
    samples: list[Sample],
    now: float,
) -> tuple[SeriesState, list[Alert]]:
    """Follow one series with all its rules.

    Args:
        rules: the rules that watch the series.
        state: what the last call returned for it; None for the first.
        samples: its new samples, at least one, in any order.
        now: epoch seconds; only detects a clock that is wrong.

    Returns:
        The new state (the old one is not changed), and the alerts that begin or
        end, in order of time for each rule.
    """
    ordered = sorted(samples, key=_TIME)
    horizon = now + CLOCK_TOLERANCE_SECONDS
    seen = 0.0 if state is None else state["seen"]
    ahead = 0.0 if state is None else state.get("ahead", 0.0)
    if seen > horizon:  # by the clock of this host, when it was wrong
        seen = 0.0
    ahead_by = max(0.0, ordered[-1][0] - now)
    at = seen
    fresh = []
    for time, value in ordered:
        if time > horizon:
            if not ahead - CLOCK_TOLERANCE_SECONDS <= time <= ahead:  # again, or late
                at, ahead = max(at, time - ahead_by), time
                fresh.append((at, value))
        elif time > seen:
            at = seen = time
            fresh.append((at, value))
    if not fresh:
        return state or {"seen": seen, "rules": {}}, []
    run = Run(fresh)
    known = {} if state is None else state["rules"]
    states: dict[str, RuleState] = {}
    alerts: list[Alert] = []
    for rule in rules:
        after, events = rule.evaluate(known.get(rule.name, {}), run)
        if after:
            states[rule.name] = after
        alerts += [rule.alert(series, event) for event in events]
    after_all: SeriesState = {"seen": seen, "rules": states}
    if ahead > horizon:
        after_all["ahead"] = ahead
    return after_all, alerts
