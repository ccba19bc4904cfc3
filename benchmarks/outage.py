"""The broker goes away, and the producer is killed meanwhile: what is submitted is
stored.

The millisecond of a reading tells which one it is.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import kombu

from benchmarks import ROOT
from benchmarks.contenders import MESHTASKS
from benchmarks.drain import Say
from benchmarks.services import Services, Space
from meshtasks.demo.process import Process

_LEDGER_QUEUE = "ledger"
_LAST_SECONDS = 120.0
_LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens when.

    Attributes:
        per_second: readings submitted.
        before_seconds: all is well.
        outage_seconds: the broker is away; after half of them the producer is
            killed with SIGKILL and started again.
        after_seconds: all is well again.
    """

    per_second: float = 200.0
    before_seconds: float = 5.0
    outage_seconds: float = 60.0
    after_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books of a run.

    Attributes:
        submitted: readings that the producer was given.
        stored: distinct readings that arrived.
        missing: submitted and never arrived.
        unnoted: arrived without a note; a killed process may have submitted one
            and not noted it any more.
        duplicates: arrived more than once, with the same message id.
        strays: arrived more than once, with differing message ids.
        in_order: each arrived first after all older ones.
        points: in the time-series store; None where none was looked at.
    """

    submitted: int
    stored: int
    missing: int
    unnoted: int
    duplicates: int
    strays: int
    in_order: bool
    points: int | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        """Why they do not balance; empty when they do."""
        found = []
        if self.missing:
            found.append(f"{self.missing:,} readings were lost")
        if self.unnoted > 1:
            found.append(f"{self.unnoted:,} readings came from nowhere")
        if self.strays:
            found.append(f"{self.strays:,} duplicates have ids of their own")
        if not self.in_order:
            found.append("some arrived out of order")
        if self.points not in {None, self.stored}:
            found.append(f"{self.points:,} points of {self.stored:,} readings")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A reading in a queue."""

    time_ms: int
    message_id: str


def measure(services: Services, plan: Plan, say: Say) -> Ledger:
    """Stop a real broker, kill a real producer, then let a worker store all."""
    with services.space() as space:
        with kombu.Connection(space.amqp_url) as connection:
            channel = connection.channel()
            channel.queue_declare(_LEDGER_QUEUE, durable=True, auto_delete=False)
            channel.queue_bind(_LEDGER_QUEUE, "sensors", "sensors.#")
        noted = run(
            space.environment(),
            space.directory,
            plan,
            services.broker.stop,
            services.broker.start,
            say,
        )
        found = arrivals(space.amqp_url, _LEDGER_QUEUE)
        points = _stored(space, len({each.time_ms for each in found}))
        return balance(noted, found, points)


def run(
    environment: Mapping[str, str],
    directory: Path,
    plan: Plan,
    stop_broker: Callable[[], object],
    start_broker: Callable[[], object],
    say: Say,
) -> list[int]:
    """Carry the plan out.

    Returns:
        The milliseconds of the readings that were submitted.
    """
    notes = directory / "submitted"
    producer = _producer(environment, directory, plan.per_second, notes)
    producer.start()
    _wait_for_notes(notes, 1)
    time.sleep(plan.before_seconds)
    say("the broker is stopped")
    stop_broker()
    time.sleep(plan.outage_seconds / 2)
    producer.kill()
    noted = len(_numbers(notes))
    say(f"the producer is killed after {noted:,} readings, and started again")
    producer = _producer(environment, directory, plan.per_second, notes)
    producer.start()
    _wait_for_notes(notes, noted + 1)
    time.sleep(plan.outage_seconds / 2)
    say("the broker is started")
    start_broker()
    time.sleep(plan.after_seconds)
    if exit_code := producer.stop(within_seconds=_LAST_SECONDS):
        say(f"the producer ended with {exit_code}:\n{producer.tail()}")
    return _numbers(notes)


def arrivals(url: str, queue: str) -> list[Arrival]:
    """Take everything out of a queue."""
    found = []
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            stamp = json.loads(message.body)["timestamp"]
            time_ms = round(datetime.fromisoformat(stamp).timestamp() * 1000)
            found.append(Arrival(time_ms, message.properties["message_id"]))
    return found


def balance(
    noted: list[int], found: list[Arrival], points: int | None = None
) -> Ledger:
    """Compare what was submitted with what arrived."""
    first_ids: dict[int, str] = {}
    duplicates = strays = 0
    for each in found:
        if first_ids.setdefault(each.time_ms, each.message_id) != each.message_id:
            strays += 1
        else:
            duplicates += 1
    stored = list(first_ids)
    return Ledger(
        submitted=len(noted),
        stored=len(stored),
        missing=len(set(noted) - set(stored)),
        unnoted=len(set(stored) - set(noted)),
        duplicates=duplicates - len(stored),
        strays=strays,
        in_order=stored == sorted(stored),
        points=points,
    )


def _producer(
    environment: Mapping[str, str], directory: Path, per_second: float, notes: Path
) -> Process:
    return Process(
        "producer",
        [sys.executable, "-m", "benchmarks.submitting", str(per_second), str(notes)],
        log_path=directory / "producer.log",
        env=dict(environment),
        cwd=ROOT,
    )


def _wait_for_notes(notes: Path, count: int) -> None:
    deadline = time.monotonic() + _LAST_SECONDS
    while len(_numbers(notes)) < count and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_SECONDS)


def _numbers(notes: Path) -> list[int]:
    """What was noted; a line that a killed process began does not count."""
    if not notes.exists():
        return []
    text = notes.read_text(encoding="ascii")
    return [int(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def _stored(space: Space, readings: int) -> int:
    """Let a worker store what is in the queue; the points in the store then."""
    worker = MESHTASKS.process(space)
    worker.start()
    deadline = time.monotonic() + _LAST_SECONDS
    while space.points() < readings and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_SECONDS)
    worker.stop(within_seconds=30.0)
    return space.points()
