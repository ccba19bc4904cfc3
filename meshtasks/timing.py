"""Durations and results of calls to sinks; waits between attempts.

:func:`timing` records a call for the enclosing :func:`listening` of the same thread.
So the calls that a pool process makes return with the result of their batch.
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

#: Longest wait, in seconds, that is granted to a service that requests one.
LONGEST_ASKED_SECONDS = 300.0


class SinkCall(NamedTuple):
    """One call of a sink.

    Attributes:
        sink: name of the sink.
        seconds: duration until the call returned or raised.
        failed: whether the call raised an error.
        answered: whether the service did its work, even if it rejected the data; its
            circuit may close.
    """

    sink: str
    seconds: float
    failed: bool
    answered: bool = True


@dataclass(slots=True)
class Timing:
    """A call in progress.

    Attributes:
        concerns_sink: whether the result says anything about the service of the sink;
            if false, it does not count as answered.
    """

    concerns_sink: bool = True


_calls: ContextVar[list[SinkCall] | None] = ContextVar("sink_calls", default=None)


@contextmanager
def listening() -> Iterator[list[SinkCall]]:
    """Collect the calls to sinks that this thread makes within the block.

    Yields:
        The list of calls; it grows while the block runs.
    """
    calls: list[SinkCall] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


@contextmanager
def timing(sink: str) -> Iterator[Timing]:
    """Record the block, or the decorated function, as one call of ``sink``."""
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
    """Exponential delays with jitter.

    Attributes:
        first_seconds: upper bound of the first delay; it doubles with each attempt.
        longest_seconds: upper bound of every delay.
    """

    first_seconds: float = 0.2
    longest_seconds: float = 30.0

    def delay_seconds(self, attempt: int) -> float:
        """The delay after failed attempt number ``attempt``, counted from 0.

        It is random between half the bound and the bound: clients that failed at the
        same time retry at different times, and none retries immediately.
        """
        # The exponent is limited because a float may overflow; at 2**30 the bound is
        # reached anyway.
        bound = min(self.longest_seconds, self.first_seconds * 2 ** min(attempt, 30))
        return random.uniform(bound / 2, bound)
