"""Collectors: producers that look at something again and again."""

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
#: The metric of the scrape itself: whether and how fast a service was read.
SCRAPE = "scrape"
#: What a rate may be made of: as many intervals. One tick may be late and one fail.
LONGEST_GAP_INTERVALS = 3
#: Metrics with the same routing key that are published as one message.
_ARRAY_SIZE = 100
#: With two of them there are rates.
_DRY_ROUNDS = 2

_T = TypeVar("_T")
#: Of a metric; None for one without a value.
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
    """Yield at once and then every ``interval_seconds``, until ``stop`` is set.

    Ticks that came due while the last one was worked on, or while the process stood
    still, are left out; the next is due when it would have been anyway.
    """
    due = now()
    while not stop.wait(max(0.0, due - now())):
        yield
        missed = max(0.0, now() - due) // interval_seconds
        due += (1 + missed) * interval_seconds


class Measured(NamedTuple):
    """One metric, with its routing key on the exchange ``metrics``."""

    routing_key: str
    record: dict[str, Any]


#: One round of a look at something. What cannot be read is left out and logged, see
#: :class:`Guard`.
Collect = Callable[[], Iterable[Measured]]


class Unforeseen(MeshError):
    """A foreign library, or code that met foreign data, raised what nobody expects
    of it."""


@contextmanager
def contained() -> Iterator[None]:
    """Make an error of the mesh of whatever is raised inside.

    Pages, answers and files come from anybody, and what parses them raises what it
    likes: psutil a ValueError, prometheus_client an AttributeError. One of these must
    not end a collector, and all that it looks at with it.

    Raises:
        MeshError: what was raised, if it is one, or :class:`Unforeseen`.
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
    """Keeps what goes wrong with one thing from the others.

    Things (a group, a mount, a model, a target) are looked at again and again. A
    failure is logged once, and again when it fails in another way.
    """

    def __init__(self) -> None:
        #: Name of a thing → by what its failure is the same.
        self._failing: dict[str, str] = {}

    def attempt(self, what: str, look: Callable[[], _T]) -> _T | None:
        """What a look at something finds; None if it fails, whatever it raises."""
        try:
            with contained():
                found = look()
        except Unforeseen as error:
            # Such texts quote what they could not read, counters for example.
            self.failed(what, f"failed: {error}", kind=_NUMBERS.sub("0", str(error)))
            return None
        except MeshError as error:
            self.failed(what, clip(printable(str(error)), _REASON_LIMIT_CHARS))
            return None
        self.recovered(what)
        return found

    def gather(self, what: str, look: Callable[[], Iterable[_T]]) -> list[_T]:
        """All that a look at something finds, or did before it failed."""
        found: list[_T] = []
        self.attempt(what, lambda: found.extend(look()))
        return found

    def failed(self, what: str, reason: str, *, kind: str = "") -> None:
        """Log a failure, unless the last one of this thing had the same reason, or was
        of the same kind, where the reason differs each time."""
        kind = kind or reason
        if kind != self._failing.get(what):
            self._failing[what] = kind
            logger.warning("%s: %s", printable(what), reason)

    def recovered(self, what: str) -> None:
        """Log that a thing has recovered, if it had failed."""
        if self._failing.pop(what, None):
            logger.info("%s has recovered", printable(what))


def metric(
    name: str,
    fields: Fields,
    tags: Mapping[str, str],
    timestamp: float,
) -> dict[str, Any]:
    """A metric's record; fields without a value, or with one that is not finite, are
    left out.

    Args:
        tags: names of mounts and programs among them, which need not be Unicode.
        timestamp: epoch seconds; a point has milliseconds.
    """
    return {
        "name": name,
        "fields": {
            key: value
            for key, value in fields.items()
            # NaN compares with nothing
            if isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST
        },
        "tags": {tag: _unicode(value) for tag, value in tags.items()},
        "timestamp": round(timestamp, 3),
    }


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def routing_word(text: str) -> str:
    """``text`` as one word of a routing key: ``my.host`` is ``my_host``."""
    return _NOT_OF_A_WORD.sub("_", text)


def run_collector(
    context: typer.Context,
    collect: Collect,
    interval_seconds: float,
    *,
    dry_run: bool,
) -> None:
    """Collect and publish until SIGTERM or SIGINT.

    Raises:
        typer.Exit: at the end, with the exit code of the session.
        ConfigError: there is no usable ``MESH_BROKER_URL``.
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
    """Publishes metrics; one that does not fit AMQP or JSON holds up no other."""
    guard = Guard()

    def publish(measured: Measured) -> None:
        timestamp = measured.record["timestamp"]
        submit = partial(producer.submit, EXCHANGE, *measured, timestamp=timestamp)
        guard.attempt(f"{measured.routing_key} {measured.record['tags']}", submit)

    return publish


def collect_each(
    collect: Collect, rounds: Iterable[None], take: Callable[[Measured], None]
) -> None:
    """Collect in each round, and hand on what is found; a failed round ends no
    other."""
    guard = Guard()
    for _ in rounds:
        for measured in guard.gather("a round", collect):
            take(measured)


def _print(measured: Measured) -> None:
    typer.echo(json.dumps(measured._asdict(), ensure_ascii=False))


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
        #: With the time of the reading.
        self._last: dict[Hashable, tuple[float, Mapping[str, float]]] = {}
        self._read: set[Hashable] = set()

    def read(
        self, source: Hashable, values: Mapping[str, float], at_seconds: float
    ) -> Increase | None:
        """Take a reading of a source: its counters, finite.

        Args:
            at_seconds: see :func:`~meshtasks.producers.collecting.elapsed_seconds`. A
                reading no later than the last one is that one again.

        Returns:
            The increase since the last reading; None when it is not known.
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
