"""Counts for the reconciliation of a demo: its queues, and what the stores have."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import cache
from urllib.parse import urlencode

from meshtasks.amqp.management import QueueActivity
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.settings import Settings
from meshtasks.demo import loopback
from meshtasks.demo.reconciliation import (
    ALERT_QUEUES,
    ALERTS,
    RESULTS,
    AlertCounts,
    Archived,
    Points,
    QueueCount,
    Reconciliation,
    published_so_far,
)
from meshtasks.demo.stack import Stack
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.archive.objects import (
    ObjectStore,
    archived_objects,
    decompress,
    open_store,
)
from meshtasks.flows.inference.config import MEASUREMENT as INFERENCE
from meshtasks.flows.sinks import Sinks
from meshtasks.flows.timeseries import DOCTORS_MEASUREMENT
from meshtasks.observation.collect import Collector
from meshtasks.observation.seen import Seen

#: Readings may be as much ahead of the present as their clocks; see
#: meshtasks.records.timestamps.
_AHEAD_SECONDS = 86_400
#: Time range of one export from the store.
_WINDOW_SECONDS = 600
#: Limit of alert events that the alert manager keeps.
_EVENTS = 20_000
#: Wait for final counts: the broker collects statistics every second.
REST_SECONDS = 2.0
_POLL_SECONDS = 0.1
#: Time for which queues must stay empty to count as empty: longer than a batch takes,
#: also than several batches that were prefetched together.
_EMPTY_SECONDS = 1.0


class QueueCounters:
    """Counts messages of queues from its creation on.

    Args:
        queues: queues to count; no worker may hold messages of them at the start.
    """

    def __init__(self, collector: Collector, queues: Sequence[str]) -> None:
        self._collector = collector
        self._queues = queues
        self._before = collector.activity()
        self._seen_before = collector.seen()
        self._held = {name: depth.ready for name, depth in collector.depths().items()}

    def now(self) -> list[QueueCount]:
        """Return the current counts; the last second or two may be missing.

        Raises:
            Transient, ConfigError: the broker does not respond.
        """
        activity, seen = self._collector.activity(), self._collector.seen()
        depths = self._collector.depths()
        return [
            self._flow(name, activity, seen, depths[name].ready)
            for name in self._queues
        ]

    def wait_over(
        self,
        queues: Sequence[str],
        published: Mapping[str, int],
        within_seconds: float,
        *,
        for_seconds: float = 0.0,
    ) -> None:
        """Wait until all published messages have entered and left these queues.

        It returns at the time limit in any case.

        Args:
            queues: some of the counted queues.
            published: queue → messages published to it, as far as known.
            within_seconds: time limit.
            for_seconds: how long the state must last.

        Raises:
            Transient, ConfigError: the broker does not respond.
        """
        now = time.monotonic()
        deadline, last_open = now + within_seconds, now
        while now < deadline:
            flows = [flow for flow in self.now() if flow.queue in queues]
            now = time.monotonic()
            if not all(
                flow.is_over and flow.came_in >= published.get(flow.queue, 0)
                for flow in flows
            ):
                last_open = now
            elif now - last_open >= for_seconds:
                return
            time.sleep(_POLL_SECONDS)

    def _flow(
        self, name: str, activity: Mapping[str, QueueActivity], seen: Seen, left: int
    ) -> QueueCount:
        nothing = QueueActivity(name=name)
        now, before = activity.get(name, nothing), self._before.get(name, nothing)
        was = self._seen_before
        return QueueCount(
            name,
            now.messages_in - before.messages_in + self._held[name],
            now.messages_out - before.messages_out,
            _since(was.retried, seen.retried, name),
            _since(was.dead_messages, seen.dead_messages, name),
            _since(was.dead_by_broker, seen.dead_by_broker, name),
            left,
        )


def _since(before: Mapping[str, int], now: Mapping[str, int], name: str) -> int:
    return now.get(name, 0) - before.get(name, 0)


class Backlog:
    """Messages that no worker has fetched yet.

    Args:
        queues: queues of the workers.
        retry_queues: queues in which messages wait for a retry.
    """

    def __init__(
        self, collector: Collector, queues: Sequence[str], retry_queues: Sequence[str]
    ) -> None:
        self._collector = collector
        self._queues = queues
        self._retry_queues = retry_queues

    def are_consumed(self, queues: Sequence[str]) -> bool:
        """Return whether each of these queues has a consumer.

        Raises:
            Transient, ConfigError: the broker does not respond, for all methods.
        """
        depths = self._collector.depths()
        return all(depths[queue].consumers for queue in queues)

    def waiting(self) -> dict[str, int]:
        """Return queue → waiting messages, without empty queues."""
        return self._ready([*self._queues, *self._retry_queues])

    def to_be_retried(self) -> dict[str, int]:
        """Return retry queue → waiting messages, without empty queues."""
        return self._ready(self._retry_queues)

    def wait_empty(
        self, within_seconds: float, *, for_seconds: float = _EMPTY_SECONDS
    ) -> None:
        """Wait until the queues have been empty for a while, or for the time limit."""
        now = time.monotonic()
        deadline, last_seen = now + within_seconds, now
        while now < deadline and now - last_seen < for_seconds:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if self.waiting():
                last_seen = now

    def _ready(self, names: Sequence[str]) -> dict[str, int]:
        depths = self._collector.depths()
        return {name: ready for name in names if (ready := depths[name].ready)}


class Audit:
    """Records the state before a run, and computes what the run has added.

    Args:
        queues: queues of the workers.
    """

    def __init__(
        self,
        stack: Stack,
        collector: Collector,
        settings: Settings,
        queues: Sequence[str],
    ) -> None:
        self._stack = stack
        self._collector = collector
        self._store = open_store(settings.env)
        self._settings = settings
        self._dead_letter_queue = settings.read(TOPOLOGY).dead_letter_queue
        self._since_seconds = int(time.time())
        self._objects = frozenset(each.name for each in archived_objects(self._store))
        self._received = stack.receiver.received()
        self._dead = collector.depths()[self._dead_letter_queue].ready
        #: Counts of the queues since the beginning.
        self.flows = QueueCounters(collector, queues)

    def balance(self, waiting: Mapping[str, int]) -> Reconciliation:
        """Return the reconciliation of the run. Call it after the workers have stopped.

        Args:
            waiting: other queue → messages left in it.

        Raises:
            OSError, MeshError: a store or the broker does not respond.
        """
        received, before = self._stack.receiver.received(), self._received
        since = self._since_seconds
        return Reconciliation(
            published=published_so_far(self._stack.stats_file),
            points=stored_points(self._stack.victoria_metrics.port, since),
            calls=Counter(received.records) - Counter(before.records),
            # All of this demo, including those for alerts of an earlier run: some are
            # due at the moment when counting begins.
            notifications=received.notifications,
            alert_counts=alert_counts(
                self._settings, since, sent_since=self._stack.receiver.started_at
            ),
            archived=archived_records(
                self._store, self._objects, since, self._settings.read(TOPOLOGY)
            ),
            seen=self._collector.seen(),
            flows=self.flows.now(),
            dead_in_queue=(
                self._collector.depths()[self._dead_letter_queue].ready - self._dead
            ),
            waiting=waiting,
        )


def stored_points(port: int, since_seconds: int) -> Points:
    """Return the points in VictoriaMetrics since a time.

    Args:
        port: of its HTTP API on this machine.
        since_seconds: epoch seconds.

    Raises:
        OSError, HTTPFailed: it does not respond.
    """
    loopback.request("GET", port, "/internal/force_flush")
    points: Counter[str] = Counter()
    repeated = 0
    for start, end in _windows(since_seconds):
        match = {"match[]": '{__name__!=""}', "start": start, "end": end - 0.001}
        path = f"/api/v1/export?{urlencode(match)}"
        lines = loopback.request("GET", port, path, timeout_seconds=60.0).splitlines()
        # A point with several fields is in as many series.
        moments: dict[tuple[str, frozenset[tuple[str, str]]], set[int]] = {}
        copies: dict[tuple[str, frozenset[tuple[str, str]]], int] = defaultdict(int)
        for series in map(json.loads, lines):
            labels: dict[str, str] = series["metric"]
            name = labels.pop("__name__")
            if name.startswith(DOCTORS_MEASUREMENT):
                continue  # the doctor's probe, not a record's point
            measurement = name.partition("_")[0]
            key = measurement, frozenset(labels.items())
            times = set(series["timestamps"])
            moments.setdefault(key, set()).update(times)
            # The store keeps all copies of a point that was written again.
            copies[key] = max(copies[key], len(series["timestamps"]) - len(times))
        for (measurement, tags), times in moments.items():
            points[_kind_of_series(measurement, dict(tags))] += len(times)
        repeated += sum(copies.values())
    return Points(points, repeated)


def _kind_of_series(measurement: str, labels: Mapping[str, str]) -> str:
    """Return the queue through which the points of a series came."""
    if measurement == INFERENCE:
        return RESULTS
    if "sensor_id" in labels:
        return f"sensors.{measurement}"
    return "metrics.application" if "service" in labels else "metrics.system"


def archived_records(
    store: ObjectStore, known: frozenset[str], since_seconds: int, topology: Topology
) -> Archived:
    """Return the records in new objects of the archive since a time.

    Args:
        known: names of older objects, which are skipped.
        since_seconds: epoch seconds.
        topology: determines the queue of a record.

    Raises:
        SinkUnavailable: the store cannot be read.
    """

    @cache
    def kind_of(exchange: str, routing_key: str) -> str:
        queues = topology.queues_reached(exchange, routing_key)
        return ALERTS if queues & set(ALERT_QUEUES) else ", ".join(sorted(queues))

    ids: set[str] = set()
    kinds: Counter[str] = Counter()
    queues: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    repeated = critical = 0
    for each in archived_objects(store):
        if each.name in known:
            continue
        queue = f"archive.{each.name.partition('/')[0]}"
        objects[queue] += 1
        sizes[queue] += each.size_bytes
        content = decompress(store.get(each.name))
        for line in map(json.loads, content.splitlines()):
            if datetime.fromisoformat(line["time"]).timestamp() < since_seconds:
                continue
            if line["id"] in ids:
                repeated += 1
                continue
            ids.add(line["id"])
            kind = kind_of(line["exchange"], line["routing_key"])
            kinds[kind] += 1
            queues[queue] += 1
            critical += kind == ALERTS and line["record"]["severity"] == "critical"
    return Archived(kinds, queues, objects, sizes, critical, repeated)


def alert_counts(
    settings: Settings, since_seconds: int, *, sent_since: float
) -> AlertCounts:
    """Return the alerts recorded, and the notifications sent, since a time each.

    Args:
        since_seconds: for alerts, epoch seconds.
        sent_since: for notifications, epoch seconds.

    Raises:
        Transient, SinkUnavailable: the state cannot be read.
    """
    with closing(Sinks(settings)) as sinks, sinks[ALERT_STATE].tables() as tables:
        # Ids of an alert that was published twice differ only in the time after @.
        ids = {name.rpartition("@")[0] for name in tables.seen_since(since_seconds)}
        events = tables.history(_EVENTS)
    sent = [each for each in events if each.kind == "sent" and each.at >= sent_since]
    return AlertCounts(len(ids), len(sent))


def _windows(since_seconds: int) -> Iterator[tuple[int, int]]:
    now = int(time.time()) + 1
    for start in range(since_seconds, now, _WINDOW_SECONDS):
        yield start, min(start + _WINDOW_SECONDS, now)
    yield now, now + _AHEAD_SECONDS
