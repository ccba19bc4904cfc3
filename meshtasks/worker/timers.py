"""Runs the timers of handlers.

They run in a thread of the consuming process, because the pool may be busy for minutes,
and a reminder must not wait for it. They run while the broker is unavailable, too.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing, nullcontext

from celery.utils.log import get_logger

from meshtasks.config.settings import Settings
from meshtasks.flows.circuit import Circuit, State
from meshtasks.flows.contract import Timer
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import Dead, Retry, outcome_of
from meshtasks.timing import SinkCall, listening

logger = get_logger(__name__)

_EVERY_SECONDS = 1.0


class Timers:
    """The timers of the handlers whose queues are consumed.

    Args:
        settings: settings with which sinks are opened. While a sink is unavailable, its
            timer runs less often.
        on_calls: called in the timers' thread with the calls of sinks of a run.
        forks: whether processes are forked from this one. Connections must not be
            inherited, so sinks are closed after every run.
    """

    def __init__(
        self,
        settings: Settings,
        on_calls: Callable[[list[SinkCall]], None],
        *,
        forks: bool,
    ) -> None:
        self._settings = settings
        self._on_calls = on_calls
        self._forks = forks
        self._timers: tuple[Timer, ...] = ()
        self._sinks = Sinks(settings)
        self._circuits: defaultdict[Timer, Circuit] = defaultdict(Circuit)
        self._faults: dict[Timer, str] = {}
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="mesh-timers", daemon=True
        )

    def add(self, timer: Timer | None) -> None:
        """Run this timer from now on, immediately for the first time.

        Raises:
            ConfigError: the settings are not valid for the timer.
        """
        if timer is None or timer in self._timers:
            return
        timer.check(self._settings)
        self._timers = (*self._timers, timer)
        self._woken.set()
        if not self._thread.is_alive():
            self._thread.start()

    def wake(self) -> None:
        """Run the timers now, because a batch of a handler with a timer is done."""
        self._woken.set()

    def stop(self, within_seconds: float) -> None:
        """Stop after the current run, if it ends in time."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(within_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(_EVERY_SECONDS)
            self._woken.clear()
            for timer in self._timers:
                self._run_one(timer)
        self._sinks.close()

    def _run_one(self, timer: Timer) -> None:
        circuit, began = self._circuits[timer], time.monotonic()
        if circuit.state(began) is State.OPEN:
            return
        with listening() as calls:
            fault = self._outcome(timer)
        self._on_calls(calls)
        now = time.monotonic()
        if isinstance(fault, Retry) and fault.sink is not None:
            circuit.failed(fault.reason, began, now, lasted_seconds=now - began)
        else:
            circuit.succeeded(began, now)
        said = "" if fault is None else f"{fault.error_type}: {fault.reason}"
        if said == self._faults.get(timer, ""):
            return
        self._faults[timer] = said
        if fault is None:
            logger.warning("Timers run again")
        else:
            logger.error("A timer failed and is run again: %s", said)
            if fault.traceback:
                logger.error("%s", fault.traceback)

    def _outcome(self, timer: Timer) -> Retry | Dead | None:
        """Run a timer; return its failure, or None."""
        leaving = closing if self._forks else nullcontext
        try:
            with leaving(self._sinks) as sinks:
                timer.run(sinks)
        except BaseException as error:  # noqa: BLE001 - a timer must go on, whatever happens
            return outcome_of(error)
        return None
