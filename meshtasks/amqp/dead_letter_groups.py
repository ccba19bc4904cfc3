"""Selects dead letters, and counts them by cause and queue."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple, Self

from meshtasks.amqp.dead_letters import DeadLetter
from meshtasks.amqp.entities import topic_matches

#: Most routing keys that a group keeps.
_MOST_ROUTING_KEYS = 100

#: Parts that differ between reasons of the same error.
_DETAILS = re.compile(r'"[^"]*"|\d[\d.,:TZ+-]*|[-+]\d+')


class Cause(NamedTuple):
    """Why messages became dead letters, in any queue.

    Attributes:
        kind: class of the error.
        reason: reason without details, see :func:`general_reason`.
    """

    kind: str
    reason: str

    @classmethod
    def of(cls, dead_letter: DeadLetter) -> Self:
        """The cause of a dead letter."""
        return cls(dead_letter.kind, general_reason(dead_letter.reason))


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects the dead letters that match every condition that is set.

    Attributes:
        ids: ids, or beginnings of ids.
        reason: kind of the dead letter, or part of its reason; case is ignored.
        queue: queue in which it failed; may be a shell pattern such as ``sensors.*``.
        routing_key: pattern for its routing key, as in a binding (``sensors.#``).
        sensor: sensor of its record; may be a shell pattern.
        failed_before: latest time of failure, epoch seconds, exclusive.
        failed_after: earliest time of failure, epoch seconds.
        cause: its cause.
    """

    ids: Collection[str] = ()
    reason: str = ""
    queue: str = ""
    routing_key: str = ""
    sensor: str = ""
    failed_before: float | None = None
    failed_after: float | None = None
    cause: Cause | None = None

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Whether a dead letter is selected. If its time of failure is unknown, it
        matches every age."""
        return (
            self._has_id(dead_letter.id)
            and self._has_reason(dead_letter)
            and (not self.queue or fnmatchcase(dead_letter.queue or "", self.queue))
            and (not self.sensor or fnmatchcase(dead_letter.sensor, self.sensor))
            and (
                not self.routing_key
                or topic_matches(self.routing_key, dead_letter.routing_key)
            )
            and self._is_of_age(dead_letter.failed_at)
            and (self.cause is None or self.cause == Cause.of(dead_letter))
        )

    def _has_id(self, dead_letter_id: str) -> bool:
        if not self.ids:
            return True
        return dead_letter_id in self.ids or dead_letter_id.startswith(tuple(self.ids))

    def _has_reason(self, dead_letter: DeadLetter) -> bool:
        text = self.reason.casefold()
        return (
            dead_letter.kind.casefold() == text or text in dead_letter.reason.casefold()
        )

    def _is_of_age(self, failed_at: float | None) -> bool:
        return failed_at is None or (
            (self.failed_before is None or failed_at < self.failed_before)
            and (self.failed_after is None or failed_at >= self.failed_after)
        )


@dataclass(slots=True)
class Group:
    """Dead letters of one queue and one cause.

    Attributes:
        count: number of dead letters.
        replayed: number of those that had been replayed before.
        example: the last one counted.
        first_failed_at: earliest time of failure, epoch seconds; None if all are
            unknown.
        last_failed_at: latest time of failure, epoch seconds; None if all are unknown.
        routing_keys: routing keys of first publication, 100 at most.
    """

    count: int
    replayed: int
    example: DeadLetter
    first_failed_at: float | None
    last_failed_at: float | None
    routing_keys: set[str]


@dataclass(frozen=True, slots=True)
class CauseGroups:
    """Dead letters of one cause.

    Attributes:
        cause: the cause.
        groups: one group for each queue, the largest first.
    """

    cause: Cause
    groups: Sequence[Group]

    @property
    def count(self) -> int:
        """Number of dead letters in all queues."""
        return sum(group.count for group in self.groups)

    @property
    def replayed(self) -> int:
        """Number of those that had been replayed before."""
        return sum(group.replayed for group in self.groups)

    @property
    def example(self) -> DeadLetter:
        """A dead letter of the largest group."""
        return self.groups[0].example

    @property
    def routing_keys(self) -> list[str]:
        """Routing keys of all groups, sorted; see :attr:`Group.routing_keys`."""
        return sorted({key for group in self.groups for key in group.routing_keys})


class Groups:
    """Counts dead letters by queue and cause, for commands and console.

    Attributes:
        total: number of dead letters counted.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[str | None, Cause], Group] = {}
        self.total = 0

    def add(self, dead_letter: DeadLetter) -> None:
        """Count a dead letter."""
        self.total += 1
        key = dead_letter.queue, Cause.of(dead_letter)
        time = dead_letter.failed_at
        replayed = int(dead_letter.replays > 0)
        group = self._groups.get(key)
        if group is None:
            keys = {dead_letter.routing_key}
            self._groups[key] = Group(1, replayed, dead_letter, time, time, keys)
            return
        group.count += 1
        group.replayed += replayed
        group.example = dead_letter
        if len(group.routing_keys) < _MOST_ROUTING_KEYS:
            group.routing_keys.add(dead_letter.routing_key)
        if time is not None:
            group.first_failed_at = min(group.first_failed_at or time, time)
            group.last_failed_at = max(group.last_failed_at or time, time)

    def __len__(self) -> int:
        return len(self._groups)

    def largest_first(self) -> list[Group]:
        """All groups, the largest first."""
        return sorted(
            self._groups.values(),
            key=lambda group: (-group.count, group.example.queue or "", group.example),
        )

    def causes(self) -> list[CauseGroups]:
        """All groups by cause, the most frequent cause first."""
        by_cause: dict[Cause, list[Group]] = {}
        for group in self.largest_first():
            by_cause.setdefault(Cause.of(group.example), []).append(group)
        causes = [CauseGroups(cause, groups) for cause, groups in by_cause.items()]
        return sorted(causes, key=lambda found: (-found.count, found.cause))


def general_reason(reason: str) -> str:
    """A reason without the parts that differ between reasons of the same error: quoted
    text, numbers and times become ``…``."""
    return _DETAILS.sub("…", reason)
