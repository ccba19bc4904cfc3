"""Reconciliation of a demo: the published records and where they are now.

There are two counts: messages by queue, as counted by the broker, and records by kind,
as found in the stores. The numbers come from independent sources: the simulator, the
broker, VictoriaMetrics, the archive, the receiver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from meshtasks.observation.seen import Seen

#: Every alert is in both queues of alerts; as a record it counts once.
ALERTS = "alerts"
ALERT_QUEUES = ("alerts.critical", "alerts.notifications")
REQUESTS, RESULTS = "ai.inference.requests", "ai.inference.results"
#: Kinds that the mesh itself also publishes.
_ALSO_FROM_WITHIN = frozenset({ALERTS, RESULTS})
#: Kinds that are not archived: requests (their results are).
_NOT_ARCHIVED = frozenset({REQUESTS})


class Published(BaseModel):
    """Counts of the simulator: what the broker has confirmed.

    Attributes:
        messages_by_kind: by queue, except ``alerts``, which go to two queues.
        good_records_by_kind: records to be stored.
        bad_records_by_kind: records to be dead-lettered.
        unconfirmed_records: records that the broker may or may not have.
        resent_messages: messages published again after a lost connection.
    """

    messages: int = 0
    records: int = 0
    messages_by_kind: dict[str, int] = {}
    good_records_by_kind: dict[str, int] = {}
    bad_records_by_kind: dict[str, int] = {}
    unconfirmed_records: int = 0
    dropped_records: int = 0
    unroutable_records: int = 0
    resent_messages: int = 0


def published_so_far(stats_file: Path) -> Published:
    """Return the counts in the simulator's file; zeros if there is no file yet.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return Published.model_validate_json(stats_file.read_bytes())
    except FileNotFoundError:
        return Published()


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Counts of one queue, in messages.

    Attributes:
        came_in: published to the queue, or in it at the beginning.
        acknowledged: acknowledged by workers.
        retried: acknowledged after publishing them for a retry.
        dead: dead-lettered, as a whole or in part.
        dead_by_broker: those of ``dead`` that the broker dead-lettered, so that no
            worker acknowledged them.
        left: still in the queue.
    """

    queue: str
    came_in: int
    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    dead_by_broker: int = 0
    left: int = 0

    @property
    def done(self) -> int:
        """Messages acknowledged because all their records are done."""
        return self.acknowledged - self.retried - (self.dead - self.dead_by_broker)

    @property
    def difference(self) -> int:
        """Messages that are unaccounted for; negative if there are too many."""
        return self.came_in - self.done - self.dead - self.left

    @property
    def is_over(self) -> bool:
        """Whether all messages have left the queue."""
        return not self.left and not self.difference


@dataclass(frozen=True, slots=True)
class Points:
    """Points of the run in the time-series store.

    Attributes:
        by_kind: distinct points.
        repeated: further copies of points.
    """

    by_kind: Mapping[str, int]
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class Archived:
    """Records of the run in the archive.

    Attributes:
        by_kind: distinct records.
        by_queue: distinct records by queue of the archive.
        objects: objects by queue of the archive.
        size_bytes: their size in bytes by queue of the archive.
        critical: distinct records that are critical alerts.
        repeated: further copies of records.
    """

    by_kind: Mapping[str, int] = field(default_factory=dict)
    by_queue: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    critical: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class AlertCounts:
    """Counts of the alert manager.

    Attributes:
        taken_in: distinct alerts that started or ended.
        sent: notifications that a receiver accepted.
    """

    taken_in: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Counts of one kind of record.

    Attributes:
        kind: the kind; empty for messages without a queue.
        good: good records published.
        bad: bad records published.
        stored: records in the store of this kind: points, calls of webhooks, answers,
            alerts.
        dead: dead letters.
        archived: archived records; None if the kind is not archived.
    """

    kind: str
    good: int
    bad: int
    stored: int
    dead: int
    archived: int | None = None

    @property
    def published(self) -> int:
        """Good and bad records."""
        return self.good + self.bad

    @property
    def difference(self) -> int:
        """Records neither stored nor dead-lettered; negative if there are too many."""
        return self.published - self.stored - self.dead

    @property
    def is_wrong(self) -> bool:
        """Whether good records are not stored or archived, or bad ones not dead."""
        is_archived = self.archived is None or self.archived == self.good
        return self.stored != self.good or self.dead != self.bad or not is_archived


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All counts of a run.

    Attributes:
        published: counts of the simulator.
        points: points in the time-series store.
        calls: kind → distinct records with which webhooks were called.
        notifications: notifications received by the phone.
        alert_counts: counts of the alert manager.
        archived: records in the archive.
        seen: events observed on the broker.
        flows: counts of the workers' queues.
        dead_in_queue: growth of the dead-letter queue.
        waiting: other queue that should be empty → messages in it.
    """

    published: Published
    points: Points
    calls: Mapping[str, int]
    notifications: int
    alert_counts: AlertCounts
    archived: Archived
    seen: Seen
    flows: Sequence[QueueCount]
    dead_in_queue: int
    waiting: Mapping[str, int] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return the counts of each kind of record."""
        return [self._row(kind) for kind in self._kinds()]

    def total(self) -> Row:
        """Return the sum of the rows."""
        rows = self.rows()
        return Row(
            "all",
            sum(row.good for row in rows),
            sum(row.bad for row in rows),
            sum(row.stored for row in rows),
            sum(row.dead for row in rows),
        )

    def faults(self) -> list[str]:
        """Return the differences as sentences; empty if the counts agree."""
        published = self.published
        faults = [_sentence(row) for row in self.rows() if row.is_wrong]
        faults += self._faults_of_messages()
        if not published.records:
            faults.append("nothing was published")
        if published.unconfirmed_records:
            faults.append(
                f"{published.unconfirmed_records} records were not confirmed by the "
                "broker; they may have arrived all the same"
            )
        if lost := published.dropped_records + published.unroutable_records:
            faults.append(f"{lost} records were never published")
        faults += self._faults_of_alerts()
        faults += [
            f"{count} messages are left in {queue}"
            for queue, count in self.waiting.items()
        ]
        return faults

    def _kinds(self) -> list[str]:
        published = self.published
        found = {*published.good_records_by_kind, *published.bad_records_by_kind}
        found |= {*map(_kind_of, self.seen.dead_by_queue)}
        found |= {*self.points.by_kind, *self.calls}
        found |= {RESULTS} if self._answered else set()
        found |= {ALERTS} if self._raised or self.alert_counts.taken_in else set()
        order = [_kind_of(flow.queue) for flow in self.flows]
        rank = {kind: index for index, kind in enumerate(order)}
        return sorted(found, key=lambda kind: (rank.get(kind, len(rank)), kind))

    def _row(self, kind: str) -> Row:
        return Row(
            kind,
            self._good(kind),
            self.published.bad_records_by_kind.get(kind, 0),
            self._stored(kind),
            self.seen.dead_by_queue.get(
                ALERT_QUEUES[-1] if kind == ALERTS else kind, 0
            ),
            None if kind in _NOT_ARCHIVED else self.archived.by_kind.get(kind, 0),
        )

    def _good(self, kind: str) -> int:
        if kind == ALERTS:
            return self._raised
        published = self.published.good_records_by_kind.get(kind, 0)
        return published + (self._answered if kind == RESULTS else 0)

    def _stored(self, kind: str) -> int:
        if kind == ALERTS:
            return self.alert_counts.taken_in
        if kind == REQUESTS:
            return self.seen.answers
        return self.points.by_kind.get(kind, 0) + self.calls.get(kind, 0)

    @property
    def _answered(self) -> int:
        """Results published by the mesh itself."""
        return self.seen.answers + self.seen.refusals

    @property
    def _raised(self) -> int:
        """Alerts of devices and rules that started or ended."""
        simulated = self.published.good_records_by_kind.get(ALERTS, 0)
        return simulated + self.seen.alerts_of_rules

    def _faults_of_messages(self) -> Iterator[str]:
        for flow in self.flows:
            if flow.left or flow.difference:
                yield (
                    f"{flow.queue}: {flow.came_in} messages came in, {flow.done} are "
                    f"done, {flow.dead} dead, {flow.left} left"
                )
            published = self.published.messages_by_kind.get(flow.queue)
            if published is None or flow.queue in _ALSO_FROM_WITHIN:
                continue
            if flow.came_in != published:
                yield (
                    f"{flow.queue}: {published} messages were published, and "
                    f"{flow.came_in} came in"
                )
        total = self.seen.dead_letters + self.seen.repeated_dead_letters
        if self.dead_in_queue != total:
            yield (
                f"the dead-letter queue has grown by {self.dead_in_queue}, and "
                f"{total} dead letters were seen"
            )

    def _faults_of_alerts(self) -> Iterator[str]:
        critical, others = (
            self.seen.dead_by_queue.get(name, 0) for name in ALERT_QUEUES
        )
        if critical != others:
            yield (
                f"{critical} alerts died in {ALERT_QUEUES[0]}, and {others} in "
                f"{ALERT_QUEUES[1]}; both get every alert"
            )
        if self.archived.critical != self.seen.alerts_by_severity.get("critical", 0):
            yield (
                f"{self.archived.critical} critical alerts are archived, and "
                f"{self.seen.alerts_by_severity.get('critical', 0)} were seen"
            )
        if self.notifications < self.alert_counts.sent:
            yield (
                f"{self.alert_counts.sent} notifications were sent, and "
                f"{self.notifications} arrived"
            )


def _kind_of(queue: str) -> str:
    return ALERTS if queue in ALERT_QUEUES else queue


def _sentence(row: Row) -> str:
    text = (
        f"{row.kind or 'no queue'}: {row.good} good records and {row.stored} stored, "
        f"{row.bad} bad records and {row.dead} dead letters"
    )
    if row.archived is not None and row.archived != row.good:
        text += f", {row.archived} archived"
    if row.difference < 0:
        text += "; did something else publish meanwhile?"
    return text
