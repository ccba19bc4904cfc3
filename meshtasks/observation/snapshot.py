"""What is to be seen of a running mesh at one moment; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
        worker: that has done it.
        outcome: ``succeeded``, ``retried`` or ``failed``.
    """

    finished_at: float
    queue: str
    result: str
    runtime_seconds: float | None = None
    failed: bool = False
    worker: str = ""
    outcome: str = ""


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
        outcomes: of batches and commands, by the queue or the command.
        last_batches: of all workers, newest last.
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
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    last_batches: tuple[BatchEvent, ...] = ()
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

    @property
    def dead_letters(self) -> int:
        """How many wait in the dead-letter queue."""
        return sum(q.ready for q in self.queues if q.name == self.dead_letter_queue)

    def is_waiting(self, queue: QueueState) -> bool:
        """Whether messages wait in it that nobody takes, and somebody should."""
        return bool(queue.ready and not queue.consumers) and (
            queue.name != self.dead_letter_queue
        )
