"""The house's messages at the pace of a clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshtasks.amqp.publisher import Outgoing
from producers.base import Producer
from producers.simulator.badmessages import LABEL_HEADER
from producers.simulator.house import House, SimulatedMessage

#: How long anything here waits without looking at what else there is to do.
_LONGEST_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, and when it ends.

    Attributes:
        rate_per_second: messages per second.
        for_seconds: length of the run; None for no end.
        count: messages; None for no end.
        until_present: end when the house's clock reaches the real one.
    """

    rate_per_second: float
    for_seconds: float | None = None
    count: int | None = None
    until_present: bool = False


class Feed:
    """Submits a house's messages until the pace's end or a stop.

    Args:
        each_moment: called at least about four times a second meanwhile.
    """

    def __init__(
        self,
        house: House,
        producer: Producer,
        pace: Pace,
        stop: threading.Event,
        each_moment: Callable[[], None],
    ) -> None:
        self._house = house
        self._producer = producer
        self._pace = pace
        self._stop = stop
        self._each_moment = each_moment

    def __call__(self) -> None:
        """Run to the end."""
        began = time.monotonic()
        for number, message in enumerate(self._house.messages()):
            due_seconds = number / self._pace.rate_per_second
            spent_seconds = max(due_seconds, time.monotonic() - began)
            if self._is_over(number, spent_seconds, message.timestamp):
                return
            body = message.body
            if not self._wait_until(began + due_seconds):
                return
            if not self._wait_for_room(len(body)):
                return
            self._submit(message, body)

    def _is_over(self, number: int, spent_seconds: float, timestamp: float) -> bool:
        pace = self._pace
        return (
            number == pace.count
            or (pace.for_seconds is not None and spent_seconds >= pace.for_seconds)
            or (pace.until_present and timestamp > time.time())
        )

    def _wait_until(self, moment: float) -> bool:
        """Wait for a moment of the monotonic clock; false to stop instead."""
        while (remaining := moment - time.monotonic()) > 0:
            self._stop.wait(min(remaining, _LONGEST_WAIT_SECONDS))
            if self._stop.is_set():
                return False
            self._each_moment()
        self._each_moment()
        return not self._stop.is_set()

    def _wait_for_room(self, size_bytes: int) -> bool:
        """Wait while the broker is slow; false to stop instead.

        A house could not wait, but its books would not balance if it dropped
        anything.
        """
        while not self._producer.wait_for_room(size_bytes, _LONGEST_WAIT_SECONDS):
            if self._stop.is_set():
                return False
            self._each_moment()
        return True

    def _submit(self, message: SimulatedMessage, body: bytes) -> None:
        route = message.exchange, message.routing_key
        if len(message.records) == 1:
            (record,) = message.records
            self._producer.submit(*route, record, timestamp=message.timestamp)
            return
        outgoing = Outgoing(
            *route,
            body,
            timestamp=message.timestamp,
            headers={LABEL_HEADER: message.bad.value} if message.bad else None,
        )
        self._producer.submit_message(outgoing, records=message.record_count)
