"""The worker's metrics for Prometheus; docs/monitoring.md explains each of them.

Everything is counted once per batch, in the consuming process, where outcomes are
resolved. Values that change with every message are read when they are requested. So
there is one page per worker whatever the number of pool processes, and no cost per
message.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Protocol

from celery.utils.log import get_logger
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.flows.circuit import State
from meshtasks.timing import SinkCall
from meshtasks.worker.completion import Counts
from meshtasks.worker.resolution import Resolution
from meshtasks.worker.results import BatchResult

logger = get_logger(__name__)

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

# No second series per counter and histogram with the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Followed(Protocol):
    """The attributes of a queue consumer that are shown as metrics."""

    queue: str
    source: str
    sinks: tuple[str, ...]
    received: int
    unresolved: int

    @property
    def is_consuming(self) -> bool:
        """Whether the broker sends messages."""

    @property
    def is_trying(self) -> bool:
        """Whether it consumes only as many messages as the test of a sink needs."""


class Circuits(Protocol):
    """The methods of :class:`~meshtasks.worker.breaker.Breaker` that are used here."""

    def states(self) -> Mapping[str, State]:
        """Return the state of every circuit by sink."""

    def trips(self) -> Mapping[str, int]:
        """Return how often each circuit has opened."""


class WorkerMetrics(Counts):
    """The metrics of one worker, and the page that shows them.

    Args:
        worker: name of the worker.
        circuits: circuits of the sinks; called in the thread that serves the page.
        env: environment with host and ports of the page.

    Attributes:
        registry: the registry that is served.
    """

    def __init__(self, worker: str, circuits: Circuits, env: Environment) -> None:
        registry = self.registry = CollectorRegistry()
        self._page = Exposition(registry, env)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        ProcessCollector(registry=registry)
        self._state = _State(circuits)
        registry.register(self._state)
        gauge(
            "meshtasks_worker_info",
            "The worker behind this page; always 1.",
            ("worker", "version"),
        ).labels(worker, version("meshtasks")).set(1)
        self._connected = gauge(
            "meshtasks_worker_connected",
            "1 while the worker has reached the broker and consumes, else 0.",
        )
        self._done = counter(
            "meshtasks_messages_done_total",
            "Messages acknowledged because all they ask for is durable.",
            ("queue",),
        )
        self._dead = counter(
            "meshtasks_messages_dead_total",
            "Dead letters confirmed by the broker, by class of the fault.",
            ("queue", "error_type"),
        )
        self._retried = counter(
            "meshtasks_messages_retried_total",
            "Messages moved to a retry queue, confirmed, by class of the fault.",
            ("queue", "error_type"),
        )
        self._refused = counter(
            "meshtasks_messages_rejected_total",
            "Messages left to the broker's own dead-lettering.",
            ("queue",),
        )
        self._records = counter(
            "meshtasks_records_total",
            "Valid records given to the queue's handler.",
            ("queue",),
        )
        self._empty = counter(
            "meshtasks_messages_empty_total",
            "MQTT messages without a body, which withdraw a retained one; passed over.",
            ("queue",),
        )
        self._lost = counter(
            "meshtasks_batches_lost_total",
            "Batches whose pool process died or ran out of time.",
            ("queue",),
        )
        self._batch_messages = histogram(
            "meshtasks_batch_messages",
            "Messages per batch.",
            ("queue",),
            buckets=_SIZES,
        )
        self._handler_seconds = histogram(
            "meshtasks_handler_seconds",
            "Seconds a batch took in the pool: decoding, handler, its sinks.",
            ("queue",),
            buckets=_SECONDS,
        )
        self._sink_seconds = histogram(
            "meshtasks_sink_call_seconds",
            "Seconds until a sink answered or failed.",
            ("sink", "result"),
            buckets=_SECONDS,
        )
        self._last_success = gauge(
            "meshtasks_last_success_timestamp_seconds",
            "When a batch was last resolved with a message done; Unix time.",
            ("queue",),
        )

    @override
    def connected(self, *, is_connected: bool) -> None:
        self._connected.set(is_connected)

    @override
    def start(self) -> None:
        self._page.start()

    @override
    def stop(self) -> None:
        self._page.stop()

    @override
    def follow(self, consumer: Followed) -> None:
        """Show a queue's metrics from now on. Counters start at zero, because a counter
        that appears with its first count has no rate."""
        self._state.follow(consumer)
        for metric in (
            *(self._done, self._refused, self._records, self._lost),
            *(self._batch_messages, self._handler_seconds),
        ):
            metric.labels(consumer.queue)

    @override
    def finished(
        self, queue: str, result: BatchResult, resolution: Resolution, now: float
    ) -> None:
        self._batch_messages.labels(queue).observe(result.messages)
        self._handler_seconds.labels(queue).observe(result.seconds)
        self._records.labels(queue).inc(result.records)
        self._empty.labels(queue).inc(result.empty)
        if resolution.done:
            self._done.labels(queue).inc(len(resolution.done))
            self._last_success.labels(queue).set(now)
        self.called(result.sink_calls)

    @override
    def called(self, calls: Iterable[SinkCall]) -> None:
        for call in calls:
            result = "failed" if call.failed else "ok"
            self._sink_seconds.labels(call.sink, result).observe(call.seconds)

    @override
    def lost(self, queue: str) -> None:
        self._lost.labels(queue).inc()

    @override
    def moved(self, queue: str, resolution: Resolution) -> None:
        for error_type, count in resolution.retried.items():
            self._retried.labels(queue, error_type).inc(count)
        for error_type, count in resolution.dead.items():
            self._dead.labels(queue, error_type).inc(count)

    @override
    def rejected(self, queue: str, count: int) -> None:
        self._refused.labels(queue).inc(count)


class _State(Collector):
    """Metrics that are read when they are requested."""

    def __init__(self, circuits: Circuits) -> None:
        self._circuits = circuits
        self._consumers: dict[str, Followed] = {}
        self._received_before: dict[str, int] = {}

    def follow(self, consumer: Followed) -> None:
        """Show this consumer instead of the one that it replaces."""
        if (old := self._consumers.get(consumer.source)) is not None:
            before = self._received_before.get(consumer.queue, 0)
            self._received_before[consumer.queue] = before + old.received
        self._consumers[consumer.source] = consumer

    @override
    def collect(self) -> Iterator[Metric]:
        consumers = [*self._consumers.values()]
        yield from self._of_queues(consumers)
        yield from self._of_sinks(consumers)

    def _of_queues(self, consumers: Iterable[Followed]) -> Iterable[Metric]:
        received = CounterMetricFamily(
            "meshtasks_messages_received",
            "Messages delivered by the broker, redeliveries included.",
            labels=("queue",),
        )
        unresolved = GaugeMetricFamily(
            "meshtasks_messages_unsettled",
            "Messages held: neither acknowledged nor moved yet.",
            labels=("queue",),
        )
        consuming = GaugeMetricFamily(
            "meshtasks_queue_consuming",
            "1 while messages are asked for, 0 while the queue is paused.",
            labels=("queue",),
        )
        by_queue: dict[str, list[Followed]] = {}
        for consumer in consumers:
            by_queue.setdefault(consumer.queue, []).append(consumer)
        for queue, each in by_queue.items():
            before = self._received_before.get(queue, 0)
            received.add_metric((queue,), before + sum(one.received for one in each))
            unresolved.add_metric((queue,), sum(one.unresolved for one in each))
            consumes = all(one.is_consuming and not one.is_trying for one in each)
            consuming.add_metric((queue,), int(consumes))
        return received, unresolved, consuming

    def _of_sinks(self, consumers: Iterable[Followed]) -> Iterable[Metric]:
        circuits = GaugeMetricFamily(
            "meshtasks_circuit_open",
            "1 while the circuit is open or half-open, its queues paused, else 0.",
            labels=("sink",),
        )
        half_open = GaugeMetricFamily(
            "meshtasks_circuit_half_open",
            "1 while one batch at a time tries the sink, else 0.",
            labels=("sink",),
        )
        trips = CounterMetricFamily(
            "meshtasks_circuit_trips",
            "How often the circuit of a sink has opened.",
            labels=("sink",),
        )
        states, tripped = self._circuits.states(), self._circuits.trips()
        sinks = {sink for each in consumers for sink in each.sinks}
        for sink in sorted(sinks):
            state = states.get(sink, State.CLOSED)
            circuits.add_metric((sink,), int(state is not State.CLOSED))
            half_open.add_metric((sink,), int(state is State.HALF_OPEN))
            trips.add_metric((sink,), tripped.get(sink, 0))
        return circuits, half_open, trips


_AGAIN_SECONDS = 5.0


class Exposition:
    """An HTTP page with the metrics, on the first free port of several.

    If no port is free, this is repeated every few seconds: a worker that is being
    replaced holds its port until it has finished. A missing page does not stop the
    worker.

    Args:
        env: environment with host and ports; without a port there is no page.
    """

    def __init__(self, registry: CollectorRegistry, env: Environment) -> None:
        self._registry = registry
        self._host = env.metrics_host
        self._ports = env.metrics_ports
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="mesh-metrics", daemon=True
        )

    def start(self) -> None:
        """Start to serve, unless it is served or there are no ports."""
        if self._ports and not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Stop serving, and free the port."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = False
        while (fault := self._serve()) is not None:
            if not said:
                logger.error(
                    "No metrics yet: no port of MESH_METRICS_PORT can be listened "
                    "on at %s: %s",
                    self._host,
                    fault,
                )
                said = True
            if self._stopping.wait(_AGAIN_SECONDS):
                return

    def _serve(self) -> OSError | None:
        """Serve until stopped; return the error if no port can be used."""
        fault: OSError | None = None
        for port in self._ports:
            try:
                server, thread = start_http_server(port, self._host, self._registry)
            except OSError as error:
                fault = error
                continue
            # a pool process that is forked later must not hold the port
            os.register_at_fork(after_in_child=server.socket.close)
            logger.info("Metrics at http://%s:%d/metrics", *server.server_address)
            self._stopping.wait()
            server.shutdown()
            server.server_close()
            thread.join()
            return None
        return fault
