"""Query a running mesh: the broker, and the workers by Celery's remote control."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import amqp
import kombu
from kombu.exceptions import OperationalError

from meshtasks.amqp.connecting import Depth, connected, depths_of
from meshtasks.amqp.management import QueueActivity, activity
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, SinkUnavailable, Transient
from meshtasks.flows.archive.objects import archived_objects, open_store
from meshtasks.observation.event_monitor import EventMonitor
from meshtasks.observation.seen import Seen
from meshtasks.worker.broker import new_app

#: The broker updates its statistics at this interval; reading them is the expensive
#: part of a snapshot.
_STATISTICS_SECONDS = 5.0
_ASK_SECONDS = 5.0
#: Time for workers to reply.
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue.

    Attributes:
        name: its name.
        ready: messages waiting.
        consumers: number of consumers.
        unacked: messages delivered and not acknowledged, up to five seconds old. It and
            the fields below are None if the management API is unavailable.
        messages_in: messages published to it since the start of the broker.
        in_per_second: messages published to it per second.
        out_per_second: messages acknowledged per second.
    """

    name: str
    ready: int
    consumers: int
    unacked: int | None = None
    messages_in: int | None = None
    in_per_second: float | None = None
    out_per_second: float | None = None

    @property
    def is_unused(self) -> bool:
        """Whether it is empty and no message has passed through it."""
        return not (self.ready or self.unacked or self.messages_in)


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """The number of objects in the archive and their total size."""

    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment; what is not known is None or empty.

    Attributes:
        taken_at: epoch seconds.
        queues: those of topology.yaml, in its order.
        retry: messages waiting, by the retry queue's seconds.
        dead_letter_queue: name of the dead-letter queue among ``queues``.
        points: field values that the time-series store has written.
        archive: objects and bytes of the archive.
        seen: events counted since the start.
        faults: what is unavailable, in sentences.
    """

    taken_at: float
    queues: tuple[QueueState, ...] = ()
    retry: Mapping[int, int] = field(default_factory=dict)
    dead_letter_queue: str = ""
    points: int | None = None
    archive: ArchiveState | None = None
    seen: Seen = field(default_factory=Seen)
    faults: tuple[str, ...] = ()

    @property
    def dead_letters(self) -> int:
        """The number of messages in the dead-letter queue."""
        return sum(q.ready for q in self.queues if q.name == self.dead_letter_queue)

    def is_waiting(self, queue: QueueState) -> bool:
        """Whether a queue has messages and no consumer; never for dead letters."""
        return bool(queue.ready and not queue.consumers) and (
            queue.name != self.dead_letter_queue
        )


class Collector:
    """Takes snapshots of the mesh that these settings describe.

    If one service is unavailable, only its data is missing: without the management API
    there are no rates.

    Args:
        management_url: URL of RabbitMQ's management API; by default that of
            the settings.
        points: returns the number of values that the time-series store has written;
            raises OSError if the store is unavailable.
        whole: also count events and the objects of the archive; the latter lists every
            object.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        management_url: str | None = None,
        points: Callable[[], int] | None = None,
        whole: bool = True,
    ) -> None:
        self._settings = settings
        self._topology = settings.read(TOPOLOGY)
        self._url = settings.env.amqp_url
        self._management_url = management_url or settings.env.management_url
        self._points = points
        self._store = open_store(settings.env) if whole else None
        self._monitor = EventMonitor(self._url, self._topology)
        self._connection: kombu.Connection | None = None
        self._broker = ExitStack()
        self._active: Mapping[str, QueueActivity] = {}
        self._active_until = 0.0
        self._rest_seconds = 0.0 if whole else _STATISTICS_SECONDS

    def __enter__(self) -> Self:
        if self._store:
            self._monitor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection = None
        with suppress(Transient):  # the broker may be gone already
            self._broker.close()
        if self._store:
            self._monitor.__exit__()
            self._store.close()

    def wait_watching(self, within_seconds: float) -> bool:
        """Wait until all events are seen. Return False after ``within_seconds``."""
        return self._monitor.wait_open(within_seconds)

    def seen(self) -> Seen:
        """What was seen since the start."""
        return self._monitor.seen()

    def snapshot(self) -> Snapshot:
        """The mesh now; takes about 50 ms. Faults are in the snapshot."""
        faults: list[str] = []
        depths: dict[str, Depth] = {}
        active: Mapping[str, QueueActivity] = {}
        points: int | None = None
        archive: ArchiveState | None = None
        try:
            depths = self.depths()
            active = self._recent_activity()
        except (Transient, ConfigError) as error:
            faults.append(str(error))
        try:
            points = self._points() if self._points else None
        except OSError as error:
            faults.append(f"the time-series store does not answer: {error}")
        try:
            archive = self._archive_state()
        except SinkUnavailable as error:
            faults.append(str(error))
        if self._monitor.fault and not faults:
            faults.append(self._monitor.fault)
        return Snapshot(
            taken_at=time.time(),
            queues=tuple(
                _queue(queue.name, depths[queue.name], active)
                for queue in self._topology.named_queues
                if queue.name in depths
            ),
            retry={
                queue.seconds: depths[queue.name].ready
                for queue in self._topology.retry_queues
                if queue.name in depths
            },
            dead_letter_queue=self._topology.dead_letter_queue,
            points=points,
            archive=archive,
            seen=self.seen(),
            faults=tuple(faults),
        )

    def _recent_activity(self) -> Mapping[str, QueueActivity]:
        """Statistics of the queues; they are read again after a rest. Raises the same
        as :meth:`activity`."""
        if time.monotonic() >= self._active_until:
            self._active = self.activity()
            self._active_until = time.monotonic() + self._rest_seconds
        return self._active

    def _archive_state(self) -> ArchiveState | None:
        if self._store is None:
            return None
        sizes = [each.size_bytes for each in archived_objects(self._store)]
        return ArchiveState(len(sizes), sum(sizes))

    def activity(self) -> dict[str, QueueActivity]:
        """Statistics of each queue from the management API.

        Raises:
            Transient: the management API cannot be reached.
            ConfigError: the API refuses the account or the virtual host.
        """
        found = activity(self._url, self._management_url)
        for name, queue in self._topology.partitioned.items():
            parts = [found[part] for part in queue.names if part in found]
            found[name] = QueueActivity.total(name, parts)
        return found

    def depths(self) -> dict[str, Depth]:
        """Ready messages and consumers of each existing queue, with the retry queues.

        The numbers are exact and current, unlike those of the management API.

        Raises:
            Transient: the broker cannot be reached.
            ConfigError: the broker refuses the account or the virtual host.
        """
        with self._broker as broker:  # closes the connection on an error
            connection = self._connection
            if connection is None:
                connection = broker.enter_context(connected(self._url))
            self._connection = None
            names = (queue.name for queue in self._topology.all_queues)
            depths = depths_of(connection, names)
            for name, queue in self._topology.partitioned.items():
                if parts := [depths[part] for part in queue.names if part in depths]:
                    ready, consumers = zip(*parts, strict=True)
                    depths[name] = Depth(sum(ready), min(consumers))
            self._connection, self._broker = connection, broker.pop_all()
        return depths


def _queue(name: str, depth: Depth, active: Mapping[str, QueueActivity]) -> QueueState:
    now = active.get(name)
    if now is None:
        return QueueState(name, *depth)
    return QueueState(
        name,
        *depth,
        now.messages_unacknowledged,
        now.messages_in,
        now.in_per_second,
        now.out_per_second,
    )


class WorkerAnswer(NamedTuple):
    """The state of a worker.

    Attributes:
        name: its node name.
        consuming: queues that it consumes.
        resting: queues that are paused because a circuit is open.
        down: last error of each sink whose circuit is not closed, by sink.
        half_open: those of these sinks that a batch is testing.
    """

    name: str
    consuming: tuple[str, ...]
    resting: tuple[str, ...]
    down: Mapping[str, str]
    half_open: tuple[str, ...] = ()

    @property
    def faults(self) -> str:
        """The error of each unavailable sink, in one line."""
        return "; ".join(f"{sink}: {why}" for sink, why in self.down.items())


def ask_workers(url: str) -> list[WorkerAnswer]:
    """Ask all workers; takes a second. A worker too busy to answer is left out.

    Raises:
        Transient: the broker cannot be reached.
    """
    with new_app("meshtasks-status", url, set_as_current=False) as app:
        try:
            with app.connection_for_write() as connection:
                replies = app.control.broadcast(
                    "mesh_state",
                    reply=True,
                    timeout=_WAIT_SECONDS,
                    connection=connection,
                )
        except (OperationalError, amqp.AMQPError, OSError) as error:
            message = f"the workers cannot be asked: {error}"
            raise Transient(message) from error
    return sorted(_answers(replies or ()))


def circuit_lines(answers: Iterable[WorkerAnswer]) -> list[str]:
    """A line for each sink whose circuit is open, with the workers that opened it."""
    finders: dict[str, list[WorkerAnswer]] = {}
    for answer in answers:
        for sink in answer.down:
            finders.setdefault(sink, []).append(answer)
    return [_circuit_line(sink, finders[sink]) for sink in sorted(finders)]


def _circuit_line(sink: str, answers: Sequence[WorkerAnswer]) -> str:
    names = ", ".join(answer.name for answer in answers)
    queues = sorted({queue for answer in answers for queue in answer.resting})
    paused = f"{', '.join(queues) or 'no queue'} paused"
    tried = any(sink in answer.half_open for answer in answers)
    state = "half-open" if tried else "open"
    return f"{sink}: circuit {state} ({names}): {answers[0].down[sink]}; {paused}"


def _answers(replies: Iterable[Mapping[str, Any]]) -> Iterable[WorkerAnswer]:
    for reply in replies:
        for name, state in reply.items():
            if "down" in state:  # an older worker replies with an error
                yield WorkerAnswer(
                    name,
                    tuple(state["consuming"]),
                    tuple(state["resting"]),
                    state["down"],
                    tuple(state.get("half_open", ())),
                )


def attention(snapshot: Snapshot, answers: list[WorkerAnswer]) -> list[str]:
    """Lines about what needs attention. Dead letters and retries are not included."""
    lines = [*snapshot.faults, *circuit_lines(answers)]
    rests = {queue for answer in answers for queue in answer.resting}
    lines += [
        f"{queue.ready:,} messages wait in {queue.name} and nobody consumes it"
        for queue in snapshot.queues
        if snapshot.is_waiting(queue) and queue.name not in rests
    ]
    return lines


class WorkerPoll:
    """Asks the workers every five seconds, in a thread of its own.

    Attributes:
        answers: the latest answers; empty while the broker is unavailable.
    """

    def __init__(self, url: str) -> None:
        self.answers: list[WorkerAnswer] = []
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while True:
            try:
                self.answers = ask_workers(self._url)
            except Transient:
                self.answers = []  # the snapshot reports the broker's fault
            if self._stopping.wait(_ASK_SECONDS):
                return
