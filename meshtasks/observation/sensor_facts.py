"""What is known of sensors, and of what their readings need: by the state, by broker
and workers now, and of what mutes their alerts. Times are epoch seconds."""

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
from meshtasks.flows.alerts.service import ALERT_STATE, CurrentAlert, current_alerts
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

    def overlap(self, begins_at: float, ends_at: float | None) -> float:
        """How long what goes on from then to then (None: it still does) goes on within;
        negative if it does not."""
        ends = (end for end in (self.ends_at, ends_at) if end is not None)
        return min(ends, default=inf) - max(self.begins_at, begins_at)


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
    mutes: Sequence[Cause] = ()

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


def counted(number: int, what: str, verb: str = "") -> str:
    """``1 reading``, ``2,000 readings``; with a verb ``1 message waits``."""
    many = f"{number:,} {what}{'s' * (number != 1)}"
    return f"{many} {verb}{'s' * (number == 1)}" if verb else many


def sink_named(name: str) -> str:
    """A sink as people call it."""
    return _SINKS.get(name, f"the sink {name}")


class Remembered(NamedTuple):
    """What the state has, read at once."""

    sensors: Sequence[Sensor] = ()
    gaps: Sequence[Gap] = ()
    incidents: Sequence[Incident] = ()
    spans: Sequence[Span] = ()

    @classmethod
    def read(cls, settings: Settings, since: float) -> Self:
        """What it has from then on.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        with closing(History(StateLocation.of(settings.env))) as history:
            return cls.of(history, since) if history.exists() else cls()

    @classmethod
    def of(cls, history: History, since: float) -> Self:
        """What a history has from then on.

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
    """The mesh at the moment.

    Attributes:
        depths: messages and consumers by queue; None when the broker cannot be asked.
        workers: their answers.
        fault: why it cannot.
    """

    depths: Mapping[str, tuple[int, int]] | None
    workers: Sequence[WorkerAnswer] = ()
    fault: str = ""


def look_at(settings: Settings, queues: Sequence[str]) -> Live:
    """Ask the broker for queues, and the workers for their state; takes a second."""
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
    """What mutes alerts of this sensor, those that go on and those to come, and did.

    Args:
        key: its routing key and id.
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
            return  # whoever reads the state next says so
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
    """The rules whose alerts it would mute."""
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
