"""From publish to queryable, at a steady rate well below what the worker can do.

VictoriaMetrics shows a point to queries up to a second after it has taken it,
unless told to show what it has. Both are measured: told before every look (how
long the mesh takes), and left alone (what somebody at a dashboard sees).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import quantiles
from urllib.parse import urlencode

from benchmarks.contenders import MESHTASKS, SENSOR_QUEUE
from benchmarks.drain import Say
from benchmarks.environments import ROOT
from benchmarks.load import SENSORS, reading, single
from benchmarks.services import CONFIG, Services, Space
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.queues import QueuesConfig
from meshtasks.config.loader import load_yaml
from meshtasks.demo import loopback
from meshtasks.demo.process import Process

MESSAGES_PER_SECOND = 500
SECONDS = 30
#: Above the batch age limit; the target of the 99th percentile.
ALLOWANCE_MS = 150

_STEP_MS = 1000 // MESSAGES_PER_SECOND
_PUBLISH_EVERY_SECONDS = 0.01
_LOOK_EVERY_SECONDS = 0.01
_WARM_UP_SECONDS = 3
_LAST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Latency:
    """What one measurement gave.

    Attributes:
        what: what was measured.
        messages: messages published.
        p50_ms: half of them were queryable within this.
        p99_ms: all but one in a hundred were.
        max_ms: all were.
        target_ms: of the 99th percentile; None where there is none.
        faults: why the ledger does not balance; empty when it does.
    """

    what: str
    messages: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    target_ms: float | None
    faults: tuple[str, ...]


def measure(services: Services, say: Say) -> list[Latency]:
    """Measure both ways.

    Args:
        services: the broker.
        say: told of progress.
    """
    queue = load_yaml(CONFIG / "queues.yaml", QueuesConfig).for_queue(SENSOR_QUEUE)
    target_ms = float(queue.batch.age_ms + ALLOWANCE_MS)
    return [
        _measure(
            services,
            "publish to queryable, store told to show at once",
            say,
            flush=True,
            target_ms=target_ms,
        ),
        _measure(
            services,
            "publish to queryable, store left alone",
            say,
            flush=False,
            target_ms=None,
        ),
    ]


def _measure(
    services: Services, what: str, say: Say, *, flush: bool, target_ms: float | None
) -> Latency:
    say(f"{what}: {MESSAGES_PER_SECOND} messages a second for {SECONDS} s")
    with services.space() as space:
        process = Process(
            MESHTASKS.name,
            MESHTASKS.prepared(),
            log_path=space.directory / "worker.log",
            env=space.environment(),
            cwd=ROOT,
        )
        process.start()
        try:
            # A worker's first batch is slow: it imports and connects.
            _Probe(space, _WARM_UP_SECONDS, flush=True).run()
            probe = _Probe(space, SECONDS, flush=flush)
            probe.run()
        finally:
            process.stop(within_seconds=30.0)
        missing = probe.messages - len(probe.latencies_ms)
        faults = (f"{missing:,} messages never became queryable",) if missing else ()
    found = sorted(probe.latencies_ms) or [float("nan")]
    percentiles = quantiles(found, n=100) if len(found) > 1 else found * 99
    return Latency(
        what,
        probe.messages,
        percentiles[49],
        percentiles[98],
        found[-1],
        target_ms,
        faults,
    )


class _Probe:
    """Publishes readings in one thread and looks for their points in another.

    The millisecond of a point tells which message it was.

    Args:
        space: where to.
        seconds: for how long.
        flush: tell the store to show what it has before every look.

    Attributes:
        messages: messages published.
        latencies_ms: of the messages whose points were found.
    """

    def __init__(self, space: Space, seconds: int, *, flush: bool) -> None:
        self.messages = seconds * MESSAGES_PER_SECOND
        self.latencies_ms: list[float] = []
        self._space = space
        self._flush = flush
        self._start_ms = int(time.time() * 1000)
        self._published_at = [0.0] * self.messages
        self._missing = set(range(self.messages))

    def run(self) -> None:
        """Publish all; look until all are found or there is no hope."""
        publisher = threading.Thread(target=self._publish, name="publisher")
        publisher.start()
        ends_at: float | None = None
        while self._missing and (ends_at is None or time.monotonic() < ends_at):
            self._look()
            if ends_at is None and not publisher.is_alive():
                ends_at = time.monotonic() + _LAST_SECONDS
            time.sleep(_LOOK_EVERY_SECONDS)
        publisher.join()

    def _publish(self) -> None:
        publisher = Publisher(self._space.amqp_url)
        started_at = time.monotonic()
        done = 0
        while done < self.messages:
            elapsed_seconds = time.monotonic() - started_at
            due = min(self.messages, int(elapsed_seconds * MESSAGES_PER_SECOND) + 1)
            if due > done:
                stamps = (self._start_ms + i * _STEP_MS for i in range(done, due))
                messages = single(
                    reading(stamp // _STEP_MS % SENSORS, stamp, 0.0) for stamp in stamps
                )
                outgoing = list(messages)
                self._published_at[done:due] = [time.monotonic()] * (due - done)
                publisher.publish(outgoing)
                done = due
            time.sleep(_PUBLISH_EVERY_SECONDS)
        publisher.close()

    def _look(self) -> None:
        if self._flush:
            self._space.flush()
        for time_ms in self._points_ms():
            index, rest = divmod(time_ms - self._start_ms, _STEP_MS)
            if not rest and index in self._missing:
                latency = time.monotonic() - self._published_at[index]
                self._missing.remove(index)
                self.latencies_ms.append(latency * 1000)

    def _points_ms(self) -> Iterator[int]:
        """Timestamps from that of the earliest message not yet found."""
        earliest_ms = self._start_ms + min(self._missing) * _STEP_MS
        latest_ms = self._start_ms + self.messages * _STEP_MS
        query = {
            "match[]": "temperature_celsius",
            "start": f"{earliest_ms / 1000:.3f}",
            "end": f"{latest_ms / 1000:.3f}",
        }
        path = f"/api/v1/export?{urlencode(query)}"
        for line in loopback.request("GET", self._space.store.port, path).splitlines():
            yield from json.loads(line)["timestamps"]
