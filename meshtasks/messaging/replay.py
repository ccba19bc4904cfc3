"""Give dead letters back to the queues they failed in.

A letter is removed only once the broker has confirmed its message in that queue. So
an interruption, of whatever kind, loses none; it may leave letters whose messages
were given back already, and they are given back once more by the next replay. The
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

from meshtasks.domain.deadletters import DeadLetter, Selection
from meshtasks.domain.errors import Unroutable
from meshtasks.messaging.browse import Sweep, sweep
from meshtasks.messaging.codec import Delivery
from meshtasks.messaging.letters import given_back, letter_of, route_back
from meshtasks.messaging.publisher import Publisher

#: Published together, at most; more would save little.
_BATCH = 200
#: A slow replay gives back what it holds after so long and begins again, well within
#: the broker's consumer timeout.
_SHIFT_SECONDS = 300.0

#: Why a letter cannot be given back, or None.
Obstacle = Callable[[DeadLetter], str | None]


@dataclass(slots=True)
class Replayed:
    """What became of a replay.

    Attributes:
        looked_at: letters that were looked at.
        given_back: confirmed in their queues, by the name of the queue (or of the
            exchange, for those that never were in one).
        kept: left where they are, by the reason.
    """

    looked_at: int = 0
    given_back: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)


class Replay:
    """One replay.

    Args:
        url: AMQP URL.
        queue: the dead-letter queue.
        selection: which letters. Those that this replay has given back already, and
            that have failed again meanwhile, are left.
        obstacle: tells what keeps a letter from being given back.
        rate: messages a second, at most; None for no limit.
        edited: by id, bodies to send instead of the letters' own.
        stopping: ends it, in good order, when it is set.
        on_progress: told after every batch.
    """

    def __init__(  # noqa: PLR0913 - all but the first three are optional
        self,
        url: str,
        queue: str,
        selection: Selection,
        *,
        obstacle: Obstacle = lambda _: None,
        rate: float | None = None,
        edited: Mapping[str, bytes] | None = None,
        stopping: threading.Event | None = None,
        on_progress: Callable[[Replayed, Sweep], None] = lambda *_: None,
    ) -> None:
        self.result = Replayed()
        #: When it began; the messages carry it.
        self.began = datetime.now(UTC).isoformat()
        self._url = url
        self._queue = queue
        self._selection = selection
        self._obstacle = obstacle
        self._rate = rate
        self._edited = edited or {}
        self._stopping = stopping or threading.Event()
        self._on_progress = on_progress
        self._batch = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 4)))
        self._next_at = 0.0
        #: Routes that were found to lead nowhere; they are not tried again.
        self._nowhere: set[tuple[str, str]] = set()

    def run(self) -> Replayed:
        """Do it.

        Raises:
            ConfigError: see :func:`~meshtasks.messaging.browse.sweep`.
            Transient: the broker went away, is short of memory or disk, or somebody
                else is looking at the queue. :attr:`result` tells how far it came.
        """
        with closing(Publisher(self._url)) as publisher:
            while not self._shift(publisher):
                pass
        return self.result

    def _shift(self, publisher: Publisher) -> bool:
        """Go through the queue, for as long as one may hold its messages; whether
        that was all of it."""
        ends_at = time.monotonic() + _SHIFT_SECONDS
        self.result.looked_at = self.result.given_back.total()
        self.result.kept = Counter()
        batch: list[tuple[Delivery, DeadLetter]] = []
        with sweep(self._url, self._queue, stopping=self._stopping) as held:
            for delivery, letter in self._selected(held):
                batch.append((delivery, letter))
                if len(batch) == self._batch:
                    self._give_back(publisher, held, batch)
                    batch = []
                    if time.monotonic() > ends_at:
                        return False
            self._give_back(publisher, held, batch)
        if held.missing:
            self.result.kept["somebody else has them at the moment"] += held.missing
        return True

    def _selected(self, held: Sweep) -> Iterator[tuple[Delivery, DeadLetter]]:
        for delivery in held:
            self.result.looked_at += 1
            letter = letter_of(delivery)
            if not self._selection.takes(letter):
                continue
            if letter.replayed_at == self.began:
                self.result.kept["failed again"] += 1
            elif (route := route_back(letter)) in self._nowhere:
                self.result.kept[no_queue(route)] += 1
            elif obstacle := self._obstacle(letter):
                self.result.kept[obstacle] += 1
            else:
                yield delivery, letter

    def _give_back(
        self,
        publisher: Publisher,
        held: Sweep,
        batch: list[tuple[Delivery, DeadLetter]],
    ) -> None:
        self._hold_the_rate(len(batch))
        if batch and not self._stopping.is_set():
            messages = [
                given_back(
                    delivery,
                    letter,
                    replayed_at=self.began,
                    body=self._edited.get(letter.id),
                )
                for delivery, letter in batch
            ]
            try:
                publisher.publish(messages)
            except Unroutable as error:  # all others are confirmed
                self._nowhere |= error.routes
            for delivery, letter in batch:
                if (route := route_back(letter)) in self._nowhere:
                    self.result.kept[no_queue(route)] += 1
                else:
                    held.remove([delivery.tag])
                    self.result.given_back[route[0] or route[1]] += 1
        self._on_progress(self.result, held)

    def _hold_the_rate(self, count: int) -> None:
        """Wait until so many more messages may be sent."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._stopping.wait(max(0.0, self._next_at - now))
        self._next_at = max(self._next_at, now) + count / self._rate


def no_queue(route: tuple[str, str]) -> str:
    """Why a letter is kept whose way back (exchange, routing key) leads nowhere."""
    exchange, key = route
    name = f"for {key} of exchange {exchange}" if exchange else key
    return f"the broker has no queue {name} (meshtasks topology apply)"
