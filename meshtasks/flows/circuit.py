"""Circuit breaker of a service: while the service is unavailable, the circuit is open,
the service is not called, and its work waits.

States and transitions::

    closed    --a try fails-------------------------> open
    open      --the wait is over--------------------> half-open
    half-open --a try succeeds----------------------> closed
    half-open --a try fails-------------------------> open

A try is real work of the service, never an artificial probe: an empty write or a HEAD
request often succeeds while real work fails.

The module has no side effects: the caller does the tries and passes the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from meshtasks.timing import LONGEST_ASKED_SECONDS

#: After this time a closed circuit is treated as one that never opened. Callers use a
#: longer time if work is rare.
STEADY_SECONDS = 20.0
#: After this many successes without a failure, work that fails may itself be the cause.
ENOUGH_SUCCESSES = 5

_SHORTEST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
#: Wait as a share of the time that the service has been unavailable: two seconds after
#: a minute, 30 seconds after an hour.
_SHARE_OF_ABSENCE = 1 / 30
#: The wait is at least the duration of a failed try times the number of failed tries in
#: a row; this is the largest factor.
_MOST_REPEATS = 3


class State(IntEnum):
    """Whether work may go to the service; a greater value means less work."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class FailedTry(NamedTuple):
    """Consequences of a failed try for the work that was tried.

    Attributes:
        counts: whether it counts as an attempt of the work. It does not if the circuit
            was not closed, or if the service has not done other work for a while: a
            service that accepts every third request must not use up the attempts.
        wait_seconds: minimum wait of the work. If the try failed shortly after the
            circuit had closed, the work waits until the circuit, which opens again, may
            have closed, and then until other work has shown which of them is at fault.
            Without this wait it could open the circuit again and again before any
            attempt counts.
    """

    counts: bool
    wait_seconds: float = 0.0


class Circuit:
    """The circuit of one service. All times are seconds of one clock of the caller.

    Args:
        uniform: returns a random number between its two arguments.
        steady_seconds: after this time a closed circuit is treated as one that never
            opened.

    Attributes:
        reason: reason of the last failure; empty while closed.
        trips: number of transitions from closed to open.
        failed_tries: failed tries in a row since it opened, without the one that opened
            it.
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float] = random.uniform,
        steady_seconds: float = STEADY_SECONDS,
    ) -> None:
        self.reason = ""
        self.trips = 0
        self.failed_tries = 0
        self._uniform = uniform
        self._steady_seconds = steady_seconds
        self._retry_at: float | None = None  # None while closed
        self._opened_at = float("-inf")  # last failure that opened it or kept it open
        self._unavailable_since = 0.0
        self._good_since: float | None = None
        self._successes = 0  # since the last failure
        self._trips_in_a_row = 0

    def state(self, now: float) -> State:
        """Whether work may go to the service."""
        if self._retry_at is None:
            return State.CLOSED
        # if the clock is set back, the circuit must not stay open for that time
        waits = self._opened_at <= now < self._retry_at
        return State.OPEN if waits else State.HALF_OPEN

    def wait_seconds(self, now: float) -> float:
        """Seconds until it is half-open; 0 if it is half-open or closed."""
        return 0.0 if self._retry_at is None else max(0.0, self._retry_at - now)

    def unavailable_seconds(self, now: float) -> float:
        """How long the service has been unavailable; valid only while not closed."""
        return now - self._unavailable_since

    def verdict(self, began_at: float, now: float) -> FailedTry:
        """The consequences of a failed try for its work. Call it before :meth:`failed`.

        Args:
            began_at: when the try began.
            now: when it failed.
        """
        if self._is_late(began_at) or self.state(now) is not State.CLOSED:
            return FailedTry(counts=False)
        if self._is_steady(now) or self._successes >= ENOUGH_SUCCESSES:
            return FailedTry(counts=True)
        if not self._trips_in_a_row:
            return FailedTry(counts=False)
        open_seconds = self._longest_wait(now, self._trips_in_a_row + 1, now - began_at)
        return FailedTry(counts=False, wait_seconds=open_seconds + STEADY_SECONDS)

    def failed(
        self,
        reason: str,
        began_at: float,
        now: float,
        *,
        asked_seconds: float | None = None,
        lasted_seconds: float = 0.0,
    ) -> bool:
        """Record a failed try. Return whether it opened the circuit.

        Args:
            reason: why it failed.
            began_at: when the try began. If the circuit opened after that, the try
                changes nothing.
            now: when it failed.
            asked_seconds: wait that the service requested; None if it did not.
            lasted_seconds: how long the try took.
        """
        if self._is_late(began_at):
            return False
        opens = self._retry_at is None
        if opens:
            self.trips += 1
            self.failed_tries = 0
            if self._is_steady(now) or not self._trips_in_a_row:
                self._trips_in_a_row = 0
                self._unavailable_since = now
            self._trips_in_a_row += 1
        else:
            self.failed_tries += 1
        self.reason = reason
        self._good_since = None
        self._successes = 0
        self._opened_at = now
        self._retry_at = now + self._wait(now, asked_seconds, lasted_seconds)
        return opens

    def succeeded(self, began_at: float, now: float) -> bool:
        """Record a successful try. Return whether it closed the circuit.

        Args:
            began_at: when the try began. If the circuit opened after that, the try
                changes nothing.
            now: when it succeeded.
        """
        if self._is_late(began_at):
            return False
        closes = self._retry_at is not None
        self._retry_at = None
        self.reason = ""
        self._successes += 1
        if self._good_since is None:
            self._good_since = now
        return closes

    def _is_late(self, began_at: float) -> bool:
        return began_at < self._opened_at

    def _is_steady(self, now: float) -> bool:
        good_since = self._good_since
        return good_since is not None and now - good_since > self._steady_seconds

    def _wait(
        self, now: float, asked_seconds: float | None, lasted_seconds: float
    ) -> float:
        """The wait until the next try, seconds.

        It grows with the time that the service has been unavailable, and doubles each
        time the circuit was closed only briefly. It is at least one, two or three times
        the duration of the try, and at least the time that the service requested.

        A fifth of it is random, so that clients do not try at the same time.
        """
        tries = min(self.failed_tries + 1, _MOST_REPEATS)
        longest = self._longest_wait(now, self._trips_in_a_row, lasted_seconds * tries)
        ours = longest * self._uniform(0.8, 1.0)
        return max(ours, min(asked_seconds or 0.0, LONGEST_ASKED_SECONDS))

    def _longest_wait(self, now: float, trips: int, kept_seconds: float) -> float:
        doubled = _SHORTEST_WAIT_SECONDS * 2.0 ** min(trips - 1, 10)
        grown = max(doubled, (now - self._unavailable_since) * _SHARE_OF_ABSENCE)
        return max(min(grown, _LONGEST_WAIT_SECONDS), kept_seconds)
