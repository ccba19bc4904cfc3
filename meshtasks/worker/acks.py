"""Acknowledge runs of messages with one frame each.

Batches end out of order, so ``basic.ack(multiple=True)`` for the last tag of a
batch would acknowledge its unfinished neighbours. This keeps the resolved tags
and releases the contiguous run from the lowest open one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Ack(NamedTuple):
    """One ``basic.ack`` to send."""

    delivery_tag: int
    multiple: bool


class AckWatermark:
    """The resolved delivery tags of one channel.

    RabbitMQ numbers the deliveries of a channel 1, 2, 3, … without a gap.

    Args:
        max_waiting: resolved tags that may wait behind an open one; beyond it
            they are acknowledged one by one, so that a slow batch cannot hold
            up the prefetch window.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._acknowledged_up_to = 0
        self._waiting: set[int] = set()
        self._resolved_singly: set[int] = set()

    def resolve(self, tags: Iterable[int]) -> list[Ack]:
        """Note that these deliveries are done with; return the acks to send."""
        self._waiting.update(tags)
        acks = self._advance()
        if len(self._waiting) > self._max_waiting:
            alone = sorted(self._waiting)
            acks += [Ack(tag, multiple=False) for tag in alone]
            self._resolved_singly.update(alone)
            self._waiting.clear()
        return acks

    def skip(self, tag: int) -> None:
        """Note a delivery that was resolved otherwise (rejected): never acked."""
        self._resolved_singly.add(tag)

    def _advance(self) -> list[Ack]:
        mark = self._acknowledged_up_to
        last_to_send = mark
        while True:
            following = mark + 1
            if following in self._waiting:
                self._waiting.remove(following)
                last_to_send = following
            elif following in self._resolved_singly:
                self._resolved_singly.remove(following)
            else:
                break
            mark = following
        run_length_is_one = last_to_send == self._acknowledged_up_to + 1
        sends = last_to_send > self._acknowledged_up_to
        self._acknowledged_up_to = mark
        return [Ack(last_to_send, multiple=not run_length_is_one)] if sends else []
