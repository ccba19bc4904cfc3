"""A circuit per service: open while the service is unavailable, so that it is not
called and its work waits.

The states and what moves them::

    closed    --a try fails-------------------------> open
    open      --the wait is over--------------------> half-open
    half-open --a try succeeds----------------------> closed
    half-open --a try fails-------------------------> open

A try is a piece of the service's own work, never something lighter: a sign of life (an
empty write, a HEAD request) often succeeds while the work fails.

Pure: the caller makes the tries and passes the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from meshtasks.timing import LONGEST_ASKED_SECONDS

#: A circuit that has been closed for so long counts as one that never opened; longer
#: where work comes seldom.
STEADY_SECONDS = 20.0
#: After so many successes without a failure, work that fails may itself be the cause.
ENOUGH_SUCCESSES = 5

_SHORTEST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
#: The wait grows with the time the service has been unavailable: after a minute it is
#: tried every two seconds, after an hour every 30.
_SHARE_OF_ABSENCE = 1 / 30
#: How often in a row the time that failed tries took makes the wait longer.
_MOST_REPEATS = 3


class State(IntEnum):
    """Whether work may go to the service; the greater, the less."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class FailedTry(NamedTuple):
    """What a failed try means for the work that was tried.

    Attributes:
        counts: it is held against the work. Not so while the circuit is not closed,
            nor until the service has done other work for a while: a service that takes
            every third request must not use up the attempts of the work.
        wait_seconds: how long the work should wait at least. Work that failed
            shortly after the circuit had closed waits until that other work has
            shown whose fault it is, counted from when the circuit, which opens again,
            may close. Back sooner, it would open it before anything can count, for
            ever.
    """

    counts: bool
    wait_seconds: float = 0.0


class Circuit:
    """The circuit of one service. All times are seconds that only go forward.

    Args:
        uniform: draws a number between two.
        steady_seconds: so long it must have been closed to count as one that never
            opened.

    Attributes:
        reason: of the last failure; empty while closed.
        trips: how often it has opened from closed, in all.
        failed_tries: in a row since it opened, not counting the one that opened it.
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
        self._opened_at = float("-inf")  # when it last opened, again or anew
        self._unavailable_since = 0.0
        self._good_since: float | None = None
        self._successes = 0  # since the last failure
        self._trips_in_a_row = 0

    def state(self, now: float) -> State:
        """Whether work may go to the service."""
        if self._retry_at is None:
            return State.CLOSED
        # a clock that was put back must not keep it open for as long
        waits = self._opened_at <= now < self._retry_at
        return State.OPEN if waits else State.HALF_OPEN

    def wait_seconds(self, now: float) -> float:
        """Until it is half-open; 0 if it is, or closed."""
        return 0.0 if self._retry_at is None else max(0.0, self._retry_at - now)

    def unavailable_seconds(self, now: float) -> float:
        """How long the service has been unavailable; only while not closed."""
        return now - self._unavailable_since

    def verdict(self, began_at: float, now: float) -> FailedTry:
        """What a failed try means for the work; to be called before :meth:`failed`."""
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
        """A try failed; true when that opened the circuit.

        Args:
            began_at: when the try began. One that began before the circuit opened
                changes nothing.
            asked_seconds: the wait that the service asked for, if it did.
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
        """The service did its work; true when that closed the circuit."""
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
        """Longer the longer the service is unavailable, and doubled if the circuit
        had closed for a moment only; at least as long as the try took, then twice
        and three times that; and never less than the service asked for.

        A fifth of it is random, so that not all clients try at once.
        """
        tries = min(self.failed_tries + 1, _MOST_REPEATS)
        longest = self._longest_wait(now, self._trips_in_a_row, lasted_seconds * tries)
        ours = longest * self._uniform(0.8, 1.0)
        return max(ours, min(asked_seconds or 0.0, LONGEST_ASKED_SECONDS))

    def _longest_wait(self, now: float, trips: int, kept_seconds: float) -> float:
        doubled = _SHORTEST_WAIT_SECONDS * 2.0 ** min(trips - 1, 10)
        grown = max(doubled, (now - self._unavailable_since) * _SHARE_OF_ABSENCE)
        return max(min(grown, _LONGEST_WAIT_SECONDS), kept_seconds)
