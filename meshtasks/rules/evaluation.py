"""Evaluates the rules of a series: a pure function that is safe to repeat.

Readings that are not later than the last evaluated one are ignored, so a redelivered
message has no effect. On the other hand, several pool processes may evaluate batches of
one sensor out of order; then the readings of the earlier batch are ignored. This is
acceptable because rules watch states and not single readings.
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

#: A reading further in the future than this is evaluated as if made now, and does not
#: make other readings late. Otherwise one wrong clock would disable the rules of the
#: series until that time, or remove the past from the window.
CLOCK_TOLERANCE_SECONDS = 60.0

_TIME = itemgetter(0)


class SeriesState(TypedDict):
    """The state of all rules for one series, as plain JSON.

    Attributes:
        seen: time of the last evaluated reading, in epoch seconds.
        ahead: the same for readings in the future, by the clock of the sensor.
        rules: rule name → state; rules without a state are missing.
    """

    seen: float
    ahead: NotRequired[float]
    rules: dict[str, RuleState]


class Watched(NamedTuple):
    """New samples of one series, and the rules that watch it.

    Attributes:
        series: the series.
        rules: rules that watch it.
        samples: new samples.
        envelope: envelope of the message with the first sample; None if not needed.
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
    """Evaluate all rules of one series.

    Args:
        rules: the rules that watch the series.
        series: the series.
        state: state that the previous call returned; None at the first call.
        samples: new samples, at least one, in any order.
        now: current time in epoch seconds; used only to detect wrong clocks.

    Returns:
        The new state (``state`` is not changed), and the alerts that begin or end, in
        order of time for each rule.
    """
    ordered = sorted(samples, key=_TIME)
    horizon = now + CLOCK_TOLERANCE_SECONDS
    seen = 0.0 if state is None else state["seen"]
    ahead = 0.0 if state is None else state.get("ahead", 0.0)
    if seen > horizon:  # recorded while the clock of a host was wrong
        seen = 0.0
    ahead_by = max(0.0, ordered[-1][0] - now)
    at = seen
    fresh = []
    for time, value in ordered:
        if time > horizon:
            # Readings shortly before `ahead` are repeated or late.
            if not ahead - CLOCK_TOLERANCE_SECONDS <= time <= ahead:
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
