"""The state of the mesh for all pages; it is read only while a page is open."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar, cast

from amqp.exceptions import ChannelError

from meshtasks.amqp.entities import MQTT_EXCHANGE
from meshtasks.amqp.peek import tapped
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.extras import installed
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, MeshError, Transient
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts, routes_notified
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import AlertEvent, NotificationState, Silence
from meshtasks.flows.alerts.store import AlertTables
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.collect import Collector, Snapshot, WorkerAnswer, WorkerPoll
from meshtasks.observation.event_monitor import EventMonitor
from meshtasks.observation.facts import VIEWS, Room, rooms_of
from meshtasks.observation.headline import Line, Today
from meshtasks.observation.latest import LatestValues
from meshtasks.observation.seen import Seen
from meshtasks.records.kinds import KINDS
from meshtasks.text import printable

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_LOOK_SECONDS = 3.0
#: Minimum interval to read the state. It is longer, because all sensors are read.
_STATE_SECONDS = 5.0
#: If no page reports that it is open for this time, the threads pause.
_UNWATCHED_SECONDS = 30.0
_HISTORY_SECONDS, _HISTORY_RETRY_SECONDS = 120.0, 15.0
#: Delay of the history's libraries, so that the first page does not wait for them.
_SETTLING_SECONDS = 1.0
_RETRY_SECONDS = 2.0
#: Least pause after reading the state, as a multiple of the duration of the read.
_RESTS = 20.0
#: Copies of readings are read in bursts, because a wake-up for each costs more.
_BURST_SECONDS, _ARRIVED_SECONDS = 0.5, 0.001
_SENSORS = "sensors.#"
_SENSOR_EXCHANGES = ("sensors", MQTT_EXCHANGE)
#: The alerts are read again after this time; until then all pages share them.
_FRESH_SECONDS = 2.5
_EVENTS, _ALERTS = 50, 200


class MeshWatch:
    """Watches the mesh in threads of its own while a page is open.

    Attributes:
        snapshot: the mesh; None before the first snapshot.
        answers: the latest answers of the workers.
        seen: events of the workers since their page was opened.
        latest: the latest values of the sensors.
        rooms: curves of the last 24 hours from the archive.
        rooms_fault: why the curves cannot be read; empty if they can.
        today: the state's records of this day.
        state_fault: why the state cannot be read; empty if it can.
    """

    def __init__(self, settings: Settings) -> None:
        self.snapshot: Snapshot | None = None
        self.answers: list[WorkerAnswer] = []
        self.seen = Seen()
        self.latest = LatestValues(settings.read(KINDS))
        self.rooms: tuple[Room, ...] = ()
        self.rooms_fault = ""
        self.today = Today()
        self.state_fault = ""
        self._settings = settings
        self._wanted_until = 0.0
        self._are_workers_wanted = False
        self._is_state_read = False
        self._shared: dict[str, tuple[float, object, object]] = {}
        self._wake_up = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (
                ("console", self._watch),
                ("console-sensors", self._listen),
                ("console-history", self._read_history),
                ("console-state", self._read_state),
            )
        ]

    def start(self) -> None:
        """Start the threads; they wait until a page is opened."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopping.set()
        self._wake_up.set()
        for thread in self._threads:
            thread.join()

    def want(self) -> None:
        """Report that a page is open."""
        self._wanted_until = time.monotonic() + _UNWATCHED_SECONDS
        self._wake_up.set()

    def want_workers(self) -> None:
        """Report that the workers' page is open. Their events are received only then,
        because they cost a broker much."""
        self._are_workers_wanted = True

    def shared(self, name: str, make: Callable[[], _T]) -> _T:
        """Return what ``make`` returns; the result is shared by all pages until the
        mesh is watched again."""
        now, seen = time.monotonic(), (self.snapshot is not None, self._is_state_read)
        made_at, seen_then, made = self._shared.get(name, (0.0, None, None))
        if seen != seen_then or now >= made_at + 0.9 * _LOOK_SECONDS:
            made = make()
            self._shared[name] = now, seen, made
        return cast("_T", made)

    def headline(self) -> list[Line]:
        """What is not well, the most severe first."""
        if self.snapshot is None:
            return []
        faults = filter(None, (self.state_fault, self.rooms_fault))
        lines = self.today.headline(self.snapshot, self.answers)
        return [*lines, *map(Line, faults)]

    def _is_wanted(self) -> bool:
        return time.monotonic() < self._wanted_until and not self._stopping.is_set()

    def _next_watch(self) -> bool:
        """Wait until a page is open; return False when the watch is stopped."""
        while not self._is_wanted() and not self._stopping.is_set():
            self._wake_up.wait()
            self._wake_up.clear()
        return not self._stopping.is_set()

    def _watch(self) -> None:
        while self._next_watch():
            with ExitStack() as stack:
                collector = stack.enter_context(Collector(self._settings, whole=False))
                poll = stack.enter_context(WorkerPoll(self._settings.env.amqp_url))
                monitor: EventMonitor | None = None
                while self._is_wanted():
                    if self._are_workers_wanted and monitor is None:
                        monitor = EventMonitor(self._settings.env.amqp_url)
                        stack.enter_context(monitor)
                    self.seen = monitor.seen() if monitor else Seen()
                    self.snapshot = collector.snapshot()
                    self.answers = poll.answers
                    self._stopping.wait(_LOOK_SECONDS)
            self._are_workers_wanted = False

    def _listen(self) -> None:
        topology = self._settings.read(TOPOLOGY)
        url = self._settings.env.amqp_url
        while self._next_watch():
            try:
                with tapped(url, topology, _SENSORS, _SENSOR_EXCHANGES) as copies:
                    while self._is_wanted():
                        if message := copies.next(_ARRIVED_SECONDS):
                            self.latest.see(message, time.time())
                        else:
                            self._stopping.wait(_BURST_SECONDS)
            except (Transient, ConfigError, ChannelError):
                # the snapshot reports the fault
                self._stopping.wait(_RETRY_SECONDS)

    def _read_state(self) -> None:
        while self._next_watch():
            began = time.monotonic()
            try:
                self.today = Today.read(self._settings, time.time())
                self.state_fault = ""
            except MeshError as error:
                self.state_fault = str(error)
            self.latest.know(self.today.remembered.sensors)
            self._is_state_read = True
            took = time.monotonic() - began
            self._stopping.wait(max(_STATE_SECONDS, _RESTS * took))

    def _read_history(self) -> None:
        if not installed("analytics"):
            return
        self._next_watch()
        self._stopping.wait(_SETTLING_SECONDS)
        while self._next_watch():
            pause_seconds = _HISTORY_SECONDS
            try:
                self.rooms = _rooms(self._settings)
                self.rooms_fault = ""
            except MeshError as error:
                self.rooms_fault = f"The curves of this page cannot be read: {error}"
                pause_seconds = _HISTORY_RETRY_SECONDS
            self._stopping.wait(pause_seconds)


def _rooms(settings: Settings) -> tuple[Room, ...]:
    """The curves of the last 24 hours. They need the extra ``analytics``.

    Raises:
        MeshError: the archive cannot be read.
    """
    from meshtasks.flows.analytics.database import (  # noqa: PLC0415 - an extra
        opened,
        passing_over_damaged,
    )

    now = datetime.now(UTC)
    since = (now - timedelta(days=1)).date()
    with closing(open_store(settings.env)) as store:

        def read(left_out: frozenset[str]) -> tuple[Room, ...]:
            with opened(settings.env, store, VIEWS, since, left_out) as database:
                return rooms_of(database, now)

        return passing_over_damaged(read, lambda _: None)


class Alerts(NamedTuple):
    """The alerts at one moment.

    Attributes:
        taken_at: epoch seconds, by the clock of the state.
        shown: active alerts, and alerts of the last week; at most :data:`_ALERTS`.
        notified: notification state of each route, by fingerprint and route.
        silences: silences that have not ended.
        events: latest events of alerts, newest first.
    """

    taken_at: float
    shown: list[CurrentAlert]
    notified: Mapping[str, Mapping[str, NotificationState]]
    silences: list[Silence]
    events: list[AlertEvent]

    @property
    def firing(self) -> list[CurrentAlert]:
        """The active alerts."""
        return [each for each in self.shown if each.alert.firing]


class AlertsModel:
    """The alerts, read once for all pages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy = settings.read(ALERTS)
        self._read: Alerts | None = None
        self._fresh_until = 0.0
        self._lock = asyncio.Lock()

    async def alerts(self) -> Alerts:
        """The alerts now.

        Raises:
            MeshError: the state cannot be read.
        """
        async with self._lock:
            known = self._read
            if known is None or time.monotonic() > self._fresh_until:
                known = self._read = await asyncio.to_thread(self._look)
                self._fresh_until = time.monotonic() + _FRESH_SECONDS
            return known

    async def change(
        self, write: Callable[[AlertTables], object], who: str, what: str
    ) -> None:
        """Change alerts or silences in one transaction.

        Args:
            write: makes the change.
            who: name of the client, for the log.
            what: what was done, for the log.

        Raises:
            MeshError: the state cannot be written.
        """

        def run() -> None:
            with self._tables() as tables:
                write(tables)

        await asyncio.to_thread(run)
        logger.info("%s %s on the console", who, printable(what))
        self._read = None

    def _look(self) -> Alerts:
        with self._tables() as tables:
            now = tables.now
            shown = current_alerts(tables, self._policy, now, every=True)[:_ALERTS]
            return Alerts(
                now,
                shown,
                {
                    each.alert.fingerprint: routes_notified(
                        tables, each.alert.fingerprint
                    )
                    for each in shown
                },
                [silence for silence in tables.silences() if silence.ends_at > now],
                tables.history(_EVENTS),
            )

    @contextmanager
    def _tables(self) -> Iterator[AlertTables]:
        with (
            closing(Sinks(self._settings)) as sinks,
            sinks[ALERT_STATE].tables() as tables,
        ):
            yield tables
