"""The circuits of a worker: which batches may start, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshtasks.flows.circuit import State
from meshtasks.outcome import Dead, Retry
from meshtasks.timing import SinkCall
from meshtasks.worker.breaker import Breaker
from meshtasks.worker.results import BatchResult, Failure

STORE = ("store",)
BOTH = ("store", "files")


class Bench:
    """A breaker, a clock and an event loop that are moved by hand."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.changes = 0
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.breaker = Breaker(
            self._change, self._call_later, lambda: self.now, **options
        )

    def batch(self, sinks: tuple[str, ...], result: BatchResult | None) -> None:
        """A batch that starts and ends now."""
        self.breaker.began(sinks, self.now)
        self.breaker.ended(sinks, result, self.now)

    def wait(self) -> None:
        """Until the event loop is to be woken."""
        self.now, change = self._later.pop()
        change()

    def _change(self) -> None:
        self.changes += 1

    def _call_later(self, seconds: float, change: Callable[[], None]) -> None:
        self._later.append((self.now + seconds, change))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def trouble(sink: str = "store") -> BatchResult:
    calls = (SinkCall(sink, 0.1, failed=True, answered=False),)
    return BatchResult(1, 1, (Failure(0, Retry("refused", sink=sink)),), 0.1, calls)


def answer(*sinks: str) -> BatchResult:
    calls = tuple(SinkCall(sink, 0.1, failed=False, answered=True) for sink in sinks)
    return BatchResult(1, 1, (), 0.1, calls)


def test_a_sink_in_trouble_opens_its_circuit_and_no_other(bench: Bench) -> None:
    bench.batch(BOTH, trouble("files"))

    assert bench.breaker.state(BOTH) is State.OPEN
    assert bench.breaker.state(STORE) is State.CLOSED
    assert bench.breaker.reasons() == {"files": "refused"}
    assert bench.changes == 1


def test_when_the_wait_is_over_one_batch_may_try(bench: Bench) -> None:
    bench.batch(STORE, trouble())
    assert not bench.breaker.admits(STORE)

    bench.wait()
    assert bench.breaker.admits(STORE)
    bench.breaker.began(STORE, bench.now)

    assert not bench.breaker.admits(STORE)
    assert not bench.breaker.admits(BOTH)
    assert bench.breaker.admits(("files",))


def test_a_try_that_the_sink_answers_closes_the_circuit(bench: Bench) -> None:
    bench.batch(STORE, trouble())
    bench.wait()
    bench.batch(STORE, answer("store"))

    assert bench.breaker.state(STORE) is State.CLOSED
    assert bench.breaker.trips() == {"store": 1}


def test_data_that_the_sink_refuses_is_an_answer(bench: Bench) -> None:
    calls = (SinkCall("store", 0.1, failed=True, answered=True),)
    bench.batch(STORE, trouble())
    bench.wait()
    bench.batch(STORE, BatchResult(1, 1, (Failure(0, Dead("bad")),), 0.1, calls))

    assert bench.breaker.state(STORE) is State.CLOSED


def test_a_batch_that_never_needed_the_sink_proves_nothing(bench: Bench) -> None:
    bench.batch(BOTH, trouble())
    bench.wait()
    bench.batch(BOTH, answer("files"))

    assert bench.breaker.state(BOTH) is State.HALF_OPEN
    assert bench.breaker.admits(BOTH)


def test_a_batch_that_was_lost_proves_nothing(bench: Bench) -> None:
    bench.batch(STORE, trouble())
    bench.wait()
    bench.batch(STORE, None)

    assert bench.breaker.state(STORE) is State.HALF_OPEN
    assert bench.breaker.admits(STORE)


def test_a_sink_that_notes_no_calls_is_believed(bench: Bench) -> None:
    silent = BatchResult(1, 1, (Failure(0, Retry("refused", sink="store")),))
    bench.batch(STORE, silent)
    bench.wait()
    bench.batch(STORE, BatchResult(1, 1))

    assert bench.breaker.state(STORE) is State.CLOSED


def test_a_try_is_ten_times_smaller_for_each_that_failed(bench: Bench) -> None:
    bench.batch(STORE, trouble())
    sizes = []
    for _ in range(3):
        bench.wait()
        sizes.append(bench.breaker.shrinkage(STORE))
        bench.batch(STORE, trouble())

    assert sizes == [1, 10, 100]


def test_batches_that_were_under_way_count_for_nothing(bench: Bench) -> None:
    for number in range(5):
        bench.now = number
        bench.batch(STORE, answer("store"))
    bench.breaker.began(STORE, 5.0)
    bench.breaker.began(STORE, 5.0)
    bench.now = 6.0
    first = bench.breaker.verdicts(STORE, trouble(), 5.0)
    bench.breaker.ended(STORE, trouble(), 5.0)
    second = bench.breaker.verdicts(STORE, trouble(), 5.0)

    assert first["store"].counts
    assert not second["store"].counts


def test_after_a_reconnect_the_loop_is_asked_again_to_wake_it(bench: Bench) -> None:
    bench.batch(STORE, trouble())
    bench.wait()
    bench.breaker.began(STORE, bench.now)

    bench.breaker.restart()

    assert bench.breaker.admits(STORE)
    bench.wait()
    assert bench.changes == 3


def test_what_a_sink_says_that_the_queue_does_not_name_is_an_ordinary_failure(
    bench: Bench,
) -> None:
    assert bench.breaker.verdicts(STORE, trouble("files"), 0.0) == {}
    bench.batch(STORE, trouble("files"))

    assert bench.breaker.reasons() == {}


# --- a sink whose part of a batch may wait

POINTS = ("store", "rules", "pending.store")
PENDING = ("store",)


@pytest.fixture
def waiting() -> Bench:
    return Bench(waits_in={"store": "pending.store"})


def put_aside() -> BatchResult:
    calls = (
        SinkCall("store", 0.1, failed=True, answered=False),
        SinkCall("pending.store", 0.1, failed=False, answered=True),
    )
    deferred = (Retry("refused", sink="store"),)
    return BatchResult(1, 1, (), 0.1, calls, deferred=deferred)


def full() -> BatchResult:
    found = trouble("pending.store")
    return BatchResult(1, 1, found.failures, 0.1, found.sink_calls)


def test_only_the_queue_of_what_waits_is_paused(waiting: Bench) -> None:
    assert waiting.breaker.away(POINTS) == ()
    waiting.batch(POINTS, put_aside())

    assert waiting.breaker.state(PENDING) is State.OPEN
    assert waiting.breaker.state(POINTS) is State.CLOSED
    assert waiting.breaker.admits(POINTS)
    assert waiting.breaker.away(POINTS) == ("store",)
    assert waiting.breaker.away(PENDING) == ()


def test_what_waits_tries_the_store_and_no_other_batch_does(waiting: Bench) -> None:
    waiting.batch(POINTS, put_aside())
    waiting.wait()

    assert waiting.breaker.away(POINTS) == ("store",)
    assert waiting.breaker.state(PENDING) is State.HALF_OPEN
    waiting.breaker.began(PENDING, waiting.now)
    assert waiting.breaker.admits(POINTS)
    waiting.breaker.ended(PENDING, answer("store"), waiting.now)

    assert waiting.breaker.away(POINTS) == ()
    assert waiting.breaker.reasons() == {}


def test_where_the_queue_is_not_consumed_a_batch_tries_the_store() -> None:
    waits_in = {"store": "pending.store"}
    waiting = Bench(waits_in=waits_in, is_consumed=lambda _queue: False)
    waiting.batch(POINTS, put_aside())
    assert waiting.breaker.away(POINTS) == ("store",)
    waiting.wait()

    assert waiting.breaker.away(POINTS) == ()
    assert waiting.breaker.state(POINTS) is State.HALF_OPEN


def test_when_no_more_may_wait_the_queue_itself_is_paused_until_the_store_answers(
    waiting: Bench,
) -> None:
    waiting.batch(POINTS, put_aside())
    waiting.batch(POINTS, full())
    assert waiting.breaker.state(POINTS) is State.OPEN
    assert set(waiting.breaker.reasons()) == {"store", "pending.store"}

    waiting.now += 2
    waiting.batch(PENDING, answer("store"))

    assert waiting.breaker.state(POINTS) is State.CLOSED
    assert waiting.breaker.reasons() == {}
