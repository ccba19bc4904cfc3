"""Count the dead letters, retries, model results, alerts and worker events that pass;
no I/O. One thread adds messages; other threads read the counts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from meshtasks.amqp.dead_letters import death_of
from meshtasks.amqp.delivery import last_death
from meshtasks.records.alert import Alert

#: Number of latest dead letters, alerts and batches that are kept.
_LAST = 20
#: Queues and commands whose batches are counted, at most.
_QUEUES = 1_000
#: Ids that are kept to recognise repeated messages.
_IDS = 100_000
#: Larger numbers are not times or durations in seconds.
_LARGEST_NUMBER = 1e12
#: Prefix of the source of an alert that a rule caused.
_OF_RULES = "rules."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter that was seen on its way to the dead-letter queue.

    Attributes:
        seen_at: epoch seconds.
        routing_key: the routing key of its first publication.
        error_type: class of the fault.
        reason: the fault as a sentence.
        queue: the queue in which it failed; empty if no binding matched.
        by_broker: whether the broker dead-lettered it, not a worker.
    """

    seen_at: float
    routing_key: str
    error_type: str
    reason: str
    queue: str = ""
    by_broker: bool = False


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """An alert that was seen (epoch seconds) on its way to the alert queues."""

    seen_at: float
    severity: str
    title: str
    message: str
    resolved: bool


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """A batch that a worker finished.

    Attributes:
        finished_at: epoch seconds, by the worker's clock.
        queue: its queue, or the name of a command.
        result: the text that Flower shows, or the fault.
        runtime_seconds: how long it ran; None if not known.
        failed: whether it was lost or must be retried.
        outcome: ``succeeded``, ``retried`` or ``failed``.
    """

    finished_at: float
    queue: str
    result: str
    runtime_seconds: float | None = None
    failed: bool = False
    worker: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker, as its events describe it.

    Attributes:
        heard_at: when its latest event arrived, epoch seconds; workers send an event
            every two seconds or more often.
        online: false after the worker reported that it stops.
        last_batch: the batch that it finished last.
    """

    name: str
    heard_at: float
    online: bool = True
    last_batch: BatchEvent | None = None


@dataclass(slots=True)
class Seen:
    """Counts since the start of the monitor.

    Attributes:
        dead_letters: dead letters, each counted once.
        repeated_dead_letters: further copies of counted dead letters.
        dead_by_queue: dead letters by the queue in which they failed.
        dead_messages: messages of which at least one record failed, by that queue.
        dead_by_broker: those of them dead-lettered by the broker, not acknowledged.
        dead_by_type: dead letters by the class of the fault.
        reasons: latest reason by the class of the fault.
        last_dead_letters: newest last.
        retried: retried messages, by queue.
        answers: results of models to their callers, each counted once.
        refusals: replies without a result to callers, each counted once.
        alerts_by_severity: alerts that began or ended.
        alerts_of_rules: alerts caused by rules that began or ended.
        alerts: alerts that began.
        resolved_alerts: alerts that ended.
        last_alerts: newest last.
        workers: in order of their names.
        outcomes: number of batches by outcome, by queue or command.
        last_batches: of all workers, newest last.
        interruptions: number of lost connections; events of these times are missing.
    """

    dead_letters: int = 0
    repeated_dead_letters: int = 0
    dead_by_queue: dict[str, int] = field(default_factory=dict)
    dead_messages: dict[str, int] = field(default_factory=dict)
    dead_by_broker: dict[str, int] = field(default_factory=dict)
    dead_by_type: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    last_dead_letters: tuple[DeadLetter, ...] = ()
    retried: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    refusals: int = 0
    alerts_by_severity: dict[str, int] = field(default_factory=dict)
    alerts_of_rules: int = 0
    alerts: int = 0
    resolved_alerts: int = 0
    last_alerts: tuple[SeenAlert, ...] = ()
    workers: tuple[WorkerState, ...] = ()
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    last_batches: tuple[BatchEvent, ...] = ()
    interruptions: int = 0


#: Identifies a dead letter: message id, index in its array, digest of the body (some
#: publishers give every message the same id).
Identity = tuple[str, int | None, bytes]


class MonitorState:
    """The counts so far; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = Seen()
        self._workers: dict[str, WorkerState] = {}
        self._queues: OrderedDict[str, str] = OrderedDict()
        self._dead_ids = _Recent()
        self._dead_messages = _Recent()
        self._answer_ids = _Recent()
        self._alert_ids = _Recent()

    def dead_letter(self, letter: DeadLetter, identity: Identity | None) -> None:
        """Count a dead letter; its identity is None if its publisher set no id."""
        queue = letter.queue
        with self._lock:
            seen = self._seen
            if identity is not None and not self._dead_ids.add((queue, identity)):
                seen.repeated_dead_letters += 1
                return
            if identity is None or self._dead_messages.add((queue, identity[0])):
                _count(seen.dead_messages, queue)
                _count(seen.dead_by_broker, queue, letter.by_broker)
            seen.dead_letters += 1
            _count(seen.dead_by_queue, queue)
            _count(seen.dead_by_type, letter.error_type)
            seen.reasons[letter.error_type] = letter.reason
            seen.last_dead_letters = (*seen.last_dead_letters, letter)[-_LAST:]

    def retry(self, queue: str) -> None:
        """Count a message that is to be retried."""
        with self._lock:
            _count(self._seen.retried, queue)

    def result(self, message_id: str) -> None:
        """Count a result of a model; results without a caller are ignored."""
        kind = message_id.rpartition("/")[2]
        with self._lock:
            if kind in {"result", "error"} and self._answer_ids.add(message_id):
                self._seen.answers += kind == "result"
                self._seen.refusals += kind == "error"

    def alert(self, body: bytes, now: float) -> None:
        """Count an alert. Other messages are ignored: the alert manager reports
        them."""
        try:
            alert = Alert.model_validate_json(body)
        except ValidationError:
            return
        said = alert.severity, alert.title, alert.message, alert.resolved
        with self._lock:
            if not self._alert_ids.add(alert.event_id):
                return
            seen = self._seen
            seen.alerts += not alert.resolved
            seen.resolved_alerts += alert.resolved
            seen.alerts_of_rules += alert.source.startswith(_OF_RULES)
            _count(seen.alerts_by_severity, alert.severity)
            seen.last_alerts = (*seen.last_alerts, SeenAlert(now, *said))[-_LAST:]

    def event(self, body: bytes, now: float) -> None:
        """Count a Celery event, or an array of events; other messages are ignored."""
        try:
            said = from_json(body)
        except ValueError:
            return
        with self._lock:
            for event in said if isinstance(said, list) else [said]:
                if isinstance(event, dict):
                    self._note(event, now)

    def interruption(self) -> None:
        """Count an interruption: events may be missing."""
        with self._lock:
            self._seen.interruptions += 1

    def seen(self) -> Seen:
        """A copy of the counts."""
        with self._lock:
            self._seen.workers = tuple(
                each for _, each in sorted(self._workers.items())
            )
            return deepcopy(self._seen)

    def _note(self, event: Mapping[str, Any], now: float) -> None:
        kind, name = str(event.get("type")), str(event.get("hostname"))
        if kind == "task-received":
            self._queues[str(event.get("uuid"))] = str(event.get("name"))
            if len(self._queues) > _IDS:
                self._queues.popitem(last=False)
        if not kind.startswith(("worker-", "task-")) or kind == "task-sent":
            return
        worker = self._workers.get(name) or WorkerState(name, now)
        batch = worker.last_batch
        if kind in {"task-succeeded", "task-retried", "task-failed"}:
            batch, seen = self._batch(kind, event), self._seen
            seen.last_batches = (*seen.last_batches, batch)[-_LAST:]
            if batch.queue in seen.outcomes or len(seen.outcomes) < _QUEUES:
                _count(seen.outcomes.setdefault(batch.queue, {}), batch.outcome)
        online = kind != "worker-offline"
        self._workers[name] = replace(
            worker, heard_at=now, online=online, last_batch=batch
        )

    def _batch(self, kind: str, event: Mapping[str, Any]) -> BatchEvent:
        failed = kind != "task-succeeded"
        return BatchEvent(
            finished_at=_number(event.get("timestamp")) or 0.0,
            queue=self._queues.pop(str(event.get("uuid")), "?"),
            result=str(event.get("exception" if failed else "result")),
            runtime_seconds=_number(event.get("runtime")),
            failed=failed,
            worker=str(event.get("hostname")),
            outcome=kind.removeprefix("task-"),
        )


def _count(counts: dict[str, int], name: str, number: int = 1) -> None:
    counts[name] = counts.get(name, 0) + number


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER:
        return float(value)
    return None


def dead_letter_of(
    table: Mapping[str, Any], routing_key: str, now: float
) -> DeadLetter:
    """A dead letter from its headers: the mesh's, or those of the broker's own
    dead-lettering. Without either, no binding matched the message.

    Args:
        routing_key: the routing key with which it was dead-lettered.
        now: epoch seconds.
    """
    death = death_of(table, "", routing_key, None)
    return DeadLetter(
        now,
        death.routing_key,
        death.kind,
        death.reason,
        death.queue or "",
        by_broker=last_death(table) is not None,
    )


class _Recent:
    """The latest items that were added, up to a limit."""

    def __init__(self) -> None:
        self._things: OrderedDict[object, None] = OrderedDict()

    def add(self, thing: object) -> bool:
        """Add an item; return False if it is already present."""
        if thing in self._things:
            return False
        self._things[thing] = None
        if len(self._things) > _IDS:
            self._things.popitem(last=False)
        return True
