"""The facts about a sensor: from the state, from the broker and the workers now, and
from the silences of its alerts. Times are epoch seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Self

from meshtasks.amqp.connecting import connected, depths_of
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import Silence
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.collect import WorkerAnswer, ask_workers
from meshtasks.records.timestamps import utc_of
from meshtasks.rules.config import RULES, Rule
from meshtasks.rules.detection import Series
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import Gap, Incident, Sensor, Span

RULE_SILENCED = "rule silenced"
#: Tolerance for clocks that differ, and for readings that are on their way.
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
    """The labels that alerts of a sensor have.

    Args:
        key: routing key and id of the sensor.
        sensor: kind and location; None if the state does not record it.
    """
    kind, location = (sensor.kind, sensor.location) if sensor else ("", "")
    return Series("", kind, "", sensor_id=key[1], location=location).labels


def is_silent(at: float, gap_seconds: float, now: float) -> bool:
    """Whether a sensor is silent for longer than usual.

    Args:
        at: the time of its last reading.
        gap_seconds: its longest usual pause.
        now: the current time.
    """
    return now - at - SLACK_SECONDS > gap_seconds


class Window(NamedTuple):
    """A span of time; without an end it lasts until now."""

    begins_at: float
    ends_at: float | None

    def overlap(self, begins_at: float, ends_at: float | None) -> float:
        """Seconds that a span and the window have in common; negative if they have
        nothing in common. A span without an end continues."""
        ends = (end for end in (self.ends_at, ends_at) if end is not None)
        return min(ends, default=inf) - max(self.begins_at, begins_at)


class Cause(NamedTuple):
    """A cause of missing or bad readings.

    Attributes:
        cause: its name, such as ``bad unit``.
        begins_at: when it began.
        ends_at: when it ended; None while it continues.
        sentence: what happened.
        next_step: what to do; may be empty.
    """

    cause: str
    begins_at: float
    ends_at: float | None
    sentence: str
    next_step: str = ""


class QueueNow(NamedTuple):
    """A queue that the readings reach, now.

    Attributes:
        ready: messages waiting in it.
        consumers: number of its consumers.
        paused: why it is paused; empty if it is not.
    """

    name: str
    ready: int
    consumers: int
    paused: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """The data about one sensor and about the services that its readings need.

    Attributes:
        sensor: its record in the state; None if no reading of it was stored.
        now: the time of these facts.
        siblings: other sensors with the same id and kind.
        gaps: its gaps, in order of time.
        incidents: its rejected readings, wrong clocks and duplicates, in order of time.
        spans: times at which sinks and the broker were unavailable and workers were
            running, in order of time.
        queues: the queues that its readings reach.
        sinks: names of the sinks to which its readings are written.
        blocking: names of those sinks whose open circuit pauses the sensor's queue.
        queues_now: its queues now; None if the broker is unavailable.
        workers: number of workers that answer; None if they were not asked.
        broker: why the broker is unavailable.
        mutes: silences of its alerts.
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
    mutes: Sequence[Cause] = ()

    @property
    def silence(self) -> Window | None:
        """The current silence, if it is longer than usual."""
        sensor = self.sensor
        if sensor is None or not sensor.time:
            return None
        silent = is_silent(sensor.time, sensor.gap_seconds, self.now)
        return Window(sensor.time, None) if silent else None

    def hole_at(self, at: float) -> Window | None:
        """The gap, or the current silence, that contains a moment; else None."""
        for gap in self.gaps:
            if gap.begins_at <= at <= gap.ends_at:
                return Window(gap.begins_at, gap.ends_at)
        silence = self.silence
        return silence if silence and silence.begins_at <= at else None


def clock(at: float, now: float) -> str:
    """A moment as local time of day, with the date if it is not today. Devices send any
    number: a moment outside the calendar is shown as the nearest date in it."""
    placed = utc_of(at)
    moment, today = placed.astimezone(), utc_of(now).astimezone()
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}"
    off = at - placed.timestamp()
    beyond = " or later" if off > 1 else " or earlier" if off < -1 else ""
    return f"{moment:%d %b %Y %H:%M:%S}{beyond}"


def between(begins_at: float, ends_at: float, now: float) -> str:
    """An interval as text: ``at 14:05:00``, or ``from 14:05:00 to 14:06:00``."""
    first, last = clock(begins_at, now), clock(ends_at, now)
    return f"at {first}" if first == last else f"from {first} to {last}"


def counted(number: int, what: str, verb: str = "") -> str:
    """A number with its noun: ``2,000 readings``; with a verb ``1 message waits``."""
    many = f"{number:,} {what}{'s' * (number != 1)}"
    return f"{many} {verb}{'s' * (number == 1)}" if verb else many


def sink_named(name: str) -> str:
    """The name of a sink in sentences."""
    return _SINKS.get(name, f"the sink {name}")


class Remembered(NamedTuple):
    """What the state records of sensors, from one read."""

    sensors: Sequence[Sensor] = ()
    gaps: Sequence[Gap] = ()
    incidents: Sequence[Incident] = ()
    spans: Sequence[Span] = ()

    @classmethod
    def read(cls, settings: Settings, since: float) -> Self:
        """Read the state.

        Args:
            since: gaps, incidents and spans after this time are read.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        with closing(History(StateLocation.of(settings.env))) as history:
            return cls.of(history, since) if history.exists() else cls()

    @classmethod
    def of(cls, history: History, since: float) -> Self:
        """Read an open history.

        Args:
            since: gaps, incidents and spans after this time are read.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        return cls(
            history.sensors(),
            history.gaps(since),
            history.incidents(since),
            history.spans(since),
        )


class Live(NamedTuple):
    """The broker and the workers now.

    Attributes:
        depths: messages and consumers by queue; None if the broker is unavailable.
        workers: the answers of the workers.
        fault: why the broker is unavailable.
    """

    depths: Mapping[str, tuple[int, int]] | None
    workers: Sequence[WorkerAnswer] = ()
    fault: str = ""


def look_at(settings: Settings, queues: Sequence[str]) -> Live:
    """Query the broker about queues and the workers about their state; takes a second.

    A fault is in the result; nothing is raised for it.
    """
    url = settings.env.amqp_url
    topology = settings.read(TOPOLOGY)
    depths: dict[str, tuple[int, int]] = {}
    try:
        with connected(url) as connection:
            for queue in queues:
                parts = depths_of(connection, topology.names_of(queue)).values()
                ready = sum(part.ready for part in parts)
                consumers = min((part.consumers for part in parts), default=0)
                depths[queue] = ready, consumers
        return Live(depths, ask_workers(url))
    except (Transient, ConfigError) as error:
        return Live(None, (), str(error).rstrip("."))


def mutes_of(
    settings: Settings, key: tuple[str, str], sensor: Sensor | None, now: float
) -> Iterator[Cause]:
    """Silences that mute, muted or will mute alerts of a sensor.

    Args:
        key: routing key and id of the sensor.
        sensor: kind and location; None if the state does not record it.
        now: epoch seconds.
    """
    with closing(Sinks(settings)) as sinks:
        store = sinks[ALERT_STATE]
        if not store.exists():
            return
        try:
            with store.tables() as tables:
                silences = tables.silences()
                alerts = current_alerts(tables, settings.read(ALERTS), now, every=True)
        except Transient:
            return  # the next read of the state reports it
    own = labels_of(key, sensor)
    rules = settings.read(RULES).matching(*key)
    for silence in silences:
        by = _by(silence, now)
        sentences = [
            f'The alert "{each.alert.title}" '
            f"{'goes on' if each.alert.firing else 'went on'} since "
            f"{clock(each.alert.starts_at, now)}, and nobody is told: it is muted by "
            f"{by}."
            for each in alerts
            if _is_about(each, own) and _mutes(silence, each, now)
        ]
        if not sentences and (muted := _muted(silence, rules, own)):
            are = "is" if len(muted) == 1 else "are"
            sentences = [
                f"Of the rules that watch it {', '.join(muted)} {are} silenced by {by}."
            ]
        ends_at = None if silence.ends_at > now else silence.ends_at
        for sentence in sentences:
            yield Cause(RULE_SILENCED, silence.starts_at, ends_at, sentence)


def _by(silence: Silence, now: float) -> str:
    over = "until" if silence.ends_at > now else "which ended"
    comment = f", {silence.comment!r}" * bool(silence.comment)
    return (
        f"a silence that {silence.created_by} made at {clock(silence.starts_at, now)} "
        f"({' '.join(silence.matchers)}{comment}), {over} "
        f"{clock(silence.ends_at, now)}"
    )


def _is_about(current: CurrentAlert, own: Mapping[str, str]) -> bool:
    labels = current.alert.own_labels
    return "sensor_id" in labels and all(
        labels.get(name, value) == value for name, value in own.items()
    )


def _mutes(silence: Silence, current: CurrentAlert, now: float) -> bool:
    alert = current.alert
    ended_at = now if alert.ends_at is None else alert.ends_at
    return (
        alert.starts_at <= silence.ends_at
        and silence.starts_at <= ended_at
        and silence.covers(alert.labels, silence.starts_at)
    )


def _muted(
    silence: Silence, rules: Sequence[Rule], own: Mapping[str, str]
) -> list[str]:
    """The names of the rules whose alerts the silence mutes."""
    return [
        rule.name
        for rule in rules
        if silence.covers(
            {
                **own,
                "rule": rule.name,
                "severity": rule.severity,
                "source": f"rules.{rule.name}",
            },
            silence.starts_at,
        )
    ]
