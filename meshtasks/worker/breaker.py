"""Circuits of all sinks of one worker, and the batches that test and close them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from celery.utils.log import get_logger

from meshtasks.flows import circuit as circuits
from meshtasks.flows.circuit import Circuit, FailedTry, State
from meshtasks.outcome import Retry
from meshtasks.worker.results import BatchResult

logger = get_logger(__name__)

#: Added to waits, because the event loop may wake slightly too early by our clock.
_MARGIN_SECONDS = 0.01
#: Interval at which an open circuit is logged again.
_REMIND_SECONDS = 60.0


class _Circuits(dict[str, Circuit]):
    """Circuits by sink; each is created when it is first used."""

    def __init__(self, steady_seconds: Mapping[str, float]) -> None:
        super().__init__()
        self._steady_seconds = steady_seconds

    def __missing__(self, sink: str) -> Circuit:
        seconds = max(circuits.STEADY_SECONDS, self._steady_seconds.get(sink, 0.0))
        circuit = self[sink] = Circuit(steady_seconds=seconds)
        return circuit


class Breaker:
    """Opens circuits when batches find their sinks unavailable; when the wait of a
    circuit is over, one batch at a time tests the sink. It runs in the event loop;
    methods that only read may be called from any thread.

    Args:
        on_change: called when queues may have to be paused, tested or resumed.
        later: calls a function in the event loop after a number of seconds.
        clock: returns monotonic seconds, as used for the starts of batches.
        waits_in: by sink, the queue in which messages for the sink may wait while it is
            unavailable. A handler that names both the sink and the queue needs only one
            of them. The queue has a circuit like a sink.
        is_consumed: whether this worker consumes a queue. The messages waiting in it
            then test the sink, so that no other batch has to.
        steady_seconds: by sink, how long the circuits of rarely used sinks must be
            closed to count as steady.
        on_circuit: called with the sink, and the reason if its circuit has opened or
            the empty text if it has closed.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
        waits_in: Mapping[str, str] | None = None,
        is_consumed: Callable[[str], bool] = lambda _queue: True,
        steady_seconds: Mapping[str, float] | None = None,
        on_circuit: Callable[[str, str], None] = lambda _sink, _reason: None,
    ) -> None:
        self._on_circuit = on_circuit
        self._on_change = on_change
        self._later = later
        self._waits_in = waits_in or {}
        self._is_consumed = is_consumed
        self._clock = clock
        self._circuits = _Circuits(steady_seconds or {})
        self._trials: dict[str, float] = {}  # sink → start of the batch that tests it
        self._noted: set[str] = set()  # sinks that report their calls
        self._reminded_at: dict[str, float] = {}

    # --- decisions ----------------------------------------------------------

    def state(self, sinks: Iterable[str]) -> State:
        """Return whether a queue that needs all these sinks may be consumed."""
        now = self._clock()
        return max(
            (self._circuits[sink].state(now) for sink in self._needed(sinks)),
            default=State.CLOSED,
        )

    def away(self, sinks: Iterable[str]) -> tuple[str, ...]:
        """Return those of the sinks that a batch must not call, because messages for
        them wait in their queues."""
        named = set(sinks)
        return tuple(
            sink
            for sink, queue in self._waits_in.items()
            if {sink, queue} <= named and self._is_away(sink)
        )

    def _needed(self, sinks: Iterable[str]) -> set[str]:
        """Return which of these sinks and queues a batch will use."""
        named = set(sinks)
        for sink, queue in self._waits_in.items():
            if {sink, queue} <= named:
                named.remove(sink if self._is_away(sink) else queue)
        return named

    def _is_away(self, sink: str) -> bool:
        state = self._circuits[sink].state(self._clock())
        return state is State.OPEN or (
            state is State.HALF_OPEN and self._is_consumed(self._waits_in[sink])
        )

    def admits(self, sinks: Iterable[str]) -> bool:
        """Whether a batch that needs these sinks may start: always while their circuits
        are closed, one at a time while one of them is half-open."""
        state = self.state(sinks)
        return state is State.CLOSED or (
            state is State.HALF_OPEN
            and self._trials.keys().isdisjoint(self._needed(sinks))
        )

    def shrinkage(self, sinks: Iterable[str]) -> int:
        """Return the factor by which a batch that tests these sinks is smaller than
        usual: ten for each consecutive failed test. So a message that brings down a
        sink is at last tested without other messages.
        """
        now = self._clock()
        trying = (self._circuits[sink] for sink in self._needed(sinks))
        tries = (each.failed_tries for each in trying if each.state(now))
        return int(10 ** min(max(tries, default=0), 9))

    # --- events -------------------------------------------------------------

    def began(self, sinks: Iterable[str], at: float) -> None:
        """Note that a batch that needs these sinks has started."""
        now = self._clock()
        for sink in self._needed(sinks):
            if self._circuits[sink].state(now) is State.HALF_OPEN:
                self._trials[sink] = at

    def verdicts(
        self, sinks: Iterable[str], result: BatchResult, began_at: float
    ) -> dict[str, FailedTry]:
        """Return by sink what its unavailability means for the messages of a batch.
        Call this before :meth:`ended`."""
        now = self._clock()
        unavailable_sinks = _unavailable(result)
        return {
            sink: self._circuits[sink].verdict(began_at, now)
            for sink in sinks
            if sink in unavailable_sinks
        }

    def ended(
        self, sinks: Iterable[str], result: BatchResult | None, began_at: float
    ) -> None:
        """Note that a batch that needs these sinks has ended.

        Args:
            result: its result; None if the batch was lost.
            began_at: start of the batch, in seconds of the clock.
        """
        for sink in sinks:
            if self._trials.get(sink, began_at + 1) <= began_at:
                del self._trials[sink]
        if result is not None:
            unavailable_sinks = _unavailable(result)
            self._noted.update(call.sink for call in result.sink_calls)
            for sink in sinks:
                if sink in unavailable_sinks:
                    self._failed(sink, unavailable_sinks[sink], result, began_at)
                elif self._answered(sink, result):
                    self._succeeded(sink, began_at)

    def restart(self) -> None:
        """Start with a new event loop: forget the running batches, and set the timers
        of open circuits again."""
        self._trials.clear()
        now = self._clock()
        for circuit in self._circuits.values():
            if circuit.state(now) is not State.CLOSED:
                self._wake_after(circuit.wait_seconds(now))

    # --- state --------------------------------------------------------------

    def states(self) -> Mapping[str, State]:
        """Return the state of every circuit by sink."""
        now = self._clock()
        return {
            sink: circuit.state(now) for sink, circuit in self._circuits.copy().items()
        }

    def trips(self) -> Mapping[str, int]:
        """Return how often each circuit has opened."""
        return {sink: each.trips for sink, each in self._circuits.copy().items()}

    def reasons(self) -> dict[str, str]:
        """Return the last failure of each circuit that is not closed."""
        circuits = self._circuits.copy()
        return {
            sink: circuits[sink].reason
            for sink, state in self.states().items()
            if state is not State.CLOSED
        }

    # ------------------------------------------------------------------------

    def _answered(self, sink: str, result: BatchResult) -> bool:
        """Whether the sink did its work for this batch; the batch may not have needed
        it. If the sink does not report its calls, this is assumed if nothing failed."""
        if sink in self._noted:
            return any(call.answered for call in result.sink_calls if call.sink == sink)
        return not result.failures

    def _failed(
        self, sink: str, unavailable: Retry, result: BatchResult, began_at: float
    ) -> None:
        circuit, now = self._circuits[sink], self._clock()
        calls = (call.seconds for call in result.sink_calls if call.sink == sink)
        opened = circuit.failed(
            unavailable.reason,
            began_at,
            now,
            asked_seconds=unavailable.retry_after_seconds,
            lasted_seconds=max(calls, default=0.0),
        )
        if opened:
            self._reminded_at[sink] = now
            self._on_circuit(sink, unavailable.reason)
            queue = self._waits_in.get(sink)
            logger.error(
                "The circuit of sink %s is open, its queues are paused%s: %s",
                sink,
                f", and points wait in {queue}" if queue else "",
                unavailable.reason,
            )
        elif now - self._reminded_at[sink] >= _REMIND_SECONDS:
            self._reminded_at[sink] = now
            away = circuit.unavailable_seconds(now)
            text = "The circuit of sink %s has been open for %.0f s: %s"
            logger.error(text, sink, away, unavailable.reason)
        self._wake_after(circuit.wait_seconds(now))
        self._on_change()

    def _succeeded(self, sink: str, began_at: float) -> None:
        circuit, now = self._circuits[sink], self._clock()
        away = circuit.unavailable_seconds(now)
        if circuit.succeeded(began_at, now):
            logger.warning("The circuit of sink %s is closed after %.0f s", sink, away)
            queue = self._waits_in.get(sink, "")
            if queue in self._circuits:  # no longer needed
                self._circuits[queue].succeeded(now, now)
                self._on_circuit(queue, "")
            self._on_circuit(sink, "")
            self._on_change()

    def _wake_after(self, seconds: float) -> None:
        self._later(seconds + _MARGIN_SECONDS, self._on_change)


def _unavailable(result: BatchResult) -> dict[str, Retry]:
    """Return the sinks that a batch found unavailable, each with the first failure of a
    message, or the failure for which its handler deferred points."""
    unavailable_sinks: dict[str, Retry] = {}
    for failure in result.failures:
        outcome = failure.outcome
        if isinstance(outcome, Retry) and outcome.sink is not None:
            unavailable_sinks.setdefault(outcome.sink, outcome)
    for found in result.deferred:
        unavailable_sinks.setdefault(found.sink or "", found)
    return unavailable_sinks
