"""What is known of one sensor, and of what its readings need; plain data. Times are
epoch seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meshtasks.records.timestamps import utc_of
from meshtasks.rules.detection import Series
from meshtasks.state.sensor_activity import Gap, Incident, Sensor, Span

#: Clocks of devices and hosts, and what is still on its way.
SLACK_SECONDS = 5.0

_SINKS = {
    "timeseries": "the time-series store",
    "objects": "the archive",
    "rule_state": "the state of the rules",
    "pending.timeseries": "the queue pending.timeseries",
    "n8n": "n8n",
    "triton": "Triton",
    "notifier": "the receivers of alerts",
    "analytics": "the analytics files",
}


def labels_of(key: tuple[str, str], sensor: Sensor | None) -> dict[str, str]:
    """Labels that alerts of a sensor have.

    Args:
        key: its routing key and id.
    """
    kind, location = (sensor.kind, sensor.location) if sensor else ("", "")
    return Series("", kind, "", sensor_id=key[1], location=location).labels


def is_silent(at: float, gap_seconds: float, now: float) -> bool:
    """Whether a sensor is silent for longer than usual, whose last reading is of then.

    Args:
        gap_seconds: a longer silence is none of its usual pauses.
    """
    return now - at - SLACK_SECONDS > gap_seconds


class Window(NamedTuple):
    """A span of time that is asked about; None as its end is now."""

    begins_at: float
    ends_at: float | None

    def overlap(self, begins_at: float, ends_at: float) -> float:
        """How long it goes on within; negative if it does not."""
        own_end = float("inf") if self.ends_at is None else self.ends_at
        return min(own_end, ends_at) - max(self.begins_at, begins_at)


class Cause(NamedTuple):
    """One cause.

    Attributes:
        cause: in a word or two, such as ``bad unit``.
        begins_at: when it began.
        ends_at: when it ended; None while it goes on.
        sentence: says it.
        next_step: what to do; may be empty.
    """

    cause: str
    begins_at: float
    ends_at: float | None
    sentence: str
    next_step: str = ""


class Mute(NamedTuple):
    """Why alerts of a sensor reach nobody: what mutes them, since when, until when."""

    sentence: str
    begins_at: float
    ends_at: float


class QueueNow(NamedTuple):
    """A queue that the readings take, as it is at the moment.

    Attributes:
        paused: why it is paused; empty if it is not.
    """

    name: str
    ready: int
    consumers: int
    paused: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one sensor and of what its readings need.

    Attributes:
        sensor: None if none of its readings was ever taken.
        now: when it was found.
        siblings: other sensors with its id and kind.
        gaps: its own, in order of time.
        incidents: its own, in order of time.
        spans: of sinks, broker and workers, in order of time.
        queues: that its readings reach.
        sinks: names of the sinks that their records end in.
        blocking: those of them without which the sensor's queue is paused.
        queues_now: None when the broker cannot be asked.
        workers: how many answer.
        broker: why it cannot be asked.
        mutes: of its alerts.
    """

    sensor: Sensor | None
    now: float
    siblings: Sequence[Sensor] = ()
    gaps: Sequence[Gap] = ()
    incidents: Sequence[Incident] = ()
    spans: Sequence[Span] = ()
    queues: frozenset[str] = frozenset()
    sinks: frozenset[str] = frozenset()
    blocking: frozenset[str] = frozenset()
    queues_now: Sequence[QueueNow] | None = ()
    workers: int | None = None
    broker: str = ""
    mutes: Sequence[Mute] = ()

    @property
    def silence(self) -> Window | None:
        """The silence that goes on, if it is longer than usual."""
        sensor = self.sensor
        if sensor is None or not sensor.time:
            return None
        silent = is_silent(sensor.time, sensor.gap_seconds, self.now)
        return Window(sensor.time, None) if silent else None

    def hole_at(self, at: float) -> Window | None:
        """The hole that a moment is in, if it is in one."""
        for gap in self.gaps:
            if gap.begins_at <= at <= gap.ends_at:
                return Window(gap.begins_at, gap.ends_at)
        silence = self.silence
        return silence if silence and silence.begins_at <= at else None


def clock(at: float, now: float) -> str:
    """A moment as people say it: the time, and the day if it is not today. Devices send
    any; of those that no calendar has it is the nearest."""
    placed = utc_of(at)
    moment, today = placed.astimezone(), utc_of(now).astimezone()
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}"
    off = at - placed.timestamp()
    beyond = " or later" if off > 1 else " or earlier" if off < -1 else ""
    return f"{moment:%d %b %Y %H:%M:%S}{beyond}"


def between(begins_at: float, ends_at: float, now: float) -> str:
    """``at 14:05:00``, or ``from 14:05:00 to 14:06:00``."""
    first, last = clock(begins_at, now), clock(ends_at, now)
    return f"at {first}" if first == last else f"from {first} to {last}"


def counted(number: int, what: str) -> str:
    """``1 reading``, ``2,000 readings``."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def sink_named(name: str) -> str:
    """A sink as people call it."""
    return _SINKS.get(name, f"the sink {name}")
