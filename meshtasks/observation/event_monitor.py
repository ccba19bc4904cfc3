"""Keeps count of the dead letters, retries, answers, alerts and worker events that pass
by.

Pure but for its lock: messages come in as plain data from one thread, and another
asks what was seen.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Self

import kombu
from amqp.exceptions import ChannelError
from celery.events.event import get_exchange
from pydantic import ValidationError
from pydantic_core import from_json

from meshtasks.amqp import headers
from meshtasks.amqp.connecting import connected
from meshtasks.amqp.dead_letters import death_of
from meshtasks.amqp.delivery import last_death, trusted_headers
from meshtasks.amqp.topology import Topology
from meshtasks.errors import ConfigError, Transient
from meshtasks.records.alert import Alert

#: How many of the last dead letters and alerts are kept.
_LAST = 20
#: Queues whose batches are counted.
_QUEUES = 1_000
#: So many ids are remembered, to know what comes twice.
_IDS = 100_000

#: No moment or duration in seconds is larger.
_LARGEST_NUMBER = 1e12

#: How the source of an alert begins that a rule has given.
_OF_RULES = "rules."
_ALERTS_EXCHANGE = "alerts"
_RESULTS_QUEUE = "ai.inference.results"
_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
#: When we do not keep up, the broker drops the oldest copies; it must never fill up
#: or hold back a publisher on our account.
_BOUNDED = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter that was seen on its way to the dead-letter queue.

    Attributes:
        seen_at: epoch seconds.
        routing_key: of first publication.
        error_type: class of the fault.
        reason: the fault as a sentence.
        queue: it died in; empty for a message that no binding matched.
        by_broker: the broker took it from the queue, not a worker.
    """

    seen_at: float
    routing_key: str
    error_type: str
    reason: str
    queue: str = ""
    by_broker: bool = False


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """An alert that was seen on its way to the alert queues."""

    seen_at: float
    severity: str
    title: str
    message: str
    resolved: bool


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """The last batch that a worker finished.

    Attributes:
        finished_at: epoch seconds, by the worker's clock.
        result: the line that Flower shows, or the fault.
        failed: it was lost or has to be retried.
        worker: that has done it.
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
    """A worker, by its events.

    Attributes:
        heard_at: when its last event came, epoch seconds; it sends one every two
            seconds at least.
        online: it has not said good-bye.
    """

    name: str
    heard_at: float
    online: bool = True
    last_batch: BatchEvent | None = None


@dataclass(slots=True)
class Seen:
    """What passed by since somebody looks.

    Attributes:
        dead_letters: how many, each counted once.
        repeated_dead_letters: copies of some of them.
        dead_by_queue: how many, by the queue they died in.
        dead_messages: whole messages and such of which a part died, by that queue.
        dead_by_broker: those of them that no worker acknowledged.
        dead_by_type: how many, by the class of the fault.
        reasons: the last reason given, by the class of the fault.
        last_dead_letters: newest last.
        retried: messages put back for later, by queue.
        answers: of models to those who asked, each counted once.
        refusals: to say that there is no answer, each counted once.
        alerts_by_severity: how many began or ended.
        alerts_of_rules: how many rules gave, begun or ended.
        alerts: how many began.
        resolved_alerts: how many ended.
        last_alerts: newest last.
        workers: in order of their names.
        outcomes: of batches and commands, by the queue or the command.
        last_batches: of all workers, newest last.
        interruptions: times the connection was lost; what passed meanwhile was
            not seen.
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


#: What tells dead letters apart: message id, index in its array, digest of the body
#: (some publishers give every message the same id).
Identity = tuple[str, int | None, bytes]


class MonitorState:
    """What was seen so far; thread-safe."""

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
        """Note a dead letter; it has no identity if its publisher gave no id."""
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
        """Note a message that was put back for later."""
        with self._lock:
            _count(self._seen.retried, queue)

    def result(self, message_id: str) -> None:
        """Note a result of a model; those that nobody asked for are left alone."""
        kind = message_id.rpartition("/")[2]
        with self._lock:
            if kind in {"result", "error"} and self._answer_ids.add(message_id):
                self._seen.answers += kind == "result"
                self._seen.refusals += kind == "error"

    def alert(self, body: bytes, now: float) -> None:
        """Note an alert; a message that is none is left to the alert manager."""
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
        """Note a Celery event, or an array of them; what is none is passed over."""
        try:
            said = from_json(body)
        except ValueError:
            return
        with self._lock:
            for event in said if isinstance(said, list) else [said]:
                if isinstance(event, dict):
                    self._note(event, now)

    def interruption(self) -> None:
        """Note that something may have passed unseen."""
        with self._lock:
            self._seen.interruptions += 1

    def seen(self) -> Seen:
        """All of it."""
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
    """A dead letter by its headers: the mesh's own, or those of the broker's own
    dead-lettering; without either, it was published where no binding matches.

    Args:
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
    """The last so many of the things that were added."""

    def __init__(self) -> None:
        self._things: OrderedDict[object, None] = OrderedDict()

    def add(self, thing: object) -> bool:
        """Add it; false if it was there already."""
        if thing in self._things:
            return False
        self._things[thing] = None
        if len(self._things) > _IDS:
            self._things.popitem(last=False)
        return True


class EventMonitor:
    """Watches dead letters, alerts and workers in a thread of its own.

    Args:
        topology: names the exchanges that feed the queues; without it only workers are
            watched.
    """

    def __init__(self, url: str, topology: Topology | None = None) -> None:
        self._url = url
        self._topology = topology
        self._monitor = MonitorState()
        #: Why nothing is seen; empty while all is well.
        self.fault = ""
        self._open = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_open(self, within_seconds: float) -> bool:
        """Wait until everything that passes is seen; whether it is."""
        return self._open.wait(within_seconds)

    def seen(self) -> Seen:
        """What was seen so far."""
        return self._monitor.seen()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connected(self._url) as connection:
                    self._watch(connection)
            except (Transient, ConfigError, ChannelError) as error:
                self.fault = f"dead letters, alerts and workers not seen: {error}"
            if self._open.is_set() and not self._stopping.is_set():
                self._open.clear()
                self._monitor.interruption()
            self._stopping.wait(_RECONNECT_SECONDS)

    def _watch(self, connection: kombu.Connection) -> None:
        with closing(connection.channel()) as channel:
            # The exchange of the events is there once a worker was; declaring it as
            # Celery does makes it so.
            events = get_exchange(connection)(channel)
            events.declare()
            for note, routes in self._taps(events.name):
                queue = channel.queue_declare(
                    "", exclusive=True, arguments=_BOUNDED
                ).queue
                for exchange, routing_key in routes:
                    channel.queue_bind(queue, exchange, routing_key)
                channel.basic_consume(queue, no_ack=True, callback=note)
            self._open.set()
            self.fault = ""
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=_POLL_SECONDS)

    def _taps(
        self, events: str
    ) -> Iterator[tuple[Callable[[Any], None], list[tuple[str, str]]]]:
        """What is done with messages, and the exchanges and keys that they come by."""
        seen, topology = self._monitor, self._topology
        yield lambda m: seen.event(m.body, time.time()), [(events, "#")]
        if topology is None:
            return
        yield self._on_dead_letter, _routes_to(topology.dead_letter_queue, topology)
        yield (
            lambda m: seen.retry(m.delivery_info["routing_key"]),
            [(queue.name, "") for queue in topology.retry_queues],
        )
        yield (
            lambda m: seen.result(str(m.properties.get("message_id", ""))),
            _routes_to(_RESULTS_QUEUE, topology),
        )
        yield lambda m: seen.alert(m.body, time.time()), [(_ALERTS_EXCHANGE, "")]

    def _on_dead_letter(self, message: Any) -> None:
        properties = message.properties
        table = trusted_headers(
            properties.get("application_headers") or {},
            message.delivery_info["exchange"],
        )
        identity: Identity | None = None
        if message_id := properties.get("message_id"):
            digest = hashlib.blake2b(message.body, digest_size=8).digest()
            identity = str(message_id), table.get(headers.RECORD_INDEX), digest
        routing_key = message.delivery_info["routing_key"]
        letter = dead_letter_of(table, routing_key, time.time())
        self._monitor.dead_letter(letter, identity)


def _routes_to(queue: str, topology: Topology) -> list[tuple[str, str]]:
    return [
        (binding.exchange, binding.routing_key)
        for binding in topology.all_bindings
        if binding.queue == queue
    ]
