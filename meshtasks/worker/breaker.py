"""The circuits of all sinks, and the probes that close them again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import closing

from celery.utils.log import get_logger

from meshtasks.domain.errors import Transient
from meshtasks.domain.outcome import Retry
from meshtasks.settings import Settings
from meshtasks.sinks import Sinks
from meshtasks.worker.bind import BatchResult
from meshtasks.worker.circuit import Circuit

logger = get_logger(__name__)


class Breaker:
    """Opens and closes circuits.

    Args:
        settings: probes open the sink from these, and close it again.
        on_open: called in the event loop with the sink that went down.
        on_close: called in the event loop when one came back.
        soon: schedules a callback in the event loop, from any thread.
    """

    def __init__(
        self,
        settings: Settings,
        on_open: Callable[[str], None],
        on_close: Callable[[], None],
        soon: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._on_open = on_open
        self._on_close = on_close
        self._soon = soon
        self._circuits: dict[str, Circuit] = {}
        self._stopping = threading.Event()

    def allows(self, sinks: Iterable[str]) -> bool:
        """Whether all these sinks may be written to."""
        return self.open_circuits().isdisjoint(sinks)

    def open_circuits(self) -> frozenset[str]:
        """The sinks that are down; may be asked by any thread."""
        return frozenset(
            sink for sink, circuit in self._circuits.copy().items() if circuit.is_open
        )

    def reasons(self) -> dict[str, str]:
        """What the sinks that are down said last."""
        circuits = self._circuits.copy().items()
        return {sink: circuit.reason for sink, circuit in circuits if circuit.is_open}

    def note(self, result: BatchResult) -> None:
        """Open the circuits of the sinks that a batch found unavailable."""
        for failure in result.failures:
            outcome = failure.outcome
            if isinstance(outcome, Retry) and outcome.sink is not None:
                self._trip(outcome.sink, outcome)

    def stop(self) -> None:
        """Stop probing."""
        self._stopping.set()

    def _trip(self, sink: str, outcome: Retry) -> None:
        circuit = self._circuits.setdefault(sink, Circuit(sink))
        if not circuit.trip(outcome.reason):
            return
        logger.error("Sink %s is down, its queues rest: %s", sink, outcome.reason)
        self._on_open(sink)
        threading.Thread(
            target=self._probe_until_up,
            args=(circuit, outcome.retry_after_seconds),
            name=f"mesh-probe-{sink}",
            daemon=True,
        ).start()

    def _probe_until_up(self, circuit: Circuit, asked_seconds: float | None) -> None:
        wait = circuit.next_probe_seconds(asked_seconds)
        while not self._stopping.wait(wait):
            try:
                with closing(Sinks(self._settings).named(circuit.sink)) as sink:
                    sink.probe()
            except Transient as error:
                circuit.probe_failed(str(error))
                wait = circuit.next_probe_seconds(error.retry_after_seconds)
            except Exception as error:
                # leave the sink's queues resting for good
                logger.exception("Probing %s failed", circuit.sink)
                circuit.probe_failed(str(error))
                wait = circuit.next_probe_seconds()
            else:
                self._soon(self._close, circuit)
                return

    def _close(self, circuit: Circuit) -> None:
        circuit.close()
        logger.warning("Sink %s is back", circuit.sink)
        self._on_close()
