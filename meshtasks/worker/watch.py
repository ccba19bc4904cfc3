"""Watches progress, not liveness: a worker may look alive and consume nothing."""

from __future__ import annotations

from meshtasks.worker.queue_consumer import QueueConsumer

_QUIET_SECONDS = 10.0


class ProgressWatch:
    """Finds consumers that receive nothing although messages wait for them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._suspect: set[str] = set()

    def stalled(self, consumer: QueueConsumer, now: float) -> str:
        """Why a consumer counts as stalled; empty when it does not.

        A consumer that received nothing for ten seconds and holds nothing asks the
        broker for the length of its queue. Messages waiting there twice in a row
        mean that the broker does not know of our consumer.

        Args:
            now: monotonic seconds.
        """
        received, since = self._seen.get(consumer.queue, (-1, now))
        quiet = (
            consumer.is_consuming
            and not consumer.unresolved
            and consumer.received == received
        )
        if not quiet:
            self._seen[consumer.queue] = (consumer.received, now)
            self._suspect.discard(consumer.queue)
            return ""
        if now - since < _QUIET_SECONDS:
            return ""
        self._seen[consumer.queue] = (consumer.received, now)
        waiting = consumer.waiting_in_queue()
        if not waiting or consumer.received != received:
            self._suspect.discard(consumer.queue)
            return ""
        if consumer.queue not in self._suspect:
            self._suspect.add(consumer.queue)
            return ""
        self._suspect.discard(consumer.queue)
        return f"{waiting} messages wait in {consumer.queue} and none is delivered"
