"""When an alert begins and ends: pure functions over samples in order of time.

Every rule comes down to a band of normal values. A series is outside the band
for some time (pending), then its alert fires, and it is resolved once a value is
inside by the hysteresis. The threshold rule's band is fixed; the deviation rule's
band follows what the series did before.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import mul
from string import Formatter
from typing import Annotated, NamedTuple, TypedDict

from pydantic import AfterValidator, Field


class Series(NamedTuple):
    """What a rule watches.

    Attributes:
        key: its name in the state; measurement, tags and field.
        kind: sensor kind, or name of the metric; the measurement.
        unit: canonical unit of its values; empty for a metric.
        sensor_id: the sensor; empty for a metric.
        location: where it is; empty when not known.
        field: of the metric; empty for a sensor.
        tags: name and value, of the metric.
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
        """What people call it."""
        host = dict(self.tags).get("host")
        return self.location or self.sensor_id or host or self.kind

    @property
    def labels(self) -> dict[str, str]:
        """What an alert is about, less the rule."""
        named = {
            "kind": self.kind,
            "sensor_id": self.sensor_id,
            "location": self.location,
            "field": self.field,
        }
        known = {name: value for name, value in named.items() if value}
        return dict(self.tags) | known


class Tags(dict[str, str]):
    """Tags for templates; one that a metric lacks is empty."""

    def __missing__(self, name: str) -> str:
        return ""


_SAMPLE_TEXT = {
    "rule": "name",
    "kind": "temperature",
    "sensor_id": "sensor",
    "location": "room",
    "place": "room",
    "field": "used_percent",
    "tags": Tags(),
    "value": 21.5,
    "unit": "°C",
    "limit": 20.0,
    "low": 10.0,
    "high": 20.0,
    "minutes": 5.0,
}
_TAG_NAME = re.compile(r"tags\[[^]]+\]")


def _template(text: str) -> str:
    for _, name, _, _ in Formatter().parse(text):
        if name is None or _TAG_NAME.fullmatch(name):
            continue
        if name not in _SAMPLE_TEXT or name == "tags":
            words = ", ".join(word for word in _SAMPLE_TEXT if word != "tags")
            message = f"{{{name}}} is not known; expected {words} or tags[…]"
            raise ValueError(message)
    text.format_map(_SAMPLE_TEXT)  # a bad format, such as {sensor_id:.1f}
    return text


Template = Annotated[str, Field(min_length=1), AfterValidator(_template)]


#: A window is kept as this many parts, so that its size in the state does not
#: depend on how often a sensor reports. The newest part is not yet compared
#: with: a reading is never part of what it is measured against, and which
#: readings came in one batch makes no difference.
WINDOW_PARTS = 12


#: Epoch seconds, value. A bare tuple: one is made for every reading.
Sample = tuple[float, float]


class Band(NamedTuple):
    """Normal values, both ends included."""

    low: float
    high: float


UNBOUNDED = Band(-math.inf, math.inf)


#: Statistics of one part of a window: its number since the epoch, how many values
#: are in it, their mean, and the sum of their squared differences from the mean.
#: Comes back from JSON as a list. A named tuple takes eight times as long to encode.
Part = tuple[int, int, float, float]


class RuleState(TypedDict, total=False):
    """What one rule remembers of one series; plain JSON.

    Attributes:
        since: when the values left the band; missing while they are inside.
        firing: an alert was given and is not resolved.
        parts: statistics of the window (deviation rule), oldest first.
    """

    since: float
    firing: bool
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Event:
    """An alert begins or ends.

    Attributes:
        sample: the one that decided it.
        since: when the values left the band, epoch seconds.
        band: what was normal then.
        firing: false when the alert ends.
    """

    sample: Sample
    since: float
    band: Band
    firing: bool


class Run:
    """Samples in order of time, with what several rules need of them."""

    __slots__ = ("highest", "lowest", "samples", "values")

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.values = [sample[1] for sample in samples]
        self.lowest = min(self.values)
        self.highest = max(self.values)


@dataclass(frozen=True, slots=True)
class Patience:
    """How much it takes to fire and to resolve.

    Attributes:
        hysteresis: how far inside the band a value ends the alert.
        for_seconds: how long values are outside before the alert fires.
    """

    hysteresis: float = 0.0
    for_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Usual:
    """What is normal for a series by its own past.

    Attributes:
        window_seconds: the past that counts.
        minimum_samples: with fewer in the window, everything is normal.
        z_score: standard deviations around the mean that are normal.
        minimum_deviation: distance from the mean that is normal in any case.
    """

    window_seconds: float
    minimum_samples: int
    z_score: float
    minimum_deviation: float


def watch_band(
    state: RuleState, run: Run, band: Band, patience: Patience
) -> tuple[RuleState, list[Event]]:
    """Follow a run of samples against one band.

    Args:
        state: as the previous run left it.
        run: samples later than all before.
        band: what is normal during the run.
        patience: what it takes to fire and to resolve.

    Returns:
        The new state (the old one is not changed), and what begins or ends.
    """
    since, firing = state.get("since"), state.get("firing", False)
    if since is None and band.low <= run.lowest and run.highest <= band.high:
        return state, []  # nearly every run of every batch
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
            # min: the clock of the sensor may have been set back meanwhile.
            since = time if since is None else min(since, time)
            if time - since >= patience.for_seconds:
                events.append(Event(sample, since, band, firing=True))
                firing = True
    return _with_phase(state, since, firing=firing), events


def watch_past(
    state: RuleState, run: Run, usual: Usual, patience: Patience
) -> tuple[RuleState, list[Event]]:
    """Follow a run of samples against the series' own past.

    Takes and returns what :func:`watch_band` does.
    """
    part_seconds = usual.window_seconds / WINDOW_PARTS
    parts = state.get("parts", [])
    events: list[Event] = []
    for number, part_run in _by_part(run, part_seconds):
        oldest = number - WINDOW_PARTS
        # A part ahead of this one is of a clock that was set back.
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
        return UNBOUNDED  # values near the largest there are
    return Band(mean - distance, mean + distance)


def _part(number: int, values: list[float]) -> Part:
    size = len(values)
    mean = sum(values) / size
    differences = [value - mean for value in values]
    return number, size, mean, sum(map(mul, differences, differences))


def _merged(one: Part, other: Part) -> Part:
    """Both parts as one, numbered as the other (Chan, Golub, LeVeque 1979)."""
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
