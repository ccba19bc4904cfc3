"""Reads back what the stores have of a demo's run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from urllib.parse import urlencode

import zstandard

from meshtasks.cli.demo_books import Archived, Books, Stored, published_so_far
from meshtasks.cli.view.collect import Collector
from meshtasks.embedded import loopback
from meshtasks.embedded.stack import Stack
from meshtasks.sinks.objects import ObjectStore, archived_objects

#: The domain whose kinds the simulated house speaks of.
_DOMAIN = "sensors"
#: Readings are of the present, but for clocks that are ahead; see
#: meshtasks.domain.timestamps.
_AHEAD_SECONDS = 86_400
#: So much of the store is read at a time.
_WINDOW_SECONDS = 600


class Audit:
    """Notes how things stand before a run, and finds out what the run has added.

    Args:
        collector: watches already.
        dead_letter_queue: where dead letters end.
    """

    def __init__(
        self,
        stack: Stack,
        collector: Collector,
        store: ObjectStore,
        dead_letter_queue: str,
    ) -> None:
        self._stack = stack
        self._collector = collector
        self._store = store
        self._dead_letter_queue = dead_letter_queue
        self._since_seconds = int(time.time())
        self._objects = frozenset(each.name for each in archived_objects(store))
        self._dead = collector.depths()[dead_letter_queue].ready

    def books(self, waiting: Mapping[str, int]) -> Books:
        """The books of the run; ask when no worker runs any more.

        Args:
            waiting: messages left, by queue.

        Raises:
            OSError, MeshError: one of the stores does not answer.
        """
        port = self._stack.victoria_metrics.port
        return Books(
            published_so_far(self._stack.stats_file),
            stored_points(port, self._since_seconds),
            self._collector.seen(),
            archived_records(self._store, self._objects, self._since_seconds),
            self._collector.depths()[self._dead_letter_queue].ready - self._dead,
            waiting,
        )


def stored_points(port: int, since_seconds: int) -> Stored:
    """The points in VictoriaMetrics, as far as they are not older.

    Args:
        port: of its HTTP API on this machine.
        since_seconds: epoch seconds.

    Raises:
        OSError, HTTPFailed: it does not answer.
    """
    loopback.request("GET", port, "/internal/force_flush")
    points: Counter[str] = Counter()
    repeated = 0
    for start, end in _windows(since_seconds):
        match = {"match[]": '{__name__!=""}', "start": start, "end": end - 0.001}
        path = f"/api/v1/export?{urlencode(match)}"
        lines = loopback.request("GET", port, path, timeout_seconds=60.0).splitlines()
        for series in map(json.loads, lines):
            measurement = series["metric"]["__name__"].rpartition("_")[0]
            times = series["timestamps"]
            # Of a point that was written again the store keeps every copy.
            distinct = len(set(times))
            points[f"{_DOMAIN}.{measurement}"] += distinct
            repeated += len(times) - distinct
    return Stored(points, repeated)


def archived_records(
    store: ObjectStore, known: frozenset[str], since_seconds: int
) -> Archived:
    """The records of objects that are not ``known``, as far as they are not older.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    objects = [each for each in archived_objects(store) if each.name not in known]
    ids: set[str] = set()
    domains: Counter[str] = Counter()
    repeated = 0
    for each in objects:
        content = zstandard.ZstdDecompressor().decompress(store.get(each.name))
        for line in map(json.loads, content.splitlines()):
            if datetime.fromisoformat(line["time"]).timestamp() < since_seconds:
                continue
            if line["id"] in ids:
                repeated += 1
                continue
            ids.add(line["id"])
            domains[line["routing_key"].partition(".")[0]] += 1
    size_bytes = sum(each.size_bytes for each in objects)
    return Archived(len(objects), size_bytes, domains, repeated)


def _windows(since_seconds: int) -> Iterator[tuple[int, int]]:
    now = int(time.time()) + 1
    for start in range(since_seconds, now, _WINDOW_SECONDS):
        yield start, min(start + _WINDOW_SECONDS, now)
    yield now, now + _AHEAD_SECONDS
