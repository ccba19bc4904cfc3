"""What is to be seen of a running mesh at one moment; plain data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import kombu
from amqp.exceptions import NotFound

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.management import QueueActivity, activity
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.demo.view.event_monitor import EventMonitor
from meshtasks.errors import ConfigError, SinkUnavailable, Transient
from meshtasks.flows.archive.objects import archived_objects, open_store


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue.

    Attributes:
        ready: messages waiting.
        consumers: who consumes it.
        unacked: messages that consumers hold; up to five seconds old. None where
            the management API does not answer, as the rates.
        in_per_second: messages that came in.
        out_per_second: messages that were acknowledged.
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
        """Nothing is in it, and nothing has passed through."""
        return not (self.ready or self.unacked or self.messages_in)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter that was seen on its way to the dead-letter queue.

    Attributes:
        seen_at: epoch seconds.
        routing_key: of first publication.
        error_type: class of the fault.
        reason: the fault as a sentence.
        queue: it died in; empty for a message that no binding matched.
        by_broker: the broker took it from the queue, not a worker.
    """

    seen_at: float
    routing_key: str
    error_type: str
    reason: str
    queue: str = ""
    by_broker: bool = False


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """An alert that was seen on its way to the alert queues."""

    seen_at: float
    severity: str
    title: str
    message: str
    resolved: bool


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """The last batch that a worker finished.

    Attributes:
        finished_at: epoch seconds, by the worker's clock.
        result: the line that Flower shows, or the fault.
        failed: it was lost or has to be retried.
    """

    finished_at: float
    queue: str
    result: str
    runtime_seconds: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker, by its events.

    Attributes:
        heard_at: when its last event came, epoch seconds; it sends one every two
            seconds at least.
        online: it has not said good-bye.
    """

    name: str
    heard_at: float
    online: bool = True
    last_batch: BatchEvent | None = None


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """What the archive holds."""

    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What passed by since somebody looks.

    Attributes:
        dead_letters: how many, each counted once.
        repeated_dead_letters: copies of some of them.
        dead_by_queue: how many, by the queue they died in.
        dead_messages: whole messages and such of which a part died, by that queue.
        dead_by_broker: those of them that no worker acknowledged.
        dead_by_type: how many, by the class of the fault.
        reasons: the last reason given, by the class of the fault.
        last_dead_letters: newest last.
        retried: messages put back for later, by queue.
        answers: of models to those who asked, each counted once.
        refusals: to say that there is no answer, each counted once.
        alerts_by_severity: how many began or ended.
        alerts_of_rules: how many rules gave, begun or ended.
        alerts: how many began.
        resolved_alerts: how many ended.
        last_alerts: newest last.
        workers: in order of their names.
        interruptions: times the connection was lost; what passed meanwhile was
            not seen.
    """

    dead_letters: int = 0
    repeated_dead_letters: int = 0
    dead_by_queue: Mapping[str, int] = field(default_factory=dict)
    dead_messages: Mapping[str, int] = field(default_factory=dict)
    dead_by_broker: Mapping[str, int] = field(default_factory=dict)
    dead_by_type: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    last_dead_letters: tuple[DeadLetter, ...] = ()
    retried: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    refusals: int = 0
    alerts_by_severity: Mapping[str, int] = field(default_factory=dict)
    alerts_of_rules: int = 0
    alerts: int = 0
    resolved_alerts: int = 0
    last_alerts: tuple[SeenAlert, ...] = ()
    workers: tuple[WorkerState, ...] = ()
    interruptions: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The mesh at one moment; what could not be found out is None or empty.

    Attributes:
        taken_at: epoch seconds.
        queues: those of topology.yaml, in its order.
        retry: messages waiting, by the retry queue's seconds.
        dead_letter_queue: name of the one among ``queues`` where dead letters end.
        points: field values that the time-series store has taken.
        faults: what does not answer, for people.
    """

    taken_at: float
    queues: tuple[QueueState, ...] = ()
    retry: Mapping[int, int] = field(default_factory=dict)
    dead_letter_queue: str = ""
    points: int | None = None
    archive: ArchiveState | None = None
    seen: Seen = Seen()
    faults: tuple[str, ...] = ()

    def is_waiting(self, queue: QueueState) -> bool:
        """Whether messages wait in it that nobody takes, and somebody should."""
        return bool(queue.ready and not queue.consumers) and (
            queue.name != self.dead_letter_queue
        )


class Depth(NamedTuple):
    """How many messages wait in a queue, and how many consumers it has."""

    ready: int
    consumers: int


class Collector:
    """Takes snapshots of the mesh that these settings describe.

    One fault hides only what depends on it: without the management API there are
    no rates, and so on.

    Args:
        settings: of the mesh.
        management_url: of RabbitMQ's management pages; by default port 15672 of
            the broker's host.
        points: gives the number of values that the time-series store has taken;
            raises OSError when it does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        management_url: str | None = None,
        points: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._topology = settings.read(TOPOLOGY)
        self._url = settings.env.amqp_url
        self._management_url = management_url
        self._points = points
        self._store = open_store(settings.env)
        self._taps = EventMonitor(self._url, self._topology)
        self._connection: kombu.Connection | None = None
        self._broker = ExitStack()

    def __enter__(self) -> Self:
        self._taps.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.__exit__()
        self._connection = None
        with suppress(Transient):  # the broker may be gone already
            self._broker.close()
        self._store.close()

    def wait_watching(self, within_seconds: float) -> bool:
        """Wait until all that passes is seen; whether it is."""
        return self._taps.wait_open(within_seconds)

    def seen(self) -> Seen:
        """What has passed since the start."""
        return self._taps.seen()

    def snapshot(self) -> Snapshot:
        """The mesh now; takes about 50 ms."""
        faults: list[str] = []
        depths: dict[str, Depth] = {}
        active: dict[str, QueueActivity] = {}
        points: int | None = None
        archive: ArchiveState | None = None
        try:
            depths = self.depths()
            active = self.activity()
        except (Transient, ConfigError) as error:
            faults.append(str(error))
        try:
            points = self._points() if self._points else None
        except OSError as error:
            faults.append(f"the time-series store does not answer: {error}")
        try:
            sizes = [each.size_bytes for each in archived_objects(self._store)]
            archive = ArchiveState(len(sizes), sum(sizes))
        except SinkUnavailable as error:
            faults.append(str(error))
        if self._taps.fault and not faults:
            faults.append(self._taps.fault)
        return Snapshot(
            taken_at=time.time(),
            queues=tuple(
                _queue(queue.name, depths[queue.name], active)
                for queue in self._topology.queues
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

    def activity(self) -> dict[str, QueueActivity]:
        """What has gone on in each queue, by the broker's own statistics.

        Raises:
            Transient: the management API cannot be reached.
            ConfigError: it refuses the account or the virtual host.
        """
        return activity(self._url, self._management_url)

    def depths(self) -> dict[str, Depth]:
        """Ready messages and consumers of each queue there is, retry queues included.

        Exact and of this moment, unlike the management API's numbers.

        Raises:
            Transient: the broker cannot be reached.
            ConfigError: it refuses the account or the virtual host.
        """
        with self._broker as broker:  # closes the connection after a fault
            connection = self._connection
            if connection is None:
                connection = broker.enter_context(connected(self._url))
            self._connection = None
            depths = dict(self._counted(connection))
            self._connection, self._broker = connection, broker.pop_all()
        return depths

    def _counted(self, connection: kombu.Connection) -> Iterator[tuple[str, Depth]]:
        channel = connection.channel()
        for queue in self._topology.all_queues:
            try:
                answer = channel.queue_declare(queue.name, passive=True)
            except NotFound:  # which closes the channel
                channel = connection.channel()
            else:
                yield queue.name, Depth(answer.message_count, answer.consumer_count)
        channel.close()


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
