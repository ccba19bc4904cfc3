"""Keeps count of the dead letters, retries, answers, alerts and worker events that pass
by.

Pure but for its lock: messages come in as plain data from one thread, and another
asks what was seen.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
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
from meshtasks.observation.snapshot import (
    BatchEvent,
    DeadLetter,
    Seen,
    SeenAlert,
    WorkerState,
)
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

#: What tells dead letters apart: message id, place in its array, digest of the body
#: (some publishers give every message the same id).
Identity = tuple[str, int | None, bytes]


class MonitorState:
    """What was seen so far; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dead_ids = _Recent()
        self._dead_messages = _Recent()
        self._dead_by_queue: Counter[str] = Counter()
        self._dead_messages_by_queue: Counter[str] = Counter()
        self._dead_by_broker: Counter[str] = Counter()
        self._dead_by_type: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self._repeated = 0
        self._last_dead: deque[DeadLetter] = deque(maxlen=_LAST)
        self._retried: Counter[str] = Counter()
        self._answer_ids = _Recent()
        self._answers: Counter[str] = Counter()
        self._alert_ids = _Recent()
        self._severities: Counter[str] = Counter()
        self._rule_alerts = 0
        self._alerts: Counter[bool] = Counter()
        self._last_alerts: deque[SeenAlert] = deque(maxlen=_LAST)
        self._queues: OrderedDict[str, str] = OrderedDict()
        self._workers: dict[str, WorkerState] = {}
        self._outcomes: dict[str, Counter[str]] = {}
        self._last_batches: deque[BatchEvent] = deque(maxlen=_LAST)
        self._interruptions = 0

    def dead_letter(self, letter: DeadLetter, identity: Identity | None) -> None:
        """Note a dead letter; it has no identity if its publisher gave no id."""
        queue = letter.queue
        with self._lock:
            if identity is not None and not self._dead_ids.add((queue, identity)):
                self._repeated += 1
                return
            if identity is None or self._dead_messages.add((queue, identity[0])):
                self._dead_messages_by_queue[queue] += 1
                self._dead_by_broker[queue] += letter.by_broker
            self._dead_by_queue[queue] += 1
            self._dead_by_type[letter.error_type] += 1
            self._reasons[letter.error_type] = letter.reason
            self._last_dead.append(letter)

    def retry(self, queue: str) -> None:
        """Note a message that was put back for later."""
        with self._lock:
            self._retried[queue] += 1

    def result(self, message_id: str) -> None:
        """Note a result of a model; those that nobody asked for are left alone."""
        kind = message_id.rpartition("/")[2]
        with self._lock:
            if kind in {"result", "error"} and self._answer_ids.add(message_id):
                self._answers[kind] += 1

    def alert(self, body: bytes, now: float) -> None:
        """Note an alert; a message that is none is left to the alert manager."""
        try:
            alert = Alert.model_validate_json(body)
        except ValidationError:
            return
        with self._lock:
            if not self._alert_ids.add(alert.event_id):
                return
            self._alerts[alert.resolved] += 1
            self._rule_alerts += alert.source.startswith(_OF_RULES)
            self._severities[alert.severity] += 1
            self._last_alerts.append(
                SeenAlert(
                    now, alert.severity, alert.title, alert.message, alert.resolved
                )
            )

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
            self._interruptions += 1

    def seen(self) -> Seen:
        """All of it."""
        with self._lock:
            return Seen(
                dead_letters=self._dead_by_type.total(),
                repeated_dead_letters=self._repeated,
                dead_by_queue=dict(self._dead_by_queue),
                dead_messages=dict(self._dead_messages_by_queue),
                dead_by_broker=dict(self._dead_by_broker),
                dead_by_type=dict(self._dead_by_type),
                reasons=dict(self._reasons),
                last_dead_letters=tuple(self._last_dead),
                retried=dict(self._retried),
                answers=self._answers["result"],
                refusals=self._answers["error"],
                alerts_by_severity=dict(self._severities),
                alerts_of_rules=self._rule_alerts,
                alerts=self._alerts[False],
                resolved_alerts=self._alerts[True],
                last_alerts=tuple(self._last_alerts),
                workers=tuple(self._workers[name] for name in sorted(self._workers)),
                outcomes={key: dict(self._outcomes[key]) for key in self._outcomes},
                last_batches=tuple(self._last_batches),
                interruptions=self._interruptions,
            )

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
        if ended := self._batch(kind, event):
            batch = ended
            self._last_batches.append(ended)
            if ended.queue in self._outcomes or len(self._outcomes) < _QUEUES:
                of_queue = self._outcomes.setdefault(ended.queue, Counter())
                of_queue[ended.outcome] += 1
        online = kind != "worker-offline"
        self._workers[name] = replace(
            worker, heard_at=now, online=online, last_batch=batch
        )

    def _batch(self, kind: str, event: Mapping[str, Any]) -> BatchEvent | None:
        if kind not in {"task-succeeded", "task-retried", "task-failed"}:
            return None
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


_ALERTS_EXCHANGE = "alerts"
_RESULTS_QUEUE = "ai.inference.results"

_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
#: When we do not keep up, the broker drops the oldest copies; it must never fill up
#: or hold back a publisher on our account.
_BOUNDED = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


class EventMonitor:
    """Watches dead letters, alerts and workers in a thread of its own.

    Args:
        topology: names the exchanges that feed the queues.
    """

    def __init__(self, url: str, topology: Topology) -> None:
        self._url = url
        self._dead_routes = _routes_to(topology.dead_letter_queue, topology)
        self._result_routes = _routes_to(_RESULTS_QUEUE, topology)
        self._retry_routes = [(queue.name, "") for queue in topology.retry_queues]
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
            self._tap(channel, self._dead_routes, self._on_dead_letter)
            self._tap(channel, self._retry_routes, self._on_retry)
            self._tap(channel, self._result_routes, self._on_result)
            self._tap(channel, [(_ALERTS_EXCHANGE, "")], self._on_alert)
            self._tap(channel, [(events.name, "#")], self._on_event)
            self._open.set()
            self.fault = ""
            while not self._stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=_POLL_SECONDS)

    def _tap(
        self,
        channel: Any,
        routes: Sequence[tuple[str, str]],
        on_message: Callable[[Any], None],
    ) -> None:
        queue = channel.queue_declare("", exclusive=True, arguments=_BOUNDED).queue
        for exchange, routing_key in routes:
            channel.queue_bind(queue, exchange, routing_key)
        channel.basic_consume(queue, no_ack=True, callback=on_message)

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

    def _on_retry(self, message: Any) -> None:
        self._monitor.retry(message.delivery_info["routing_key"])

    def _on_result(self, message: Any) -> None:
        self._monitor.result(str(message.properties.get("message_id", "")))

    def _on_alert(self, message: Any) -> None:
        self._monitor.alert(message.body, time.time())

    def _on_event(self, message: Any) -> None:
        self._monitor.event(message.body, time.time())


def _routes_to(queue: str, topology: Topology) -> list[tuple[str, str]]:
    """Exchange and routing key of every binding of a queue."""
    return [
        (binding.exchange, binding.routing_key)
        for binding in topology.all_bindings
        if binding.queue == queue
    ]
