"""From publish to queryable, at rates well below what the worker can do.

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
from typing import NamedTuple
from urllib.parse import urlencode

from benchmarks.contenders import MESHTASKS, SENSOR_QUEUE
from benchmarks.drain import Say
from benchmarks.figures import usage
from benchmarks.load import SENSORS, reading, single
from benchmarks.services import CONFIG, Services, Space
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.queues import QueuesConfig
from meshtasks.config.loader import load_yaml
from meshtasks.demo import loopback

#: Above the batch age limit; the target of the 99th percentile at a steady rate.
ALLOWANCE_MS = 150
#: Target of the median where every message meets an idle queue.
SPARSE_TARGET_MS = 25.0

_STEADY_MS, _SPARSE_MS = 2, 400
SECONDS = 30
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
        cpu_us: the worker's processor time per message, microseconds.
        p50_target_ms: of the median; None where there is none.
        p99_target_ms: of the 99th percentile; None where there is none.
        faults: why the ledger does not balance; empty when it does.
    """

    what: str
    messages: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float
    p50_target_ms: float | None
    p99_target_ms: float | None
    faults: tuple[str, ...]


class _Plan(NamedTuple):
    """What to measure: a message every so many milliseconds."""

    what: str
    every_ms: int
    flush: bool = True
    p50_target_ms: float | None = None
    p99_target_ms: float | None = None


def measure(services: Services, say: Say) -> list[Latency]:
    """Measure a sparse stream, and a steady one both ways.

    Args:
        services: the broker.
        say: told of progress.
    """
    queue = load_yaml(CONFIG / "queues.yaml", QueuesConfig).for_queue(SENSOR_QUEUE)
    steady_target_ms = float(queue.batch.age_ms + ALLOWANCE_MS)
    rate = 1000 // _STEADY_MS
    plans = (
        _Plan(
            f"one message every {_SPARSE_MS / 1000:g} s, store told to show at once",
            _SPARSE_MS,
            p50_target_ms=SPARSE_TARGET_MS,
        ),
        _Plan(
            f"{rate} messages/s, store told to show at once",
            _STEADY_MS,
            p99_target_ms=steady_target_ms,
        ),
        _Plan(f"{rate} messages/s, store left alone", _STEADY_MS, flush=False),
    )
    return [_measure(services, plan, say) for plan in plans]


def _measure(services: Services, plan: _Plan, say: Say) -> Latency:
    say(f"latency: {plan.what}, for {SECONDS} s")
    with services.space() as space:
        process = MESHTASKS.process(space)
        process.start()
        try:
            # A worker's first batch is slow: it imports and connects.
            _Probe(space, _Plan("", _STEADY_MS), _WARM_UP_SECONDS).run()
            before = usage(process.pid).cpu_seconds
            probe = _Probe(space, plan, SECONDS)
            probe.run()
            used = usage(process.pid).cpu_seconds - before
        finally:
            process.stop(within_seconds=30.0)
        missing = probe.messages - len(probe.latencies_ms)
        faults = (f"{missing:,} messages never became queryable",) if missing else ()
    found = sorted(probe.latencies_ms) or [float("nan")]
    percentiles = (
        quantiles(found, n=100, method="inclusive") if len(found) > 1 else found * 99
    )
    return Latency(
        plan.what,
        probe.messages,
        percentiles[49],
        percentiles[98],
        found[-1],
        used / probe.messages * 1e6,
        plan.p50_target_ms,
        plan.p99_target_ms,
        faults,
    )


class _Probe:
    """Publishes readings in one thread and looks for their points in another.

    The millisecond of a point tells which message it was.

    Args:
        space: where to.
        plan: how often, and whether the store is told to show what it has before
            every look.
        seconds: for how long.

    Attributes:
        messages: messages published.
        latencies_ms: of the messages whose points were found.
    """

    def __init__(self, space: Space, plan: _Plan, seconds: int) -> None:
        self._step_ms = plan.every_ms
        self.messages = seconds * 1000 // plan.every_ms
        self.latencies_ms: list[float] = []
        self._space = space
        self._flush = plan.flush
        # a sparse stream is looked at often: each look is a part of its latency
        self._look_every_seconds = 0.01 if plan.every_ms < 100 else 0.002
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
            time.sleep(self._look_every_seconds)
        publisher.join()

    def _publish(self) -> None:
        publisher = Publisher(self._space.amqp_url)
        started_at = time.monotonic()
        done = 0
        while done < self.messages:
            elapsed_seconds = time.monotonic() - started_at
            due = min(self.messages, int(elapsed_seconds * 1000) // self._step_ms + 1)
            if due > done:
                stamps = (self._start_ms + n * self._step_ms for n in range(done, due))
                messages = single(
                    reading(stamp // self._step_ms % SENSORS, stamp, 0.0)
                    for stamp in stamps
                )
                outgoing = list(messages)
                self._published_at[done:due] = [time.monotonic()] * (due - done)
                publisher.publish(outgoing)
                done = due
            time.sleep(0.01)
        publisher.close()

    def _look(self) -> None:
        if self._flush:
            self._space.flush()
        for time_ms in self._points_ms():
            index, rest = divmod(time_ms - self._start_ms, self._step_ms)
            if not rest and index in self._missing:
                latency = time.monotonic() - self._published_at[index]
                self._missing.remove(index)
                self.latencies_ms.append(latency * 1000)

    def _points_ms(self) -> Iterator[int]:
        """Timestamps from that of the earliest message not yet found."""
        earliest_ms = self._start_ms + min(self._missing) * self._step_ms
        latest_ms = self._start_ms + self.messages * self._step_ms
        query = {
            "match[]": "temperature_celsius",
            "start": f"{earliest_ms / 1000:.3f}",
            "end": f"{latest_ms / 1000:.3f}",
        }
        path = f"/api/v1/export?{urlencode(query)}"
        for line in loopback.request("GET", self._space.store.port, path).splitlines():
            yield from json.loads(line)["timestamps"]
