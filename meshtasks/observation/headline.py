"""The headline: all is well, or what is not; and the state's records of this day, from
one read for all viewers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple, Self

from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.config.durations import span_text
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.causes import REFUSALS
from meshtasks.observation.collect import Snapshot, WorkerAnswer
from meshtasks.observation.sensor_facts import Facts, Remembered, counted, sink_named
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import (
    CLOCK_AHEAD,
    CLOCK_BEHIND,
    DUPLICATE_ID,
    Count,
    Incident,
    Sensor,
    Span,
)
from meshtasks.text import clip

#: Time after their end during which faults of readings are reported.
_NEWS_SECONDS = 600.0
#: A sensor that is silent for longer is no longer reported.
_MISSED_SECONDS = 86_400.0
#: Names that a sentence lists at most.
_NAMED = 3
_DAY = 86_400.0
#: Prefixes of queues that the mesh itself publishes to.
_OWN = ("archive.", "alerts.", "pending.")


class Line(NamedTuple):
    """A sentence of the headline.

    Attributes:
        text: the sentence.
        sensor: routing key of the sensor concerned; empty if there is none.
        alert: fingerprint of the alert concerned; empty if there is none.
    """

    text: str
    sensor: str = ""
    alert: str = ""


def headline(
    snapshot: Snapshot,
    answers: Sequence[WorkerAnswer],
    remembered: Remembered,
    *,
    waits_for_store: int,
    alerts: Sequence[CurrentAlert] = (),
) -> list[Line]:
    """What is not well, the most severe first; empty if all is well.

    Args:
        snapshot: the mesh now.
        answers: the workers now.
        remembered: the state's records of the last day.
        waits_for_store: readings whose points wait for the time-series store.
        alerts: the active alerts.
    """
    now = snapshot.taken_at
    loud = [each for each in alerts if each.state != "silenced"]
    lines = list(_alerts(each for each in loud if each.alert.severity == "critical"))
    lines += _broker(snapshot, remembered.spans, now)
    lines += _sinks(snapshot, answers, remembered.spans, waits_for_store)
    lines += _unattended(snapshot, answers)
    lines += _incidents(remembered.incidents, now)
    lines += _alerts(each for each in loud if each.alert.severity != "critical")
    lines += _silent(remembered.sensors, now)
    lines += [
        Line(
            f'The alert "{each.alert.title}" goes on, and a silence mutes it.',
            alert=each.alert.fingerprint,
        )
        for each in alerts
        if each.state == "silenced"
    ]
    return lines


def _alerts(alerts: Iterable[CurrentAlert]) -> Iterator[Line]:
    """Alerts of one severity; the first few by their titles."""
    named = [each.alert for each in alerts]
    for alert in named[:_NAMED]:
        yield Line(
            f'The {alert.severity} alert "{clip(alert.title)}" goes on'
            f"{' (acknowledged)' * bool(alert.acknowledged_by)}.",
            alert=alert.fingerprint,
        )
    if more := named[_NAMED:]:
        verb = " goes" if len(more) == 1 else "s go"
        yield Line(f"{len(more):,} more alert{verb} on.", alert=more[0].fingerprint)


def _open(spans: Iterable[Span], kind: str, name: str) -> Span | None:
    """The earliest such span that continues; None if there is none."""
    going = (
        span
        for span in spans
        if span.kind == kind and span.name == name and span.ends_at is None
    )
    return min(going, key=lambda span: span.begins_at, default=None)


def _broker(snapshot: Snapshot, spans: Sequence[Span], now: float) -> Iterator[Line]:
    if snapshot.queues:
        yield from map(Line, snapshot.faults)
        return
    away = _open(spans, "broker", "")
    since = f" for {span_text(now - away.begins_at)}" if away else ""
    why = f": {snapshot.faults[0].rstrip('.')}" if snapshot.faults else ""
    yield Line(f"The broker is away{since}{why}. What it has taken is not lost.")


def _sinks(
    snapshot: Snapshot,
    answers: Sequence[WorkerAnswer],
    spans: Sequence[Span],
    waits_for_store: int,
) -> Iterator[Line]:
    found: dict[str, str] = {}
    for answer in answers:
        found |= answer.down
    paused = {queue for answer in answers for queue in answer.resting}
    ready = {queue.name: queue.ready for queue in snapshot.queues}
    for sink, reason in sorted(found.items()):
        if sink.startswith("pending."):
            continue
        span = _open(spans, "sink", sink)
        name = sink_named(sink)
        away = snapshot.taken_at - span.begins_at if span else None
        since = "" if away is None else f" for {span_text(away)}"
        if sink == "timeseries":
            waits = counted(waits_for_store, "reading", "wait")
        else:
            held_up = sum(ready.get(queue, 0) for queue in paused)
            waits = counted(held_up, "message", "wait")
        yield Line(
            f"{name[0].upper()}{name[1:]} is away{since}; {waits}, nothing is lost "
            f"({reason.rstrip('.')})."
        )


def _unattended(snapshot: Snapshot, answers: Sequence[WorkerAnswer]) -> Iterator[Line]:
    paused = {queue for answer in answers for queue in answer.resting}
    nobody = "nobody consumes it" if answers else "no worker answers"
    for queue in snapshot.queues:
        if snapshot.is_waiting(queue) and queue.name not in paused:
            waits = counted(queue.ready, "message", "wait")
            yield Line(f"{waits} in {queue.name}, and {nobody}; nothing is lost.")


def _incidents(incidents: Sequence[Incident], now: float) -> Iterator[Line]:
    news = [each for each in incidents if now - each.ends_at <= _NEWS_SECONDS]
    by_cause: dict[str, list[Incident]] = {}
    for incident in news:
        refused = incident.reason and incident.cause in REFUSALS
        kind = f"refused {incident.cause}" if refused else incident.cause
        by_cause.setdefault(kind, []).append(incident)
    for kind, found in by_cause.items():
        names, first = _names(found), found[0]
        total = sum(each.number for each in found)
        number = counted(total, "reading")
        if kind.startswith("refused "):
            were = "was" if total == 1 else "were"
            yield Line(
                f"{number} of {names} {were} refused ({first.cause}).",
                first.routing_key,
            )
        elif kind in {CLOCK_AHEAD, CLOCK_BEHIND}:
            side = kind.removeprefix("clock ")
            off = span_text(min(abs(first.ahead_low), abs(first.ahead_high)))
            yield Line(
                f"{number} of {names} came with a time {off} {side}.",
                first.routing_key,
            )
        elif kind == DUPLICATE_ID:
            yield Line(f"Two devices use the id of {names}.", first.routing_key)


def _silent(sensors: Sequence[Sensor], now: float) -> Iterator[Line]:
    silent = [
        sensor
        for sensor in sensors
        if sensor.sensor_id
        and now - sensor.time < _MISSED_SECONDS
        and sensor.usual_seconds
        and Facts(sensor, now).silence
    ]
    if len(silent) == 1:
        (sensor,) = silent
        away = span_text(now - sensor.time)
        yield Line(
            f"{sensor.location or sensor.sensor_id} is silent for {away}.",
            sensor.routing_key,
        )
    elif silent:
        yield Line(
            f"{len(silent):,} sensors are silent: {_names(silent)}.",
            silent[0].routing_key,
        )


def _names(found: Sequence[Incident] | Sequence[Sensor]) -> str:
    names = sorted({each.sensor_id or each.routing_key for each in found})
    more = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {more} more" if more > 0 else shown


class Ledger(NamedTuple):
    """The number of records of a day by their state.

    Attributes:
        stored: done: their effect is durable.
        dead: dead letters.
        waiting: messages in queues, and readings whose points wait for the store.
    """

    stored: int
    dead: int
    waiting: int

    @property
    def total(self) -> int:
        """All records that came in."""
        return self.stored + self.dead + self.waiting


def midnight(now: float) -> float:
    """The start of this day in local time, epoch seconds."""
    today = datetime.fromtimestamp(now).astimezone()
    return today.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def aside(counts: Mapping[str, Count], snapshot: Snapshot) -> int:
    """The number of readings whose points wait for the time-series store.

    Args:
        counts: counts of all days that are kept, by queue.
        snapshot: the mesh now.
    """
    pending = [queue for queue in snapshot.queues if queue.name == PENDING_TIMESERIES]
    if not any(queue.ready or queue.unacked for queue in pending):
        return 0
    written = counts.get(PENDING_TIMESERIES, Count())
    put = sum(count.aside for count in counts.values())
    return max(put - written.done - written.dead, sum(q.ready for q in pending))


def ledger_of(
    today: Mapping[str, Count],
    waits_for_store: int,
    snapshot: Snapshot,
    handled: Collection[str],
) -> Ledger:
    """The ledger of this day.

    Args:
        today: outcomes of records since midnight, by queue.
        waits_for_store: see :func:`aside`.
        snapshot: the mesh now.
        handled: the mesh's queues that have a handler.
    """
    queues = {name for name in handled if not name.startswith(_OWN)}
    done = sum(today[name].done for name in queues & today.keys())
    dead = sum(today[name].dead for name in queues & today.keys())
    late = today.get(PENDING_TIMESERIES, Count()).dead
    waiting = sum(snapshot.retry.values()) + sum(
        queue.ready + (queue.unacked or 0)
        for queue in snapshot.queues
        if queue.name in queues
    )
    # records whose points wait count as done in the queue in which they arrived
    stored = max(0, done - late - waits_for_store)
    return Ledger(stored, dead + late, waiting + waits_for_store)


def ledger_sentence(ledger: Ledger) -> str:
    """The ledger as text.

    For example ``today 1,204,331 in = 1,204,300 stored + 31 dead + 0 waiting``.
    """
    return (
        f"today {ledger.total:,} in = {ledger.stored:,} stored + "
        f"{ledger.dead:,} dead + {ledger.waiting:,} waiting"
    )


class Today(NamedTuple):
    """The state's records of this day.

    Attributes:
        remembered: sensors, gaps, incidents and spans of the last 24 hours.
        counts: outcomes of records since midnight, by queue.
        all_counts: outcomes of records of all days that are kept, by queue.
        alerts: the active alerts, the most severe first.
        handled: the mesh's queues.
    """

    remembered: Remembered = Remembered()
    counts: Mapping[str, Count] = {}
    all_counts: Mapping[str, Count] = {}
    alerts: Sequence[CurrentAlert] = ()
    handled: Sequence[str] = ()

    @classmethod
    def read(cls, settings: Settings, now: float) -> Self:
        """Read the state.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        with closing(History(StateLocation.of(settings.env))) as history:
            if not history.exists():
                return cls()
            counts = history.counts(midnight(now))
            all_counts = history.counts(0.0)
            remembered = Remembered.of(history, now - _DAY)
        alerts: Sequence[CurrentAlert] = ()
        with closing(Sinks(settings)) as sinks:
            if sinks[ALERT_STATE].exists():
                with sinks[ALERT_STATE].tables() as tables:
                    policy = settings.read(ALERTS)
                    alerts = current_alerts(tables, policy, now, every=False)
        return cls(
            remembered,
            counts,
            all_counts,
            alerts,
            tuple(settings.read(TOPOLOGY).domain_queues),
        )

    def ledger(self, snapshot: Snapshot) -> Ledger:
        """The ledger of this day."""
        waits = aside(self.all_counts, snapshot)
        return ledger_of(self.counts, waits, snapshot, self.handled)

    def headline(
        self, snapshot: Snapshot, answers: Sequence[WorkerAnswer]
    ) -> list[Line]:
        """What is not well, the most severe first; empty if all is well."""
        return headline(
            snapshot,
            answers,
            self.remembered,
            waits_for_store=aside(self.all_counts, snapshot),
            alerts=self.alerts,
        )
