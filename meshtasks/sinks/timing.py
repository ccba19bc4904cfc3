"""How long sinks take to answer.

A sink's method marked with :func:`timed` notes each of its calls for whoever listens
in this thread with :func:`listening`. Calls made in a pool process thus travel back
with the result of their batch, and no process needs to be asked for them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class SinkCall(NamedTuple):
    """One call of a sink.

    Attributes:
        sink: its name.
        seconds: until it returned or raised.
        failed: it raised.
    """

    sink: str
    seconds: float
    failed: bool


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


def timed(sink: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Note every call of the decorated method as one of ``sink``."""

    def decorate(method: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(method)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            calls = _calls.get()
            if calls is None:
                return method(*args, **kwargs)
            failed = True
            began = time.perf_counter()
            try:
                result = method(*args, **kwargs)
                failed = False
            finally:
                calls.append(SinkCall(sink, time.perf_counter() - began, failed))
            return result

        return call

    return decorate
