"""Dead letters by what they died of: which are selected, and how many there are of each
cause."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple, Self

from meshtasks.amqp.dead_letters import DeadLetter
from meshtasks.amqp.entities import topic_matches

#: Routing keys that are kept of a group.
_MOST_ROUTING_KEYS = 100

#: What differs between reasons of the same fault.
_DETAILS = re.compile(r'"[^"]*"|\d[\d.,:TZ+-]*|[-+]\d+')


class Cause(NamedTuple):
    """Why dead letters died, in whatever queue.

    Attributes:
        kind: class of the fault.
        reason: see :func:`general_reason`.
    """

    kind: str
    reason: str

    @classmethod
    def of(cls, dead_letter: DeadLetter) -> Self:
        """The cause of a dead letter."""
        return cls(dead_letter.kind, general_reason(dead_letter.reason))


@dataclass(frozen=True, slots=True)
class Selection:
    """Selects dead letters: those that meet every condition that is set.

    Attributes:
        ids: these, by the beginnings of their ids.
        reason: their kind is this, or their reason has this in it (in any case).
        queue: they failed in it; a shell pattern such as ``sensors.*`` will do.
        routing_key: their routing key matches it, as in a binding (``sensors.#``).
        sensor: they are of it; a shell pattern will do.
        failed_before: epoch seconds.
        failed_after: epoch seconds.
        cause: they died of it.
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
        """Whether this one is selected. One without a time may be of any age."""
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
    """Dead letters of one queue and one reason.

    Attributes:
        count: how many.
        replayed: how many of them had been replayed before.
        example: one of them; the last that was looked at.
        first_failed_at: epoch seconds, None if unknown of all.
        last_failed_at: likewise.
        routing_keys: of first publication; a hundred of them at most.
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
        groups: one a queue, the largest first.
    """

    cause: Cause
    groups: Sequence[Group]

    @property
    def count(self) -> int:
        """How many, in all queues."""
        return sum(group.count for group in self.groups)

    @property
    def replayed(self) -> int:
        """How many of them had been replayed before."""
        return sum(group.replayed for group in self.groups)

    @property
    def example(self) -> DeadLetter:
        """One of them."""
        return self.groups[0].example

    @property
    def routing_keys(self) -> list[str]:
        """In order; see :attr:`Group.routing_keys`."""
        return sorted({key for group in self.groups for key in group.routing_keys})


class Groups:
    """Dead letters, counted by cause and queue: the one grouping of commands and
    console."""

    def __init__(self) -> None:
        #: By queue and cause.
        self._groups: dict[tuple[str | None, Cause], Group] = {}
        self.total = 0

    def add(self, dead_letter: DeadLetter) -> None:
        """Count one."""
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
        """All of them."""
        return sorted(
            self._groups.values(),
            key=lambda group: (-group.count, group.example.queue or "", group.example),
        )

    def causes(self) -> list[CauseGroups]:
        """All of them by their cause, the most frequent first."""
        by_cause: dict[Cause, list[Group]] = {}
        for group in self.largest_first():
            by_cause.setdefault(Cause.of(group.example), []).append(group)
        causes = [CauseGroups(cause, groups) for cause, groups in by_cause.items()]
        return sorted(causes, key=lambda found: (-found.count, found.cause))


def general_reason(reason: str) -> str:
    """A reason without what differs between reasons of the same fault: quoted text,
    numbers and times."""
    return _DETAILS.sub("…", reason)
