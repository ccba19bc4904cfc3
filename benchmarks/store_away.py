"""The time-series store is away for a minute, under load: how long alarms take
meanwhile, and whether every point is there afterwards.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles

import kombu
from typing_extensions import override

from benchmarks.contenders import MESHTASKS
from benchmarks.drain import Say
from benchmarks.figures import usage
from benchmarks.latency import Latency
from benchmarks.load import SENSORS, Reading, reading, single
from benchmarks.services import Services, Space
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.topology import PENDING_TIMESERIES
from meshtasks.demo.process import Process

#: What an alarm may take, milliseconds.
_TARGET_MS = 1000.0
_HOT_CELSIUS = 200.0  # above the limit of the shipped rule "overheating", in K, too
_LAST_SECONDS = 60.0
_STEP_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens when.

    Attributes:
        per_second: readings published.
        alarm_every_seconds: time between two readings that are alarms, each of a
            sensor of its own.
        before_seconds: all is well.
        outage_seconds: the store is away, stopped in order: what it has taken within
            the last seconds it would lose by being killed.
        after_seconds: all is well again.
    """

    per_second: int = 500
    alarm_every_seconds: float = 0.5
    before_seconds: float = 5.0
    outage_seconds: float = 60.0
    after_seconds: float = 5.0


def measure(services: Services, plan: Plan, say: Say) -> list[Latency]:
    """Alarms while the store is there, and while it is away."""
    with services.space() as space, _heard(space) as heard:
        worker = MESHTASKS.process(space)
        load = _Load(space, plan)
        worker.start()
        try:
            load.start()
            _until(lambda: bool(heard), "the first alarm")
            began_at = time.monotonic()
            used, count = usage(worker.pid).cpu_seconds, load.published
            time.sleep(plan.before_seconds)
            stopped_at = time.monotonic()
            space.store.stop()
            say(f"the store is stopped, for {plan.outage_seconds:g} s")
            before_us = _cpu_us(worker, load, used, count)
            used, count = usage(worker.pid).cpu_seconds, load.published
            time.sleep(plan.outage_seconds)
            back_at = time.monotonic()
            pending = space.ready(PENDING_TIMESERIES)
            away_us = _cpu_us(worker, load, used, count)
            say(f"the store is started; {pending:,} messages of points are pending")
            space.store.start()
            time.sleep(plan.after_seconds)
            load.stop()
            faults = _faults(space, load, heard)
        finally:
            load.stop()
            worker.stop(within_seconds=30.0)
    there = [at for at in load.alarms.items() if began_at <= at[1] < stopped_at]
    away = [at for at in load.alarms.items() if stopped_at <= at[1] < back_at]
    rate = f"{plan.per_second} readings/s"
    return [
        _latency(f"an alarm, {rate}", there, heard, before_us, None, ()),
        _latency(
            f"an alarm, {rate}, store away for {plan.outage_seconds:g} s",
            away,
            heard,
            away_us,
            _TARGET_MS,
            faults,
        ),
    ]


class _Load(threading.Thread):
    """Publishes readings, until it is stopped.

    Attributes:
        published: readings so far.
        alarms: when each sensor that is too hot was published.
    """

    def __init__(self, space: Space, plan: Plan) -> None:
        super().__init__(name="load", daemon=True)
        self.published = 0
        self.alarms: dict[str, float] = {}
        self._space = space
        self._plan = plan
        self._stopping = threading.Event()

    @override
    def run(self) -> None:
        publisher = Publisher(self._space.amqp_url)
        start_ms, began_at = int(time.time() * 1000), time.monotonic()
        alarm_at = began_at
        while not self._stopping.wait(_STEP_SECONDS):
            now = time.monotonic()
            due = int((now - began_at) * self._plan.per_second)
            readings = [
                reading(number % SENSORS, start_ms + number, 0.0)
                for number in range(self.published, due)
            ]
            if readings and now >= alarm_at:
                sensor = f"hot-{len(self.alarms)}"
                hot = Reading(
                    sensor_id=sensor,
                    value=_HOT_CELSIUS,
                    unit="C",
                    timestamp=readings[-1]["timestamp"],
                    location="kiln",
                )
                readings[-1] = hot
                self.alarms[sensor] = now
                alarm_at += self._plan.alarm_every_seconds
            publisher.publish(list(single(readings)))
            self.published = due
        publisher.close()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self.join()


@contextmanager
def _heard(space: Space) -> Iterator[dict[str, float]]:
    """When the alert of each sensor came first, from a queue of its own."""
    found: dict[str, float] = {}
    stopping = threading.Event()
    with kombu.Connection(space.amqp_url) as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        channel.queue_bind(queue, "alerts", "")

        def note(message: kombu.Message) -> None:
            sensor = json.loads(message.body)["labels"]["sensor_id"]
            found.setdefault(sensor, time.monotonic())

        def listen() -> None:
            with kombu.Consumer(
                channel,
                kombu.Queue(queue, no_declare=True),
                no_ack=True,
                on_message=note,
            ):
                while not stopping.is_set():
                    try:
                        connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

        listener = threading.Thread(target=listen, name="alerts")
        listener.start()
        try:
            yield found
        finally:
            stopping.set()
            listener.join()


def _faults(space: Space, load: _Load, heard: dict[str, float]) -> tuple[str, ...]:
    """Why the ledger does not balance, once all had time to arrive."""
    faults = []

    def stored() -> bool:
        return space.points() == load.published and not space.ready(PENDING_TIMESERIES)

    if not _until(stored):
        faults.append(f"{space.points():,} points of {load.published:,} readings")
        faults.append(f"{space.ready(PENDING_TIMESERIES):,} messages pending")
    if not _until(lambda: heard.keys() >= load.alarms.keys()):
        faults.append(f"{len(load.alarms.keys() - heard.keys()):,} alarms lost")
    if failed := space.failed():
        faults.append(f"{failed:,} messages dead or to be tried again")
    return tuple(faults)


def _until(predicate: Callable[[], bool], what: str = "") -> bool:
    deadline = time.monotonic() + _LAST_SECONDS
    while not (done := predicate()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if what and not done:
        raise TimeoutError(what)
    return done


def _cpu_us(worker: Process, load: _Load, used: float, count: int) -> float:
    seconds = usage(worker.pid).cpu_seconds - used
    return seconds / max(load.published - count, 1) * 1e6


def _latency(
    what: str,
    alarms: list[tuple[str, float]],
    heard: dict[str, float],
    cpu_us: float,
    target_ms: float | None,
    faults: tuple[str, ...],
) -> Latency:
    found = [(heard[sensor] - at) * 1000 for sensor, at in alarms if sensor in heard]
    percentiles = quantiles(found, n=100, method="inclusive")
    return Latency(
        what,
        len(alarms),
        percentiles[49],
        percentiles[98],
        max(found),
        cpu_us,
        None,
        target_ms,
        faults,
    )
