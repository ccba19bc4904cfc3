"""When a collector collects, and what time that took; three clocks, on purpose.

- Ticks are due by the monotonic clock, which stands still while the machine sleeps:
  a laptop that was shut for a night wakes with no ticks to catch up on.
- The time between two readings of a counter is that of the boot-time clock, which
  goes on: a rate across the night is found out to be one.
- A record's timestamp is wall-clock time, which may be set, and measures nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

#: Linux's own name for it. Where it is not known (macOS), ``CLOCK_MONOTONIC``
#: goes on during sleep.
_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Seconds since some moment in the past, sleep included; never set back."""
    return time.clock_gettime(_BOOT_TIME)


def ticks(
    interval_seconds: float,
    stop: threading.Event,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Yield at once and then every ``interval_seconds``, until told to stop.

    Ticks that came due while the last one was worked on, or while the process stood
    still, are left out; the next is due when it would have been anyway.
    """
    due = now()
    while not stop.wait(max(0.0, due - now())):
        yield
        missed = max(0.0, now() - due) // interval_seconds
        due += (1 + missed) * interval_seconds
