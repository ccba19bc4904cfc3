"""Requeue dead letters in the queues they failed in, or drop them.

A dead letter is removed only once the broker has confirmed its message in that queue.
So an interruption, of whatever kind, loses none; it may leave dead letters whose
messages were requeued already, and the next replay requeues them once more. The
mesh's effects are idempotent, so that does no harm.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.amqp.dead_letters import (
    DeadLetter,
    dead_letter_of,
    replay_messages,
    requeue_targets,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.entities import PARTITIONS_PREFIX, queue_of
from meshtasks.amqp.failing_again import FailedAgain, hearing_failures
from meshtasks.amqp.peek import HeldMessages, peek
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.topology import Topology
from meshtasks.errors import Unroutable

#: Published together, at most; more would save little.
_BATCH = 200
#: A slow replay releases what it holds after so long and begins again, well within
#: the broker's consumer timeout.
_SHIFT_SECONDS = 300.0


class _Chosen(NamedTuple):
    """A dead letter, and the queues it is requeued in."""

    delivery: Delivery
    dead_letter: DeadLetter
    queues: tuple[str, ...]


@dataclass(slots=True)
class Replayed:
    """What became of a replay.

    Attributes:
        looked_at: dead letters that were read.
        requeued: confirmed in their queues, by the names of those.
        kept: left where they are, by the reason.
        failed_again: requeued, and dead letters again meanwhile, by why.
    """

    looked_at: int = 0
    requeued: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    failed_again: Counter[str] = field(default_factory=Counter)


#: Why a dead letter would fail again; None if nothing is found.
Refusal = Callable[[Delivery, DeadLetter], str | None]


class Replay:
    """One replay. What fails again meanwhile is noted, and a cause of which much does
    is left alone from then on.

    Args:
        selection: which dead letters. Those that this replay has requeued already, and
            that have failed again meanwhile, are left.
        topology: says which queues a dead letter goes to, and how.
        rate: messages a second, at most; None for no limit.
        edited: by id, bodies to send instead of their own.
        refusal: those that it has a reason for are kept.
        stopping: ends it, in good order, when it is set.
        on_progress: called after every batch.
    """

    def __init__(  # noqa: PLR0913 - all but the first four are optional
        self,
        url: str,
        queue: str,
        selection: Selection,
        topology: Topology,
        *,
        rate: float | None = None,
        edited: Mapping[str, bytes] | None = None,
        refusal: Refusal | None = None,
        stopping: threading.Event | None = None,
        on_progress: Callable[[Replayed, HeldMessages], None] = lambda *_: None,
    ) -> None:
        self.result = Replayed()
        #: When it began; the messages carry it.
        self.began = datetime.now(UTC).isoformat()
        self._url = url
        self._queue = queue
        self._selection = selection
        self._topology = topology
        self._rate = rate
        self._edited = edited or {}
        self._refusal = refusal
        self._stopping = stopping or threading.Event()
        self._on_progress = on_progress
        self._batch = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 4)))
        self._next_at = 0.0
        #: Queues that were found to be missing; they are not tried again.
        self._missing: set[str] = set()
        self._reached: set[str] = set()

    def run(self) -> Replayed:
        """Run it.

        Raises:
            ConfigError: see :func:`~meshtasks.amqp.peek.peek`.
            Transient: the broker went away, is short of memory or disk, or another
                process reads the queue. :attr:`result` has what was done so far.
        """
        with (
            closing(Publisher(self._url)) as publisher,
            hearing_failures(self._url, self._topology, self.began) as again,
        ):
            self.result.failed_again = again.reasons
            while not self._shift(publisher, again):
                pass
            if self._reached and not self._stopping.is_set():
                again.wait_for_all(self._reached)
        return self.result

    def _shift(self, publisher: Publisher, again: FailedAgain) -> bool:
        """Go through the queue, for as long as one may hold its messages; whether
        that was all of it."""
        ends_at = time.monotonic() + _SHIFT_SECONDS
        self.result.looked_at = self.result.requeued.total()
        self.result.kept = Counter()
        batch: list[_Chosen] = []
        with peek(self._url, self._queue, stopping=self._stopping) as held:
            for chosen in self._selected(held):
                letter = chosen.dead_letter
                if again.ends_trial(letter):
                    self._requeue(publisher, held, batch)
                    batch = []
                    again.wait_for_trial(letter, chosen.queues)
                if again.stops(letter):
                    self.result.kept["those of its cause fail again"] += 1
                    continue
                again.send(letter)
                batch.append(chosen)
                if len(batch) == self._batch:
                    self._requeue(publisher, held, batch)
                    again.glance()
                    batch = []
                    if time.monotonic() > ends_at:
                        return False
            self._requeue(publisher, held, batch)
        if held.missing:
            self.result.kept["another consumer has them at the moment"] += held.missing
        return True

    def _selected(self, held: HeldMessages) -> Iterator[_Chosen]:
        for delivery in held:
            self.result.looked_at += 1
            dead_letter = dead_letter_of(delivery)
            if not self._selection.matches(dead_letter):
                continue
            way = requeue_targets(dead_letter, self._topology)
            if dead_letter.replayed_at == self.began:
                self.result.kept["failed again"] += 1
            elif isinstance(way, str):
                self.result.kept[way] += 1
            elif missing := self._missing.intersection(way):
                self.result.kept[no_queue(min(missing))] += 1
            elif self._refusal and (why := self._refusal(delivery, dead_letter)):
                self.result.kept[why] += 1
            else:
                yield _Chosen(delivery, dead_letter, way)

    def _requeue(
        self, publisher: Publisher, held: HeldMessages, batch: list[_Chosen]
    ) -> None:
        self._hold_the_rate(len(batch))
        if batch and not self._stopping.is_set():
            messages = [
                message
                for delivery, dead_letter, queues in batch
                for message in replay_messages(
                    delivery,
                    dead_letter,
                    queues,
                    replayed_at=self.began,
                    body=self._edited.get(dead_letter.id),
                    way_to=self._topology.way_to,
                )
            ]
            try:
                publisher.publish(messages)
            except Unroutable as error:  # all others are confirmed
                self._missing |= {
                    exchange.removeprefix(PARTITIONS_PREFIX) or queue
                    for exchange, queue in error.routes
                }
            for delivery, _, queues in batch:
                if missing := self._missing.intersection(queues):
                    self.result.kept[no_queue(min(missing))] += 1
                else:
                    held.remove([delivery.tag])
                    self.result.requeued[", ".join(queues)] += 1
                    self._reached.update(queues)
        self._on_progress(self.result, held)

    def _hold_the_rate(self, count: int) -> None:
        """Wait until so many more messages may be sent."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._stopping.wait(max(0.0, self._next_at - now))
        self._next_at = max(self._next_at, now) + count / self._rate


class ReplayPlan:
    """What a replay would do now, found by looking at the dead letters.

    Args:
        refusal: as of :class:`Replay`.
    """

    def __init__(
        self,
        selection: Selection,
        topology: Topology,
        refusal: Refusal | None = None,
    ) -> None:
        self._selection = selection
        self._topology = topology
        self._refusal = refusal
        self._looked_at = 0
        self._kept = Counter[str]()
        self._routes = Counter[tuple[str, ...]]()

    def add(self, delivery: Delivery, dead_letter: DeadLetter) -> None:
        """Look at one."""
        self._looked_at += 1
        if not self._selection.matches(dead_letter):
            return
        targets = requeue_targets(dead_letter, self._topology)
        if isinstance(targets, str):
            self._kept[targets] += 1
        elif self._refusal and (why := self._refusal(delivery, dead_letter)):
            self._kept[why] += 1
        else:
            self._routes[targets] += 1

    def result(self, url: str) -> Replayed:
        """What would become of those that were looked at; the broker is asked which
        queues it has.

        Raises:
            ConfigError: it refuses the account.
            Transient: it cannot be reached.
        """
        result = Replayed(self._looked_at, kept=self._kept.copy())
        queues = {queue for targets in self._routes for queue in targets}
        names = (name for queue in queues for name in self._topology.names_of(queue))
        missing = set(map(queue_of, missing_queues(url, names)))
        for targets, count in self._routes.items():
            if absent := missing.intersection(targets):
                result.kept[no_queue(min(absent))] += count
            else:
                result.requeued[", ".join(targets)] += count
        return result


def drop(
    url: str,
    queue: str,
    is_chosen: Callable[[DeadLetter], bool],
    stopping: threading.Event,
) -> int:
    """Delete dead letters for good; how many.

    Args:
        is_chosen: whether this one is to go.
        stopping: ends it, in good order, when it is set.

    Raises what :func:`~meshtasks.amqp.peek.peek` does.
    """
    dropped = 0
    with peek(url, queue, stopping=stopping) as held:
        for delivery in held:
            if is_chosen(dead_letter_of(delivery)):
                held.remove([delivery.tag])
                dropped += 1
    return dropped


def no_queue(name: str) -> str:
    """Why a dead letter is kept whose queue is missing."""
    return f"the broker has no queue {name} (meshtasks topology apply)"
