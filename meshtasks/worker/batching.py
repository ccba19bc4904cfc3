"""Gather deliveries of one queue into batches bounded by count, bytes and age."""

from __future__ import annotations

from typing import NamedTuple

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery, count_in
from meshtasks.amqp.queues import BatchLimits

#: Deliveries after which the broker's count makes a message suspect.
_SUSPECT_DELIVERIES = 2


#: No batch has so many messages that this many failed attempts do not make it one.
_LARGEST_LEVEL = 9


class ShrinkLevel(NamedTuple):
    """How carefully a message is batched: 0 with everything, then in batches
    ten times smaller for every failed attempt, at last alone.

    A message that fails its batch again and again is thus separated from its
    neighbours before its retries are used up.
    """

    level: int
    single: bool


def shrink_level_of(delivery: Delivery) -> ShrinkLevel:
    """The level of a delivery."""
    table = delivery.headers
    if not table:
        return ShrinkLevel(0, single=False)
    # of a message that was not delivered before, it is the sender's
    deliveries = count_in(table, "x-delivery-count") if delivery.redelivered else 0
    if deliveries >= _SUSPECT_DELIVERIES or table.get(headers.SINGLE):
        return ShrinkLevel(_LARGEST_LEVEL, single=True)
    return ShrinkLevel(min(delivery.attempt, _LARGEST_LEVEL), single=False)


class Buffer:
    """The open batch of one queue and level.

    Attributes:
        count_limit: messages that make it full.
        due: its oldest message has reached the age limit.
        opened_at: when its first message was received, epoch seconds.
    """

    __slots__ = ("_bytes", "_deliveries", "_limits", "count_limit", "due", "opened_at")

    def __init__(self, limits: BatchLimits, level: ShrinkLevel) -> None:
        self._limits = limits
        self.count_limit = (
            1 if level.single else max(1, limits.count // 10**level.level)
        )
        self._deliveries: list[Delivery] = []
        self._bytes = 0
        self.due = False
        self.opened_at = 0.0

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, delivery: Delivery) -> bool:
        """Add one; true when the batch is full and must be taken."""
        if not self._deliveries:
            self.opened_at = delivery.received_at
        self._deliveries.append(delivery)
        self._bytes += len(delivery.body)
        return (
            len(self._deliveries) >= self.count_limit
            or self._bytes >= self._limits.bytes
        )

    def take(self) -> list[Delivery]:
        """The batch; the buffer starts anew."""
        deliveries, self._deliveries = self._deliveries, []
        self._bytes = 0
        self.due = False
        return deliveries


class LeadingEdge:
    """How long a queue's batches gather messages.

    A message that meets an idle queue goes at once; only what comes within the age
    limit after a batch has started goes together. So a sparse message does not wait,
    and a stream is batched as if each batch waited.

    Args:
        age_seconds: the age limit.
        always: every batch gathers for so long after its first message.
    """

    def __init__(self, age_seconds: float, *, always: bool = False) -> None:
        self._age_seconds = age_seconds
        self._always = always
        self._running = 0
        self._started_at = float("-inf")

    def started(self, now: float) -> None:
        """A batch has started, monotonic seconds."""
        self._running += 1
        self._started_at = now

    def ended(self) -> None:
        """A batch has ended."""
        self._running -= 1

    def wait_seconds(self, now: float) -> float:
        """How long a batch that is opened now gathers, unless it is full before.

        While the batch before it runs beyond the age limit, that is the limit again; it
        ends when that one does.
        """
        if self._always:
            return self._age_seconds
        left_seconds = self._started_at + self._age_seconds - now
        if left_seconds > 0:
            return left_seconds
        return self._age_seconds if self._running else 0.0
