"""What goes wrong in a sensor. Its readings stay well-formed."""

from __future__ import annotations

import random
from collections import Counter
from enum import StrEnum


class Fault(StrEnum):
    """A kind of sensor fault."""

    #: The value freezes for a while.
    STUCK = "stuck"
    #: One reading is far off.
    SPIKE = "spike"
    #: No readings for a while.
    DROPOUT = "dropout"


_DURATION_SECONDS = {
    Fault.STUCK: (20.0, 120.0),
    Fault.SPIKE: (0.0, 0.0),
    Fault.DROPOUT: (5.0, 60.0),
}
_SPIKE_SIZE = (8.0, 20.0)


class FaultySensor:
    """Lets faults happen to the values of one sensor, one at a time.

    Args:
        mean_interval_seconds: mean time from the end of a fault to the next.
        happened: counts the faults by name.
    """

    def __init__(
        self,
        rng: random.Random,
        mean_interval_seconds: float,
        happened: Counter[str],
    ) -> None:
        self._rng = rng
        self._mean_interval_seconds = mean_interval_seconds
        self._happened = happened
        self._next_at: float | None = None
        self._until = 0.0
        self._fault: Fault | None = None
        self._stuck_at = 0.0

    def read(self, seconds: float, value: float) -> float | None:
        """What the sensor says at this moment, the true value given.

        Returns:
            The value it shows; None while it shows nothing.
        """
        if self._next_at is None:
            self._schedule(seconds)
        if self._fault and seconds >= self._until:
            self._fault = None
            self._schedule(seconds)
        if not self._fault and self._next_at is not None and seconds >= self._next_at:
            self._begin(seconds, value)
        match self._fault:
            case Fault.STUCK:
                return self._stuck_at
            case Fault.SPIKE:
                size = self._rng.uniform(*_SPIKE_SIZE)
                return value + self._rng.choice((-size, size))
            case Fault.DROPOUT:
                return None
            case None:
                return value

    def _schedule(self, seconds: float) -> None:
        self._next_at = seconds + self._rng.expovariate(1 / self._mean_interval_seconds)

    def _begin(self, seconds: float, value: float) -> None:
        self._fault = self._rng.choice(tuple(Fault))
        self._until = seconds + self._rng.uniform(*_DURATION_SECONDS[self._fault])
        self._stuck_at = value
        self._happened[self._fault] += 1
