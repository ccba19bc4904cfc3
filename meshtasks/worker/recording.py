"""Records in the state what explains gaps: activity of sensors, dead letters, times at
which services were unavailable, and outcomes of the records of each queue.

The event loop only appends to lists. A thread stores them every few seconds, many
batches in one transaction. It then waits twenty times as long as that took, but not
more than 15 s, so that a running process is recorded often enough. While the state is
unavailable, the data is kept in memory, up to a bound, and the worker continues.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE
from meshtasks.config.environment import Environment
from meshtasks.errors import MeshError
from meshtasks.flows.sensor_activity import refused
from meshtasks.state.sensor_activity import (
    Count,
    Incident,
    Notes,
    Seen,
    SensorActivity,
    Span,
    Stretch,
    activity_of,
    bucket_of,
)

if TYPE_CHECKING:
    from meshtasks.state.history import History

    # a gateway has a recorder too, but does not load the worker
    from meshtasks.worker.resolution import Resolution
    from meshtasks.worker.results import BatchResult

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 2.0
#: The thread waits this many times as long as it worked.
_RESTS = 20.0
#: Interval at which open spans are recorded as still going on, in seconds.
_HEARD_SECONDS = 15.0
#: Maximum numbers kept while the state is unavailable, and stored at once.
_MOST_ACTIVITIES, _MOST_INCIDENTS = 50_000, 5_000
#: A connection that is lost for a shorter time is not recorded as an outage.
_BLINK_SECONDS = 2.0
_PRUNE_EVERY_SECONDS = 3_600.0


class Recorder:
    """Collects what one process records, and stores it in a thread.

    Args:
        env: environment with the URL of the state.
        name: name of the worker or gateway.
        kind: kind of its own span: ``worker`` or ``gateway``.
        forks: whether processes are forked from this one. Connections must not be
            inherited, so the connection to the state is closed after each use.
    """

    def __init__(
        self, env: Environment, name: str, kind: str, *, forks: bool = False
    ) -> None:
        self._env = env
        self._name = name
        self._kind = kind
        self._forks = forks
        self._history: History | None = None
        self._notes = Notes()
        self._seen: list[Seen] = []
        self._times = Times()
        self._lock = threading.Lock()
        self._spans: dict[tuple[str, str], Span] = {}  # open spans
        self._heard_at = 0.0
        self._next_prune = 0.0
        self._is_new = True
        self._said = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="mesh-recorder", daemon=True
        )

    def start(self, detail: str = "") -> None:
        """Record that the process runs from now on, and start the thread if needed.

        Args:
            detail: what the process does: the queues of a worker.
        """
        self.goes(self._kind, self._name, detail)
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self, within_seconds: float) -> None:
        """Store what is recorded, if that is done in time. Spans of unavailable
        services stay open."""
        self.ended(self._kind, self._name)
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(within_seconds)

    # --- recording; may be called from any thread ---------------------------

    def finished(self, queue: str, result: BatchResult) -> None:
        """Record a batch that the pool has finished."""
        if not (result.done or result.seen):
            return
        with self._lock:
            self._count(queue, Count(result.done, 0, result.aside))
            self._see(result.seen)

    def moved(self, queue: str, resolution: Resolution) -> None:
        """Record dead letters that the broker has confirmed."""
        if not resolution.dead:
            return
        now = time.time()
        letters = [
            each
            for each in resolution.outgoing
            if each.exchange == DEAD_LETTER_EXCHANGE
        ]
        with self._lock:
            self._count(queue, Count(0, len(letters)))
            for letter in letters:
                if len(self._notes.incidents) >= _MOST_INCIDENTS:
                    break
                self._notes.add_incident(_refusal(letter, now))

    def refused_here(self, routing_key: str, body: bytes, reason: str) -> None:
        """Record a message that was rejected because it would be a dead letter."""
        with self._lock:
            if len(self._notes.incidents) < _MOST_INCIDENTS:
                self._notes.add_incident(
                    refused(routing_key, body, "", reason, None, time.time())
                )

    def connection(self, fault: str) -> None:
        """Record why the broker is unavailable, or with an empty text that it is
        available again."""
        if fault:
            self.goes("broker", "", fault)
        else:
            self.ended("broker", "")

    def goes(self, kind: str, name: str, reason: str) -> None:
        """Begin a span, or continue it."""
        now = time.time()
        with self._lock:
            known = self._spans.get((kind, name))
            begins_at = known.begins_at if known else now
            span = Span(kind, name, self._name, begins_at, None, now, reason)
            self._spans[kind, name] = span
            self._notes.add_span(span)

    def ended(self, kind: str, name: str) -> None:
        """End a span."""
        now = time.time()
        with self._lock:
            known = self._spans.pop((kind, name), None)
            if known is None:
                return
            span = known._replace(ends_at=now, heard_at=now)
            if _may_be_blink(known, now):
                self._notes.spans.pop(known[:4], None)
            else:
                self._notes.add_span(span)

    def _count(self, queue: str, count: Count) -> None:
        self._notes.add_count(bucket_of(time.time()), queue, count)

    def _see(self, activities: Iterable[Seen]) -> None:
        if len(self._seen) < _MOST_ACTIVITIES:
            self._seen += activities

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        rests = 0.0
        while not self._stopping.wait(max(_EVERY_SECONDS, rests)):
            began = time.monotonic()
            self._keep_up()
            self._store()
            rests = min(_RESTS * (time.monotonic() - began), _HEARD_SECONDS)
        self._store(everything=True)
        if self._history is not None:
            self._history.close()

    def _keep_up(self) -> None:
        now = time.time()
        if 0 <= now - self._heard_at < _HEARD_SECONDS:
            return
        self._heard_at = now
        with self._lock:
            for key, span in self._spans.items():
                self._spans[key] = heard = span._replace(heard_at=now)
                self._notes.add_span(heard)

    def _store(self, *, everything: bool = False) -> None:
        now = time.time()
        with self._lock:
            notes, self._notes = self._notes, Notes()
            for key, span in [*notes.spans.items()]:
                if not everything and _may_be_blink(span, now):
                    self._notes.add_span(notes.spans.pop(key))
            seen, self._seen = self._seen, []
        notes.activities += joined(self._times.compared(map(activity_of, seen)))
        if not notes:
            return
        try:
            self._write(notes)
        except MeshError as error:
            self._keep(notes)
            said = f"What happens cannot be noted: {error}"
        else:
            said = ""
        if said != self._said:
            self._said = said
            logger.warning(said or "What happens is noted again")

    def _write(self, notes: Notes) -> None:
        if self._history is None:
            self._history = _history_of(self._env)
        leaving = closing if self._forks else nullcontext
        with leaving(self._history) as history:
            if self._is_new:
                history.end_spans(self._name)
                self._is_new = False
            history.write(notes)
            if (now := time.time()) >= self._next_prune:
                history.prune(now)
                self._next_prune = now + _PRUNE_EVERY_SECONDS

    def _keep(self, notes: Notes) -> None:
        """Put back what could not be stored, before what was recorded since."""
        del notes.activities[_MOST_ACTIVITIES:]
        with self._lock:
            later, self._notes = self._notes, notes
            for incident in later.incidents.values():
                if len(notes.incidents) < _MOST_INCIDENTS:
                    notes.add_incident(incident)
            for span in later.spans.values():
                notes.add_span(span)
            for (bucket, queue), count in later.counts.items():
                notes.add_count(bucket, queue, count)


def _history_of(env: Environment) -> History:
    # loads SQLAlchemy
    from meshtasks.state.database import StateLocation  # noqa: PLC0415
    from meshtasks.state.history import History  # noqa: PLC0415

    return History(StateLocation.of(env))


def _may_be_blink(span: Span, now: float) -> bool:
    """Whether the span of a lost connection is too short to be an outage."""
    is_young = now - span.begins_at < _BLINK_SECONDS
    return span.kind == "broker" and span.ends_at is None and is_young


def _refusal(letter: Outgoing, now: float) -> Incident:
    """Return the incident of a dead letter."""
    table = letter.headers or {}
    stamp = (letter.properties or {}).get("timestamp")
    return refused(
        str(table.get(headers.ROUTING_KEY, "")),
        letter.body,
        str(table.get(headers.ERROR_TYPE, "")),
        str(table.get(headers.REASON, "")),
        float(stamp) if isinstance(stamp, int | float) else None,
        now,
    )


#: Number of times to keep for each sensor, and number of sensors.
_TIMES, _MOST_TIMED = 32, 5_000
_OfSensor = OrderedDict[float, float | None]


class Times:
    """The latest times of each sensor, to detect repeated readings. A reading is
    compared if it is the only one of its sensor in a batch, as most are. Of other
    batches, the first and the last time are kept."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], _OfSensor] = OrderedDict()

    def compared(self, activities: Iterable[SensorActivity]) -> list[SensorActivity]:
        """Return the activities; repeated readings are marked."""
        return [self._compared(each) for each in activities]

    def _compared(self, activity: SensorActivity) -> SensorActivity:
        if not activity.stretches:
            return activity
        key, value = activity[:2], activity.value
        times = self._known.setdefault(key, OrderedDict())
        self._known.move_to_end(key)
        if len(self._known) > _MOST_TIMED:
            self._known.popitem(last=False)
        first, (_, last, number) = activity.stretches[0].first, activity.stretches[-1]
        is_alone = len(activity.stretches) == number == 1
        is_again, before = is_alone and last in times, times.get(last)
        if not is_again:
            times |= {first: None, last: value}
            while len(times) > _TIMES:
                times.popitem(last=False)
            return activity
        if before is None or value is None or before == value:
            return activity._replace(repeated=1)
        return activity._replace(repeated=1, conflict=f"{before:g}, then {value:g}")


def joined(activities: Iterable[SensorActivity]) -> list[SensorActivity]:
    """Join activities of a sensor in consecutive batches into one, if each begins after
    the previous one ends and nothing in them is unusual."""
    open_at: dict[tuple[object, ...], int | None] = {}  # by sensor
    result: list[tuple[SensorActivity, list[Stretch]]] = []
    for each in activities:
        sensor, stretches = each[:2], each.stretches
        at = open_at.get(sensor)
        if at is not None:
            before, parts = result[at]
            is_after = stretches and parts and stretches[0].first > parts[-1].last
            if is_after and before[:5] == each[:5] and each.is_plain:
                parts += stretches
                result[at] = each, parts
                continue
        is_first = sensor not in open_at
        open_at[sensor] = len(result) if is_first and each.is_plain else None
        result.append((each, list(stretches)))
    return [each._replace(stretches=tuple(parts)) for each, parts in result]
