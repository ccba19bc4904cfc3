"""Reads back what the stores have of a demo's run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import urlencode

import zstandard

from meshtasks.cli.demo_books import Archived
from meshtasks.embedded import loopback
from meshtasks.sinks.objects import ObjectStore

#: Readings are of the present, but for clocks that are ahead; see
#: meshtasks.domain.timestamps.
_AHEAD_SECONDS = 86_400
#: So much of the store is read at a time.
_WINDOW_SECONDS = 600


def stored_points(port: int, since_seconds: int) -> Counter[str]:
    """Distinct points in VictoriaMetrics, by measurement.

    Args:
        port: of its HTTP API on this machine.
        since_seconds: epoch seconds; older points do not count.

    Raises:
        OSError, HTTPFailed: it does not answer.
    """
    loopback.request("GET", port, "/internal/force_flush")
    counts: Counter[str] = Counter()
    for start, end in _windows(since_seconds):
        match = {"match[]": '{__name__!=""}', "start": start, "end": end - 0.001}
        path = f"/api/v1/export?{urlencode(match)}"
        lines = loopback.request("GET", port, path, timeout_seconds=60.0).splitlines()
        for series in map(json.loads, lines):
            measurement = series["metric"]["__name__"].rpartition("_")[0]
            # The store keeps every copy of a point that was written again.
            counts[measurement] += len(set(series["timestamps"]))
    return counts


def archived_records(
    store: ObjectStore, known: frozenset[str], since_seconds: int
) -> Archived:
    """The records of objects that are not ``known``, as far as they are not older.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    objects = [each for each in store.list("") if each.name not in known]
    ids: Counter[str] = Counter()
    for each in objects:
        content = zstandard.ZstdDecompressor().decompress(store.get(each.name))
        for line in map(json.loads, content.splitlines()):
            if datetime.fromisoformat(line["time"]).timestamp() >= since_seconds:
                ids[line["id"]] += 1
    return Archived(
        objects=len(objects),
        size_bytes=sum(each.size_bytes for each in objects),
        records=len(ids),
        repeated=ids.total() - len(ids),
    )


def _windows(since_seconds: int) -> Iterator[tuple[int, int]]:
    now = int(time.time()) + 1
    for start in range(since_seconds, now, _WINDOW_SECONDS):
        yield start, min(start + _WINDOW_SECONDS, now)
    yield now, now + _AHEAD_SECONDS
