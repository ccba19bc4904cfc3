"""One run: messages wait in a queue, one contender drains it.

The clock runs from the first moment at which messages are seen to be resolved to
the moment at which all are. So starting up costs nobody anything, and neither
does what a contender does once, with its first messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from benchmarks.contenders import Contender, Kept
from benchmarks.figures import Usage, usage
from benchmarks.load import readings
from benchmarks.services import Services, Space
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.process import Process

Say = Callable[[str], None]

_PUBLISH_MESSAGES = 5_000
_SAY_EVERY_MESSAGES = 100_000

#: Looking costs the broker 10 ms, so it is looked at rarely until the end nears.
_LONGEST_WAIT_SECONDS = 0.2
_SHORTEST_WAIT_SECONDS = 0.02
_STARTING_WAIT_SECONDS = 0.05
_STALLED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave.

    Attributes:
        contender: its name.
        messages: messages that waited.
        readings: readings in them.
        readings_per_second: while the clock ran; 0.0 if it could not be told.
        cpu_us_per_reading: processor time of the consuming process and those it
            started, while the clock ran; steadier than the rate on a busy machine.
        peak_rss_bytes: of the same processes.
        kept: what it has stored.
        faults: why the ledger does not balance; empty when it does.
    """

    contender: str
    messages: int
    readings: int
    readings_per_second: float
    cpu_us_per_reading: float
    peak_rss_bytes: int
    kept: Kept
    faults: tuple[str, ...]


def run(services: Services, contender: Contender, messages: int, say: Say) -> Run:
    """Publish, start the contender, watch until all is resolved, check the ledger.

    Args:
        services: the broker.
        contender: who drains.
        messages: how many wait when it starts.
        say: told of progress.

    Raises:
        InstallFailed: the contender's environment could not be made.
    """
    count = messages * contender.array_readings
    with services.space() as space:
        preload(space, contender.encode(readings(count)), say)
        process = contender.process(space)
        watch = _Watch(services, process, messages)
        process.start()
        try:
            watch.until_resolved()
        finally:
            process.stop(within_seconds=30.0)
        kept = Kept(count) if contender.kept is None else contender.kept(space)
        faults = [*watch.faults, *_faults(space, contender, kept, count)]
        if faults:
            say(f"{contender.name}: the end of its log:\n{process.tail()}")
    return Run(
        contender.name,
        messages,
        count,
        watch.messages_per_second * contender.array_readings,
        watch.cpu_us_per_message / contender.array_readings,
        watch.peak_rss_bytes,
        kept,
        tuple(faults),
    )


def preload(space: Space, messages: Iterable[Outgoing], say: Say) -> None:
    """Publish messages, confirmed."""
    rest = iter(messages)
    publisher = Publisher(space.amqp_url)
    published = 0
    while some := list(islice(rest, _PUBLISH_MESSAGES)):
        publisher.publish(some)
        published += len(some)
        if published % _SAY_EVERY_MESSAGES == 0:
            say(f"{published:,} messages published")
    publisher.close()


class _Look(NamedTuple):
    """The state of a run at one moment."""

    time: float
    resolved: int
    used: Usage


class _Watch:
    """Follows a run by the broker's count of acknowledged messages.

    Attributes:
        messages_per_second: while the clock ran.
        cpu_us_per_message: the same.
        peak_rss_bytes: of the process and those it started.
        faults: what went wrong meanwhile.
    """

    def __init__(self, services: Services, process: Process, messages: int) -> None:
        self._services = services
        self._process = process
        self._messages = messages
        self._acknowledged_before = services.acknowledged()
        self.messages_per_second = 0.0
        self.cpu_us_per_message = 0.0
        self.peak_rss_bytes = 0
        self.faults: list[str] = []

    def until_resolved(self) -> None:
        """Return when all messages are resolved, or nothing happens any more."""
        first: _Look | None = None
        last = self._look()
        changed_at = last.time
        while last.resolved < self._messages:
            time.sleep(self._wait_seconds(last.resolved))
            look = self._look()
            if look.resolved > last.resolved:
                changed_at = look.time
                if first is None:
                    first = look
                else:
                    self._note(first, look)
            last = look
            if last.time - changed_at > _STALLED_SECONDS or not self._process.running:
                self.faults.append(
                    f"stopped at {last.resolved:,} of {self._messages:,}"
                )
                break
        if not self.messages_per_second and not self.faults:
            self.faults.append("over before it could be measured")

    def _look(self) -> _Look:
        resolved = self._services.acknowledged() - self._acknowledged_before
        now = time.monotonic()
        used = usage(self._process.pid)
        self.peak_rss_bytes = max(self.peak_rss_bytes, used.peak_rss_bytes)
        return _Look(now, resolved, used)

    def _note(self, first: _Look, look: _Look) -> None:
        messages = look.resolved - first.resolved
        cpu_seconds = look.used.cpu_seconds - first.used.cpu_seconds
        self.messages_per_second = messages / (look.time - first.time)
        self.cpu_us_per_message = cpu_seconds / messages * 1e6

    def _wait_seconds(self, resolved: int) -> float:
        """Half of what is left, so that the end is seen soon after it comes."""
        if not resolved:
            return _STARTING_WAIT_SECONDS
        if not self.messages_per_second:
            return _SHORTEST_WAIT_SECONDS
        left_seconds = (self._messages - resolved) / self.messages_per_second
        return min(max(left_seconds / 2, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)


def _faults(space: Space, contender: Contender, kept: Kept, count: int) -> list[str]:
    """Why the ledger does not balance, once the contender has gone."""
    faults = []
    # What it held unacknowledged is back in the queue now.
    if left := space.ready(contender.queue):
        faults.append(f"{left:,} messages left in the queue")
    if failed := space.failed():
        faults.append(f"{failed:,} messages dead or to be tried again")
    if kept.records != count:
        faults.append(f"{kept.records:,} stored of {count:,} readings")
    return faults
