"""Rates from counters: how fast that has grown which only ever grows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

#: Where a counter of 32 bits begins again. Linux has such on every machine: the
#: milliseconds of a disk (Documentation/admin-guide/iostats.rst); on 32-bit machines
#: also bytes.
WRAP_32_BIT = 2**32

#: A counter that went from this much below its end to this much above 0 came round.
#: A wider margin would take more restarts for that.
_WRAP_MARGIN = 1 / 16


class Increase(NamedTuple):
    """By how much the counters of one source grew, in a time of more than 0 seconds."""

    seconds: float
    by: Mapping[str, float]

    def per_second(self, name: str) -> float | None:
        """The rate of one counter; None when there is none."""
        increase = self.by.get(name)
        return None if increase is None else increase / self.seconds


class _Reading(NamedTuple):
    values: Mapping[str, float]
    at_seconds: float


class Counters:
    """Remembers the last reading of every source of counters.

    A source is what restarts as a whole: a network interface, a process, a
    histogram. When one of its counters went back, it was restarted; that interval
    has no rate, rather than a wrong one. Neither has one that is too long, such as a
    night in which a laptop slept: its average would stand in a chart as the last few
    seconds'.

    Args:
        longest_gap_seconds: an interval longer than this has no rate.
        wraps_at: value at which counters begin again at 0 without a restart; None:
            they never do.
    """

    def __init__(
        self, longest_gap_seconds: float, *, wraps_at: int | None = None
    ) -> None:
        self._longest_gap_seconds = longest_gap_seconds
        self._wraps_at = wraps_at
        self._last: dict[Hashable, _Reading] = {}
        self._read: set[Hashable] = set()

    def read(
        self, source: Hashable, values: Mapping[str, float], at_seconds: float
    ) -> Increase | None:
        """Take a reading of a source: its counters, finite.

        Args:
            at_seconds: see :func:`~producers.collecting.elapsed_seconds`. A reading no
                later than the last one is that one again.

        Returns:
            The increase since the last reading; None when it is not known.
        """
        self._read.add(source)
        last = self._last.get(source)
        if last is not None and at_seconds <= last.at_seconds:
            return None
        self._last[source] = _Reading(dict(values), at_seconds)
        if last is None:
            return None
        seconds = at_seconds - last.at_seconds
        if seconds > self._longest_gap_seconds:
            return None
        by: dict[str, float] = {}
        for name, value in values.items():
            before = last.values.get(name)
            if before is None:
                continue
            increase = self._increase(before, value)
            if increase is None:
                return None
            by[name] = increase
        return Increase(seconds, by)

    def forget_unread(self) -> int:
        """Forget the sources that were not read since the last call; how many they
        were."""
        gone = self._last.keys() - self._read
        for source in gone:
            del self._last[source]
        self._read.clear()
        return len(gone)

    def _increase(self, before: float, value: float) -> float | None:
        """None when the counter was restarted."""
        if value >= before:
            return value - before
        if self._wraps_at is not None:
            margin = self._wraps_at * _WRAP_MARGIN
            if value < margin and self._wraps_at - margin <= before < self._wraps_at:
                return value + self._wraps_at - before
        return None
