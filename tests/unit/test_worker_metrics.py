"""What a worker tells Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from meshtasks.config.environment import Environment
from meshtasks.flows.circuit import State
from meshtasks.flows.contract import Handler
from meshtasks.flows.sinks import TIMESERIES
from meshtasks.timing import SinkCall
from meshtasks.worker.metrics import WorkerMetrics
from meshtasks.worker.resolution import Resolution
from meshtasks.worker.results import BatchResult

QUEUE = "sensors.temperature"
NOW = 1_800_000_000.0


HANDLER = Handler(QUEUE, lambda *_: [], Any, (TIMESERIES,), False)


@dataclass
class QueueConsumer:
    """As much of a consumer as is looked at."""

    queue: str = QUEUE
    source: str = QUEUE
    received: int = 0
    unresolved: int = 0
    is_consuming: bool = True
    is_trying: bool = False
    sinks: tuple[str, ...] = HANDLER.sink_names


class Circuits(dict[str, State]):
    """As much of a breaker as is looked at; the states of the sinks."""

    def states(self) -> Mapping[str, State]:
        return self

    def trips(self) -> Mapping[str, int]:
        return dict.fromkeys(self, 3)


class Page:
    """The metrics of a worker that consumes one queue."""

    def __init__(self) -> None:
        self.circuits = Circuits()
        self.consumer = QueueConsumer()
        self.metrics = WorkerMetrics("climate@attic", self.circuits, Environment())
        self.metrics.follow(self.consumer)

    def value(self, name: str, **labels: str) -> float | None:
        labels = labels or {"queue": QUEUE}
        return self.metrics.registry.get_sample_value(f"meshtasks_{name}", labels)


@pytest.fixture
def page() -> Page:
    return Page()


def test_counters_are_there_before_the_first_message(page: Page) -> None:
    names = ("received", "done", "rejected")

    assert [page.value(f"messages_{name}_total") for name in names] == [0, 0, 0]
    assert page.value("batches_lost_total") == 0
    assert page.value("handler_seconds_count") == 0


def test_a_batch_counts_its_messages_records_and_time(page: Page) -> None:
    result = BatchResult(messages=3, records=40, seconds=0.2)
    page.metrics.finished(QUEUE, result, Resolution(done=[1, 2, 3]), NOW)

    assert page.value("messages_done_total") == 3
    assert page.value("records_total") == 40
    assert page.value("batch_messages_sum") == 3
    assert page.value("handler_seconds_sum") == 0.2
    assert page.value("last_success_timestamp_seconds") == NOW


def test_a_batch_with_nothing_done_is_no_success(page: Page) -> None:
    page.metrics.finished(QUEUE, BatchResult(1, 1), Resolution(moved=[1]), NOW)

    assert page.value("last_success_timestamp_seconds") is None
    assert page.value("batch_messages_count") == 1


def test_retries_and_dead_letters_are_told_apart_by_fault(page: Page) -> None:
    resolution = Resolution(
        retried=Counter(SinkUnavailable=2), dead=Counter(UnknownUnit=1)
    )
    page.metrics.moved(QUEUE, resolution)

    dead = page.value("messages_dead_total", queue=QUEUE, error_type="UnknownUnit")
    retried = page.value(
        "messages_retried_total", queue=QUEUE, error_type="SinkUnavailable"
    )
    assert (dead, retried) == (1, 2)


def test_lost_batches_and_rejected_messages_count(page: Page) -> None:
    page.metrics.lost(QUEUE)
    page.metrics.rejected(QUEUE, 4)

    assert page.value("batches_lost_total") == 1
    assert page.value("messages_rejected_total") == 4


def test_calls_of_sinks_are_told_apart_by_how_they_ended(page: Page) -> None:
    calls = (SinkCall("timeseries", 0.5, False), SinkCall("timeseries", 10.0, True))
    result = BatchResult(1, 1, sink_calls=calls)
    page.metrics.finished(QUEUE, result, Resolution(done=[1]), NOW)

    ok = page.value("sink_call_seconds_sum", sink="timeseries", result="ok")
    failed = page.value("sink_call_seconds_sum", sink="timeseries", result="failed")
    assert (ok, failed) == (0.5, 10.0)


def test_what_a_queue_holds_is_read_when_asked_for(page: Page) -> None:
    page.consumer.received, page.consumer.unresolved = 70, 7

    assert page.value("messages_received_total") == 70
    assert page.value("messages_unsettled") == 7


def test_a_new_connection_goes_on_counting(page: Page) -> None:
    page.consumer.received = 70
    page.metrics.follow(QueueConsumer(received=5))

    assert page.value("messages_received_total") == 75


def test_an_open_circuit_and_the_queue_that_rests_are_seen(page: Page) -> None:
    assert page.value("circuit_open", sink="timeseries") == 0
    page.circuits["timeseries"] = State.OPEN
    page.consumer.is_consuming = False

    assert page.value("circuit_open", sink="timeseries") == 1
    assert page.value("queue_consuming") == 0


def test_the_page_says_whose_it_is(page: Page) -> None:
    (info,) = [
        sample.labels
        for metric in page.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "meshtasks_worker_info"
    ]
    assert info["worker"] == "climate@attic"


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", []), ("0", [0]), ("9151", [9151]), ("9151-9153", [9151, 9152, 9153])],
)
def test_a_worker_listens_on_a_port_or_the_first_free_of_a_range(
    text: str, ports: list[int]
) -> None:
    assert list(Environment(metrics_port=text).metrics_ports) == ports


@pytest.mark.parametrize("text", ["x", "-1", "70000", "9153-9151", "9151,9152"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="expected a port or a range"):
        Environment(metrics_port=text)
