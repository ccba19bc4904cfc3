"""Watches progress, not liveness: a worker may look alive and consume nothing."""

from __future__ import annotations

from meshtasks.worker.queue_consumer import Lane

_QUIET_SECONDS = 10.0


class ProgressWatch:
    """Finds lanes that receive nothing although messages wait for them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._suspect: set[str] = set()

    def stalled(self, lane: Lane, now: float) -> str:
        """Why a lane counts as stalled; empty when it does not.

        A lane that received nothing for ten seconds and holds nothing asks the
        broker for the length of its queue. Messages waiting there twice in a row
        mean that the broker does not know of our consumer.

        Args:
            now: monotonic seconds.
        """
        received, since = self._seen.get(lane.queue, (-1, now))
        quiet = lane.is_consuming and not lane.unsettled and lane.received == received
        if not quiet:
            self._seen[lane.queue] = (lane.received, now)
            self._suspect.discard(lane.queue)
            return ""
        if now - since < _QUIET_SECONDS:
            return ""
        self._seen[lane.queue] = (lane.received, now)
        waiting = lane.waiting_in_queue()
        if not waiting or lane.received != received:
            self._suspect.discard(lane.queue)
            return ""
        if lane.queue not in self._suspect:
            self._suspect.add(lane.queue)
            return ""
        self._suspect.discard(lane.queue)
        return f"{waiting} messages wait in {lane.queue} and none is delivered"
