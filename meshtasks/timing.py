"""How long sinks take to answer, and whether they did; waits between attempts.

A call noted with :func:`timing` is known to whoever listens in this thread with
:func:`listening`. Calls made in a pool process thus travel back with the result of
their batch, and no process needs to be asked for them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from meshtasks.errors import SinkRejected

#: No wait that a service asks for is longer.
LONGEST_ASKED_SECONDS = 300.0


class SinkCall(NamedTuple):
    """One call of a sink.

    Attributes:
        seconds: until it returned or raised.
        failed: it raised.
        answered: the service did its work, be it to refuse the data: its circuit may
            close.
    """

    sink: str
    seconds: float
    failed: bool
    answered: bool = True


@dataclass(slots=True)
class Timing:
    """A call that is being made.

    Attributes:
        concerns_sink: whether the call says anything of the sink's own service.
    """

    concerns_sink: bool = True


_calls: ContextVar[list[SinkCall] | None] = ContextVar("sink_calls", default=None)


@contextmanager
def listening() -> Iterator[list[SinkCall]]:
    """Collect the calls of sinks that this thread makes meanwhile."""
    calls: list[SinkCall] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


@contextmanager
def timing(sink: str) -> Iterator[Timing]:
    """Note what is done within as one call of ``sink``; decorates a method, too."""
    calls = _calls.get()
    call = Timing()
    if calls is None:
        yield call
        return
    failed, answered = True, False
    began = time.perf_counter()
    try:
        yield call
        failed, answered = False, True
    except SinkRejected:
        answered = True
        raise
    finally:
        seconds = time.perf_counter() - began
        answered = answered and call.concerns_sink
        calls.append(SinkCall(sink, seconds, failed, answered))


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
