"""How long to wait before the next attempt to reach a service."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Jittered exponential delays.

    Attributes:
        first_seconds: upper bound of the first delay; it doubles with every
            attempt.
        longest_seconds: upper bound of every delay.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 30.0

    def delay_seconds(self, attempt: int) -> float:
        """The wait after failed attempt number ``attempt``, the first being 0.

        Drawn from the upper half below the bound: clients that failed together
        do not come back together, and none comes back at once.
        """
        # Beyond 2**30 the bound is reached anyway, and a float may overflow.
        bound = min(self.longest_seconds, self.first_seconds * 2 ** min(attempt, 30))
        return random.uniform(bound / 2, bound)
