"""Dead letters: what is known of one, which of them are meant, and how many died
of the same. Pure; nothing here holds a body, so a hundred thousand fit anywhere."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from meshtasks.amqp.patterns import topic_matches
from meshtasks.amqp.routing import PREDECLARED_EXCHANGES, queues_reached
from meshtasks.amqp.topology import Topology

#: Where a dead letter is published; also by the broker.
DEAD_LETTER_EXCHANGE = "dead.letter"
#: Excerpts of records, for the archive. Anyone may publish any JSON to it; what comes
#: without the header :data:`~meshtasks.amqp.headers.EXCERPTS` is archived as it is.
ARCHIVE_EXCHANGE = "archive"
#: Hex digits of an id: 48 bits, so that of 100,000 dead letters no two share one but
#: once in 50,000 such queues.
ID_DIGITS = 12
#: Kind of a message that was published where no binding matches.
UNROUTABLE = "Unroutable"

#: What differs between reasons that say the same.
_DETAILS = re.compile(r'"[^"]*"|\d[\d.,:TZ+-]*|[-+]\d+')


class DeadLetter(NamedTuple):
    """A dead letter, less its body.

    Attributes:
        id: the same whenever it is looked at; messages that say the same in every
            respect share one.
        kind: class of the fault, or the broker's word for it (``delivery_limit``).
        reason: the fault as a sentence.
        queue: where it failed; None if it never was in a queue.
        exchange: of first publication.
        routing_key: of first publication.
        failed_at: epoch seconds, None if nobody noted it.
        replays: how often it was replayed before.
        replayed_at: when the last replay that took it began, as its command wrote
            it; empty if none did.
        sensor: what its record is of; empty if nothing tells.
    """

    id: str
    kind: str
    reason: str
    queue: str | None
    exchange: str
    routing_key: str
    failed_at: float | None
    replays: int = 0
    replayed_at: str = ""
    sensor: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those that meet every condition that is set.

    Attributes:
        ids: these, by the beginnings of their ids.
        reason: their kind is this, or their reason has this in it (in any case).
        queue: they failed in it; a shell pattern such as ``sensors.*`` will do.
        routing_key: their routing key matches it, as in a binding (``sensors.#``).
        sensor: they are of it; a shell pattern will do.
        failed_before: epoch seconds.
        failed_after: epoch seconds.
    """

    ids: Collection[str] = ()
    reason: str = ""
    queue: str = ""
    routing_key: str = ""
    sensor: str = ""
    failed_before: float | None = None
    failed_after: float | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this one is meant. One whose time nobody noted may be of any age."""
        return (
            self._names(letter.id)
            and self._reads(letter)
            and (not self.queue or fnmatchcase(letter.queue or "", self.queue))
            and (not self.sensor or fnmatchcase(letter.sensor, self.sensor))
            and (
                not self.routing_key
                or topic_matches(self.routing_key, letter.routing_key)
            )
            and self._is_of_age(letter.failed_at)
        )

    def _names(self, letter_id: str) -> bool:
        if not self.ids:
            return True
        return letter_id in self.ids or letter_id.startswith(tuple(self.ids))

    def _reads(self, letter: DeadLetter) -> bool:
        text = self.reason.casefold()
        return letter.kind.casefold() == text or text in letter.reason.casefold()

    def _is_of_age(self, failed_at: float | None) -> bool:
        return failed_at is None or (
            (self.failed_before is None or failed_at < self.failed_before)
            and (self.failed_after is None or failed_at >= self.failed_after)
        )


@dataclass(slots=True)
class Group:
    """Dead letters of one queue that died of the same.

    Attributes:
        count: how many.
        replayed: how many of them had been replayed before.
        example: one of them; the last that was looked at.
        first_failed_at: epoch seconds, None if nobody noted it of any.
        last_failed_at: likewise.
    """

    count: int
    replayed: int
    example: DeadLetter
    first_failed_at: float | None
    last_failed_at: float | None


class Groups:
    """Dead letters, counted by reason and queue."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str | None, str, str], Group] = {}

    def add(self, letter: DeadLetter) -> None:
        """Count one."""
        key = letter.queue, letter.kind, general_reason(letter.reason)
        time = letter.failed_at
        replayed = int(letter.replays > 0)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = Group(1, replayed, letter, time, time)
            return
        group.count += 1
        group.replayed += replayed
        group.example = letter
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


def general_reason(reason: str) -> str:
    """A reason without what differs between reasons that say the same: quoted text,
    numbers and times."""
    return _DETAILS.sub("…", reason)


def way_back(letter: DeadLetter, topology: Topology) -> tuple[str, ...] | str:
    """The queues that a dead letter is given back to, or why it cannot be.

    Only queues that carry what is published to the mesh: a letter may say what it
    likes of where it came from, and commands take orders.

    Returns:
        The queue it failed in; of one that never was in a queue, those that its
        exchange and routing key lead to. Or a sentence.
    """
    ours = topology.domain_queues
    if letter.queue is not None:
        if letter.queue in ours:
            return (letter.queue,)
        if letter.queue in {queue.name for queue in topology.all_queues}:
            return f"{letter.queue} is no queue that anything is given back to"
        return f"topology.yaml has no queue {letter.queue}"
    exchange = letter.exchange
    known = {
        each.name for each in topology.all_exchanges
    } | PREDECLARED_EXCHANGES.keys()
    if exchange not in known:
        return f"nothing tells where it came from (exchange {exchange!r})"
    reached = queues_reached(topology, exchange, letter.routing_key)
    if queues := tuple(name for name in ours if name in reached):
        return queues
    return f"no binding of {exchange} matches its routing key in topology.yaml"
