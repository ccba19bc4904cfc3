"""Requeues dead letters in the queues in which they failed, or deletes them.

A dead letter is removed only after the broker has confirmed its message in that queue.
So an interruption loses no message. It may leave dead letters whose messages were
already requeued, and the next replay requeues them again; that is harmless, because
effects are idempotent.

A cause of which many messages fail again is no longer requeued
(:mod:`meshtasks.amqp.failed_again`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

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
from meshtasks.amqp.failed_again import FailedAgain, failures_watched
from meshtasks.amqp.peek import HeldMessages, peek
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.topology import Topology
from meshtasks.errors import Unroutable

#: Most messages published together; more would save little.
_BATCH = 200
#: After this time a replay releases the messages it holds and begins again, so that the
#: broker's consumer timeout is not reached.
_SHIFT_SECONDS = 300.0

#: A message, its dead letter, and the queues in which it is requeued.
_Chosen = tuple[Delivery, DeadLetter, tuple[str, ...]]


@dataclass(slots=True)
class Replayed:
    """Result of a replay.

    Attributes:
        looked_at: number of dead letters read.
        requeued: number of those confirmed in their queues, by names of the queues.
        kept: number of those left in the dead-letter queue, by reason.
        failed_again: number of those that were requeued and failed again during the
            replay, by reason.
    """

    looked_at: int = 0
    requeued: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    failed_again: Counter[str] = field(default_factory=Counter)


#: Gives the reason why a dead letter would fail again; None if it finds none.
Refusal = Callable[[Delivery, DeadLetter], str | None]


def _targets(
    delivery: Delivery,
    dead_letter: DeadLetter,
    topology: Topology,
    refusal: Refusal | None,
) -> tuple[str, ...] | str:
    """The queues in which to requeue a dead letter, or the reason to keep it."""
    targets = requeue_targets(dead_letter, topology)
    if refusal is None or isinstance(targets, str):
        return targets
    return refusal(delivery, dead_letter) or targets


class Replay:
    """One replay. It counts messages that fail again, and stops requeuing a cause of
    which many do.

    Args:
        queue: name of the dead-letter queue.
        selection: dead letters to replay. Those that this replay has requeued and that
            failed again are skipped.
        topology: gives the queues of a dead letter, and how to reach them.
        rate: most messages per second; None for no limit.
        edited: corrected bodies by id of the dead letter.
        refusal: dead letters for which it gives a reason are kept.
        stopping: ends the replay when it is set, without interrupting a batch.
        on_progress: called after every batch.

    Attributes:
        result: the result so far.
        began: start of the replay, RFC 3339; its messages carry it in a header.
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
        # Queues that the broker does not have; they are not tried again.
        self._missing: set[str] = set()
        self._reached: set[str] = set()

    def run(self) -> Replayed:
        """Replay, and return the result.

        Raises:
            ConfigError: see :func:`~meshtasks.amqp.peek.peek`.
            Transient: the broker is unavailable, or short of memory or disk, or another
                process is reading the queue. :attr:`result` has the result so far.
        """
        with (
            closing(Publisher(self._url)) as publisher,
            failures_watched(self._url, self._topology, self.began) as again,
        ):
            self.result.failed_again = again.reasons
            while not self._shift(publisher, again):
                pass
            if self._reached and not self._stopping.is_set():
                again.wait_for_all(self._reached)
        return self.result

    def _shift(self, publisher: Publisher, again: FailedAgain) -> bool:
        """Go through the queue, for :data:`_SHIFT_SECONDS` at most. Return whether the
        end of the queue was reached."""
        ends_at = time.monotonic() + _SHIFT_SECONDS
        self.result.looked_at = self.result.requeued.total()
        self.result.kept = Counter()
        batch: list[_Chosen] = []
        with peek(self._url, self._queue, stopping=self._stopping) as held:
            for chosen in self._selected(held):
                _, dead_letter, queues = chosen
                if again.ends_trial(dead_letter):
                    self._requeue(publisher, held, batch)
                    again.wait_for_trial(dead_letter, queues)
                if again.stops(dead_letter):
                    self.result.kept["those of its cause fail again"] += 1
                    continue
                again.send(dead_letter)
                batch.append(chosen)
                if len(batch) == self._batch:
                    self._requeue(publisher, held, batch)
                    again.glance()
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
            targets = self._targets(delivery, dead_letter)
            if isinstance(targets, str):
                self.result.kept[targets] += 1
            else:
                yield delivery, dead_letter, targets

    def _targets(
        self, delivery: Delivery, dead_letter: DeadLetter
    ) -> tuple[str, ...] | str:
        if dead_letter.replayed_at == self.began:
            return "failed again"
        targets = _targets(delivery, dead_letter, self._topology, self._refusal)
        if isinstance(targets, str):
            return targets
        missing = self._missing.intersection(targets)
        return no_queue(min(missing)) if missing else targets

    def _requeue(
        self, publisher: Publisher, held: HeldMessages, batch: list[_Chosen]
    ) -> None:
        """Requeue the messages of a batch, and empty it."""
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
        batch.clear()
        self._on_progress(self.result, held)

    def _hold_the_rate(self, count: int) -> None:
        """Wait until the rate permits ``count`` more messages."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._stopping.wait(max(0.0, self._next_at - now))
        self._next_at = max(self._next_at, now) + count / self._rate


class ReplayPlan:
    """Determines what a replay would do now, without requeuing anything.

    Args:
        selection: dead letters to replay.
        topology: gives the queues of a dead letter.
        refusal: dead letters for which it gives a reason are kept.
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
        """Add a dead letter to the plan."""
        self._looked_at += 1
        if not self._selection.matches(dead_letter):
            return
        targets = _targets(delivery, dead_letter, self._topology, self._refusal)
        if isinstance(targets, str):
            self._kept[targets] += 1
        else:
            self._routes[targets] += 1

    def result(self, url: str) -> Replayed:
        """The result that a replay of the added dead letters would have. Asks the
        broker which queues exist.

        Raises:
            ConfigError: the broker refuses the account.
            Transient: the broker is unreachable.
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
    """Delete dead letters permanently; return their number.

    Args:
        queue: name of the dead-letter queue.
        is_chosen: whether to delete a dead letter.
        stopping: ends the deletion after the current dead letter when it is set.

    Raises the same as :func:`~meshtasks.amqp.peek.peek`.
    """
    dropped = 0
    with peek(url, queue, stopping=stopping) as held:
        for delivery in held:
            if is_chosen(dead_letter_of(delivery)):
                held.remove([delivery.tag])
                dropped += 1
    return dropped


def no_queue(name: str) -> str:
    """The reason to keep a dead letter whose queue is missing."""
    return f"the broker has no queue {name} (meshtasks topology apply)"
