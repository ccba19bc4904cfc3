"""When an alert begins and ends: pure functions over samples in order of time.

Every rule has a band of normal values. An alert is pending while values are outside,
fires after ``for_seconds``, and is resolved by a value inside the band by the
hysteresis. The band of a threshold rule is fixed; that of a deviation rule depends on
earlier values of the series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import mul
from typing import NamedTuple, TypedDict


class Series(NamedTuple):
    """A series that rules watch.

    Attributes:
        key: key in the state, made of measurement, tags and field.
        kind: measurement: kind of the sensor, or name of the metric.
        unit: canonical unit of the values; empty for a metric.
        sensor_id: id of the sensor; empty for a metric.
        location: location of the sensor; empty if unknown.
        field: field of the metric; empty for a sensor.
        tags: names and values of the tags of the metric.
    """

    key: str
    kind: str
    unit: str
    sensor_id: str = ""
    location: str = ""
    field: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """Name for people: the location, else sensor id, tag ``host`` or kind."""
        host = dict(self.tags).get("host")
        return self.location or self.sensor_id or host or self.kind

    @property
    def labels(self) -> dict[str, str]:
        """Labels of an alert of this series, except that of the rule."""
        named = {
            "kind": self.kind,
            "sensor_id": self.sensor_id,
            "location": self.location,
            "field": self.field,
        }
        known = {name: value for name, value in named.items() if value}
        return dict(self.tags) | known


#: Number of parts of a window. Only statistics of each part are kept, so the size of
#: the state does not depend on how often a sensor reports. Values are not compared with
#: those of the current part: so a value is never compared with itself, and the result
#: does not depend on how readings are batched.
WINDOW_PARTS = 12


#: Epoch seconds and value. A plain tuple for speed: there is one for every reading.
Sample = tuple[float, float]


class Band(NamedTuple):
    """A range of normal values; both ends are normal."""

    low: float
    high: float


UNBOUNDED = Band(-math.inf, math.inf)


#: Statistics of one part of a window: number of the part since the epoch, number of
#: values, mean, and sum of squared differences from the mean. Read from JSON, it is a
#: list. Encoding a named tuple instead takes eight times as long.
Part = tuple[int, int, float, float]


class RuleState(TypedDict, total=False):
    """The state of one rule for one series, as plain JSON.

    Attributes:
        since: time at which values left the band, in epoch seconds; missing while they
            are inside.
        firing: true while an alert is firing.
        parts: statistics of the window of a deviation rule, oldest first.
    """

    since: float
    firing: bool
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Event:
    """The beginning or end of an alert.

    Attributes:
        sample: the sample that caused it.
        since: time at which values left the band, in epoch seconds.
        band: the range of normal values at that time.
        firing: true at the beginning, false at the end.
    """

    sample: Sample
    since: float
    band: Band
    firing: bool


class Run:
    """Samples in order of time, with their values and extremes for several rules."""

    __slots__ = ("highest", "lowest", "samples", "values")

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.values = [sample[1] for sample in samples]
        self.lowest = min(self.values)
        self.highest = max(self.values)


@dataclass(frozen=True, slots=True)
class Patience:
    """Conditions under which an alert fires and is resolved.

    Attributes:
        hysteresis: distance inside the band that a value must have to end the alert.
        for_seconds: how long values must be outside before the alert fires.
    """

    hysteresis: float = 0.0
    for_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usual:
    """Parameters of a band that depends on earlier values of the series.

    Attributes:
        window_seconds: length of the window of earlier values.
        minimum_samples: with fewer values in the window, every value is normal.
        z_score: normal distance from the mean, in standard deviations.
        minimum_deviation: normal distance in any case, in the canonical unit.
    """

    window_seconds: float
    minimum_samples: int
    z_score: float
    minimum_deviation: float


def watch_band(
    state: RuleState, run: Run, band: Band, patience: Patience
) -> tuple[RuleState, list[Event]]:
    """Compare samples with a fixed band.

    Args:
        state: state after the previous run.
        run: samples, all later than those of earlier runs.
        band: range of normal values.
        patience: conditions under which the alert fires and is resolved.

    Returns:
        The new state (``state`` is not changed), and the beginnings and ends of alerts.
    """
    since, firing = state.get("since"), state.get("firing", False)
    if since is None and band.low <= run.lowest and run.highest <= band.high:
        return state, []  # shortcut for the usual case
    low, high = band.low + patience.hysteresis, band.high - patience.hysteresis
    events: list[Event] = []
    for sample in run.samples:
        time, value = sample
        if firing and since is not None:
            if low <= value <= high:
                events.append(Event(sample, since, band, firing=False))
                since, firing = None, False
        elif band.low <= value <= band.high:
            since = None
        else:
            # min: the clock of the sensor may have been set back.
            since = time if since is None else min(since, time)
            if time - since >= patience.for_seconds:
                events.append(Event(sample, since, band, firing=True))
                firing = True
    return _with_phase(state, since, firing=firing), events


def watch_past(
    state: RuleState, run: Run, usual: Usual, patience: Patience
) -> tuple[RuleState, list[Event]]:
    """Compare samples with a band that depends on earlier values of the series.

    Args:
        usual: parameters of the band.

    Other arguments and results are those of :func:`watch_band`.
    """
    part_seconds = usual.window_seconds / WINDOW_PARTS
    parts = state.get("parts", [])
    events: list[Event] = []
    for number, part_run in _by_part(run, part_seconds):
        oldest = number - WINDOW_PARTS
        # A part later than this one was written before a clock was set back: drop it.
        parts = [part for part in parts if oldest <= part[0] <= number]
        fresh = _part(number, part_run.values)
        if parts and parts[-1][0] == number:
            fresh = _merged(parts.pop(), fresh)
        state, found = watch_band(state, part_run, _band(parts, usual), patience)
        events += found
        parts.append(fresh)
    return {**state, "parts": parts}, events


def _with_phase(state: RuleState, since: float | None, *, firing: bool) -> RuleState:
    result: RuleState = {}
    if since is not None:
        result["since"] = since
    if firing:
        result["firing"] = True
    if "parts" in state:
        result["parts"] = state["parts"]
    return result


def _by_part(run: Run, part_seconds: float) -> list[tuple[int, Run]]:
    def number(sample: Sample) -> int:
        return int(sample[0] // part_seconds)

    first = number(run.samples[0])
    if number(run.samples[-1]) == first:
        return [(first, run)]
    return [(part, Run(list(group))) for part, group in groupby(run.samples, number)]


def _band(parts: list[Part], usual: Usual) -> Band:
    if not parts:
        return UNBOUNDED
    _, size, mean, m2 = reduce(_merged, parts)
    if size < usual.minimum_samples:
        return UNBOUNDED
    distance = max(usual.z_score * math.sqrt(m2 / size), usual.minimum_deviation)
    if not math.isfinite(mean) or not math.isfinite(distance):
        return UNBOUNDED  # overflow, with values near the largest float
    return Band(mean - distance, mean + distance)


def _part(number: int, values: list[float]) -> Part:
    size = len(values)
    mean = sum(values) / size
    differences = [value - mean for value in values]
    return number, size, mean, sum(map(mul, differences, differences))


def _merged(one: Part, other: Part) -> Part:
    """Merge two parts (Chan, Golub, LeVeque 1979); the number is that of ``other``."""
    _, size, mean, m2 = one
    number, other_size, other_mean, other_m2 = other
    both = size + other_size
    difference = other_mean - mean
    return (
        number,
        both,
        mean + difference * other_size / both,
        m2 + other_m2 + difference * difference * size * other_size / both,
    )
