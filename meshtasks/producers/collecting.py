"""Collectors: producers that measure something at a fixed interval."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from meshtasks.errors import MeshError
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Batching
from meshtasks.producers.session import run_session, spooling_producer
from meshtasks.text import clip, printable

logger = logging.getLogger(__name__)

EXCHANGE = "metrics"
#: Metric about the scrape itself: whether it succeeded, and how long it took.
SCRAPE = "scrape"
#: Longest time a rate may cover, in intervals: one round may be late and one may fail.
LONGEST_GAP_INTERVALS = 3
#: Metrics of one routing key in one message.
_ARRAY_SIZE = 100
#: Rates need two rounds.
_DRY_ROUNDS = 2

_T = TypeVar("_T")
#: Fields of a metric; None for one without a value.
Fields = Mapping[str, float | bool | None]

_REASON_LIMIT_CHARS = 200
_LARGEST = 1e308
_NUMBERS = re.compile(r"\d+")
_NOT_OF_A_WORD = re.compile(r"[^A-Za-z0-9_-]+")

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print two rounds of metrics, one JSON object a line, and publish "
        "nothing. No broker is needed.",
    ),
]

#: Clock that counts during sleep: Linux has ``CLOCK_BOOTTIME``; elsewhere (macOS),
#: ``CLOCK_MONOTONIC`` counts during sleep.
_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Return seconds of a clock that counts during sleep and is never set back."""
    return time.clock_gettime(_BOOT_TIME)


def ticks(
    interval_seconds: float,
    stop: threading.Event,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Yield at once, then every ``interval_seconds`` until ``stop`` is set.

    Ticks that became due while the last one was handled, or while the process was
    suspended, are skipped. The times of later ticks do not shift.
    """
    due = now()
    while not stop.wait(max(0.0, due - now())):
        yield
        missed = max(0.0, now() - due) // interval_seconds
        due += (1 + missed) * interval_seconds


class Measured(NamedTuple):
    """One metric, and its routing key on the exchange ``metrics``."""

    routing_key: str
    record: dict[str, Any]


#: One round of measurements. Things that cannot be read are logged and left out, see
#: :class:`Guard`.
Collect = Callable[[], Iterable[Measured]]


class Unforeseen(MeshError):
    """A library, or code that parses foreign data, raised an unexpected exception."""


@contextmanager
def contained() -> Iterator[None]:
    """Raise every exception of the block as a MeshError.

    Pages, responses and files come from anywhere, and their parsers raise anything:
    psutil a ValueError, prometheus_client an AttributeError. Such an exception must not
    end the collector.

    Raises:
        MeshError: the exception raised, if it is one; else :class:`Unforeseen`.
    """
    try:
        yield
    except MeshError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        message = clip(printable(text), _REASON_LIMIT_CHARS)
        raise Unforeseen(message) from error


class Guard:
    """Isolates the failures of things that are read again and again.

    A thing is a group, a mount, a model or a target. Its failure is logged once, and
    again only when the reason changes.
    """

    def __init__(self) -> None:
        #: Name of a thing that fails → kind of its failure.
        self._failing: dict[str, str] = {}

    def attempt(self, what: str, look: Callable[[], _T]) -> _T | None:
        """Return the result of ``look``, or None if it raises any exception."""
        try:
            with contained():
                found = look()
        except Unforeseen as error:
            # The text quotes what could not be parsed, such as a changing number.
            self.failed(what, f"failed: {error}", kind=_NUMBERS.sub("0", str(error)))
            return None
        except MeshError as error:
            self.failed(what, clip(printable(str(error)), _REASON_LIMIT_CHARS))
            return None
        self.recovered(what)
        return found

    def gather(self, what: str, look: Callable[[], Iterable[_T]]) -> list[_T]:
        """Return the items of ``look``, up to its failure if it fails."""
        found: list[_T] = []
        self.attempt(what, lambda: found.extend(look()))
        return found

    def failed(self, what: str, reason: str, *, kind: str = "") -> None:
        """Log a failure, unless it is the same as the last one of this thing.

        Args:
            kind: identifies the failure where the text of the reason varies; by default
                the reason.
        """
        kind = kind or reason
        if kind != self._failing.get(what):
            self._failing[what] = kind
            logger.warning("%s: %s", printable(what), reason)

    def recovered(self, what: str) -> None:
        """Log that a thing works again, if it had failed."""
        if self._failing.pop(what, None):
            logger.info("%s has recovered", printable(what))


def metric(
    name: str,
    fields: Fields,
    tags: Mapping[str, str],
    timestamp: float,
) -> dict[str, Any]:
    """Return a metric's record, without fields that have no value or no finite one.

    Args:
        tags: may contain text that is not valid Unicode, such as names of mounts and
            programs.
        timestamp: epoch seconds; rounded to milliseconds, the precision of a point.
    """
    return {
        "name": name,
        "fields": {
            key: value
            for key, value in fields.items()
            # NaN fails both comparisons
            if isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST
        },
        "tags": {tag: _unicode(value) for tag, value in tags.items()},
        "timestamp": round(timestamp, 3),
    }


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def routing_word(text: str) -> str:
    """Return ``text`` as one word of a routing key: ``my.host`` → ``my_host``."""
    return _NOT_OF_A_WORD.sub("_", text)


def run_collector(
    context: typer.Context,
    collect: Collect,
    interval_seconds: float,
    *,
    dry_run: bool,
) -> None:
    """Collect and publish until SIGTERM or SIGINT.

    Args:
        dry_run: print two rounds instead of publishing.

    Raises:
        typer.Exit: at the end, with the exit code of the session.
        ConfigError: as :func:`~meshtasks.producers.session.spooling_producer`.
    """
    stop = context.ensure_object(threading.Event)
    rounds = ticks(interval_seconds, stop)
    if dry_run:
        collect_each(collect, islice(rounds, _DRY_ROUNDS), _print)
        return
    name = context.info_name or ""
    producer = spooling_producer(name, Batching(array_size=_ARRAY_SIZE))

    feed = partial(collect_each, collect, rounds, publishing(producer))
    raise typer.Exit(run_session(producer, feed, stop))


def publishing(producer: Producer) -> Callable[[Measured], None]:
    """Return a function that publishes a metric; one that is not valid is logged."""
    guard = Guard()

    def publish(measured: Measured) -> None:
        timestamp = measured.record["timestamp"]
        submit = partial(producer.submit, EXCHANGE, *measured, timestamp=timestamp)
        guard.attempt(f"{measured.routing_key} {measured.record['tags']}", submit)

    return publish


def collect_each(
    collect: Collect, rounds: Iterable[None], take: Callable[[Measured], None]
) -> None:
    """Collect in each round and pass each metric to ``take``.

    A round that fails does not end the others.
    """
    guard = Guard()
    for _ in rounds:
        for measured in guard.gather("a round", collect):
            take(measured)


def _print(measured: Measured) -> None:
    typer.echo(json.dumps(measured._asdict(), ensure_ascii=False))


#: Value at which a 32-bit counter starts again at 0. Every Linux has such counters, the
#: milliseconds of disks (Documentation/admin-guide/iostats.rst); 32-bit systems also
#: count bytes in them.
WRAP_32_BIT = 2**32

#: A counter has wrapped, and was not restarted, if its last value was within this part
#: of the range below the end, and its new value is within it above 0. A wider margin
#: would take more restarts for wraps.
_WRAP_MARGIN = 1 / 16


class Increase(NamedTuple):
    """Increase of one source's counters in an interval, longer than 0 seconds."""

    seconds: float
    by: Mapping[str, float]

    def per_second(self, name: str) -> float | None:
        """Return the rate of one counter, or None if its increase is not known."""
        increase = self.by.get(name)
        return None if increase is None else increase / self.seconds


class Counters:
    """Computes increases from successive readings of counters, by source.

    A source is something that restarts as a whole: a network interface, a process, a
    histogram. If one of its counters decreases, the source was restarted, and the
    interval has no rate. An interval that is too long has none either: after a night in
    which a laptop slept, the average of the night would appear in a chart as the rate
    of the last seconds.

    Args:
        longest_gap_seconds: longest interval that has a rate.
        wraps_at: value at which the counters start again at 0 without a restart; None
            if they never do.
    """

    def __init__(
        self, longest_gap_seconds: float, *, wraps_at: int | None = None
    ) -> None:
        self._longest_gap_seconds = longest_gap_seconds
        self._wraps_at = wraps_at
        #: Source → time and counters of its last reading.
        self._last: dict[Hashable, tuple[float, Mapping[str, float]]] = {}
        self._read: set[Hashable] = set()

    def read(
        self, source: Hashable, values: Mapping[str, float], at_seconds: float
    ) -> Increase | None:
        """Record a reading of a source's counters, which must be finite.

        Args:
            at_seconds: time of :func:`elapsed_seconds`. A reading that is not later
                than the last one is ignored.

        Returns:
            The increase since the last reading, or None if it is not known.
        """
        self._read.add(source)
        last_at_seconds, last = self._last.get(source, (-math.inf, {}))
        seconds = at_seconds - last_at_seconds
        if seconds <= 0:
            return None
        self._last[source] = at_seconds, dict(values)
        if seconds > self._longest_gap_seconds:
            return None
        by: dict[str, float] = {}
        for name, value in values.items():
            if name in last:
                increase = self._increase(last[name], value)
                if increase is None:
                    return None
                by[name] = increase
        return Increase(seconds, by)

    def forget_unread(self) -> int:
        """Forget sources not read since the last call; return their number."""
        gone = self._last.keys() - self._read
        for source in gone:
            del self._last[source]
        self._read.clear()
        return len(gone)

    def _increase(self, before: float, value: float) -> float | None:
        """Return the increase, or None if the counter was restarted."""
        if value >= before:
            return value - before
        if self._wraps_at is not None:
            margin = self._wraps_at * _WRAP_MARGIN
            if value < margin and self._wraps_at - margin <= before < self._wraps_at:
                return value + self._wraps_at - before
        return None
