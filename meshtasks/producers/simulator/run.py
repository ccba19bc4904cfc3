"""One run of the simulated house: its pace, what the broker has confirmed of it, and
the summary."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.private_files import replace_private
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Pending
from meshtasks.producers.simulator.badmessages import LABEL_HEADER, BadKind
from meshtasks.producers.simulator.house import House, SimulatedMessage

#: How long anything here waits without looking at what else there is to do.
_LONGEST_WAIT_SECONDS = 0.25
_WRITE_INTERVAL_SECONDS = 1.0

#: Kinds of domains whose routing keys do not begin with them:
#: the first word, the index and text of another, and the kind.
_KINDS_BY_WORD = (
    ("home", -1, "state_changed", "home.events.state_changes"),
    ("home", -1, "trigger", "home.events.automations"),
    ("ai", 1, "model", "ai.inference.requests"),
    ("ai", 1, "result", "ai.inference.results"),
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, and when it ends.

    Attributes:
        for_seconds: length of the run; None for no end.
        count: messages; None for no end.
        until_present: end when the house's clock reaches the real one.
    """

    rate_per_second: float
    for_seconds: float | None = None
    count: int | None = None
    until_present: bool = False


@dataclass(slots=True)
class PacedFeed:
    """Submits a house's messages until the pace's end or a stop.

    Attributes:
        each_moment: called at least about four times a second meanwhile.
    """

    house: House
    producer: Producer
    pace: Pace
    stop: threading.Event
    each_moment: Callable[[], None]

    def __call__(self) -> None:
        """Run to the end."""
        began = time.monotonic()
        for number, message in enumerate(self.house.messages()):
            due_seconds = number / self.pace.rate_per_second
            spent_seconds = max(due_seconds, time.monotonic() - began)
            if self._is_over(number, spent_seconds, message.timestamp):
                return
            body = message.body
            if not self._wait_until(began + due_seconds):
                return
            # A house could not wait, but its counters would not add up if it dropped
            # anything.
            while not self.producer.wait_for_room(len(body), _LONGEST_WAIT_SECONDS):
                if self.stop.is_set():
                    return
                self.each_moment()
            self._submit(message, body)

    def _is_over(self, number: int, spent_seconds: float, timestamp: float) -> bool:
        pace = self.pace
        return (
            number == pace.count
            or (pace.for_seconds is not None and spent_seconds >= pace.for_seconds)
            or (pace.until_present and timestamp > time.time())
        )

    def _wait_until(self, moment: float) -> bool:
        """Wait for a moment of the monotonic clock; false to stop instead."""
        while (remaining := moment - time.monotonic()) > 0:
            self.stop.wait(min(remaining, _LONGEST_WAIT_SECONDS))
            if self.stop.is_set():
                return False
            self.each_moment()
        self.each_moment()
        return not self.stop.is_set()

    def _submit(self, message: SimulatedMessage, body: bytes) -> None:
        route, timestamp = message[:2], message.timestamp
        if len(message.records) == 1:
            self.producer.submit(*route, *message.records, timestamp=timestamp)
            return
        outgoing = Outgoing(
            *route,
            body,
            timestamp=timestamp,
            headers={LABEL_HEADER: message.bad.value} if message.bad else None,
        )
        self.producer.submit_message(outgoing, records=message.record_count)


class Confirmed:
    """Counts the messages that the broker has confirmed, and what is in them, so that
    a demo or test can reconcile them with what was stored.

    Written by the producer's thread, read by others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: Counter[str] = Counter()
        self._bad_messages: Counter[str] = Counter()
        self._good_records: Counter[str] = Counter()
        self._bad_records: Counter[str] = Counter()

    def add(self, batch: Sequence[Pending]) -> None:
        """Count messages that the broker has stored."""
        with self._lock:
            for message, records in batch:
                good = records
                domain_kind = domain_kind_of(message.routing_key)
                self._messages[domain_kind] += 1
                label = (message.headers or {}).get(LABEL_HEADER)
                if label is not None:
                    kind = BadKind(str(label))
                    self._bad_messages[kind] += 1
                    self._bad_records[domain_kind] += kind.bad_records
                    good = kind.good_records
                self._good_records[domain_kind] += good

    def summary(self) -> dict[str, object]:
        """The counters so far.

        Returns:
            ``messages``; ``records`` = ``good_records`` (to be stored) +
            ``bad_records`` (to be dead-lettered); ``bad_messages`` by what is
            wrong with them; ``messages_by_kind``, ``good_records_by_kind`` and
            ``bad_records_by_kind`` by :func:`domain_kind_of`.
        """
        with self._lock:
            good, bad = self._good_records.total(), self._bad_records.total()
            return {
                "messages": self._messages.total(),
                "records": good + bad,
                "good_records": good,
                "bad_records": bad,
                "bad_messages": dict(sorted(self._bad_messages.items())),
                "messages_by_kind": dict(sorted(self._messages.items())),
                "good_records_by_kind": dict(sorted(self._good_records.items())),
                "bad_records_by_kind": dict(sorted(self._bad_records.items())),
            }


def domain_kind_of(routing_key: str) -> str:
    """What a message is counted as: the name of the queue it goes to, and for alerts,
    which go to two, ``alerts``."""
    words = routing_key.split(".")
    if words[0] == "alerts":
        return "alerts"
    for domain, index, word, kind in _KINDS_BY_WORD:
        if words[0] == domain and words[index] == word:
            return kind
    return ".".join(words[:2])


class RunSummary:
    """What was published so far, printed at the end and kept in a file meanwhile.

    Args:
        path: file to keep up to date; None for none.
    """

    def __init__(
        self, house: House, producer: Producer, confirmed: Confirmed, path: Path | None
    ) -> None:
        self._house = house
        self._producer = producer
        self._confirmed = confirmed
        self._path = path
        self._began = self._written_at = time.monotonic()

    def summary(self, *, finished: bool) -> dict[str, object]:
        """What is confirmed, what the broker did not take, and the faults."""
        counts = self._producer.counts()
        return {
            **self._confirmed.summary(),
            "unconfirmed_records": counts.unresolved,
            "dropped_records": counts.dropped,
            "unroutable_records": counts.unroutable,
            "resent_messages": counts.resent,
            "sensor_faults": dict(sorted(self._house.faults.items())),
            "seed": self._house.options.seed,
            "elapsed_seconds": round(time.monotonic() - self._began, 3),
            "finished": finished,
        }

    def write_now_and_then(self) -> None:
        """Write the file, if it is a second old."""
        if time.monotonic() - self._written_at >= _WRITE_INTERVAL_SECONDS:
            self.write(finished=False)

    def write(self, *, finished: bool) -> None:
        """Write the file, if one is wanted.

        Raises:
            typer.Exit: it cannot be written.
        """
        self._written_at = time.monotonic()
        if self._path is None:
            return
        try:
            text = json.dumps(self.summary(finished=finished)) + "\n"
            replace_private(self._path, text)
        except OSError as error:
            typer.echo(f"cannot write --stats-file: {error}", err=True)
            raise typer.Exit(os.EX_CANTCREAT) from error
