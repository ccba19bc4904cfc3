"""What waits in the queues of a demo at this moment."""

from __future__ import annotations

import time
from collections.abc import Sequence

from meshtasks.demo.view.collect import Collector

_POLL_SECONDS = 0.1
#: How long queues must stay empty to count as such: longer than a batch takes, and
#: than many that were fetched at once.
_EMPTY_SECONDS = 1.0


class Backlog:
    """Messages that nobody has fetched yet.

    Args:
        collector: asks the broker.
        queues: those that workers empty.
        retry_queues: where messages wait on their way back there.
    """

    def __init__(
        self, collector: Collector, queues: Sequence[str], retry_queues: Sequence[str]
    ) -> None:
        self._collector = collector
        self._queues = queues
        self._retry_queues = retry_queues

    def are_consumed(self, queues: Sequence[str]) -> bool:
        """Whether each of these queues has a consumer.

        Raises:
            Transient, ConfigError: the broker does not answer; so do the others.
        """
        depths = self._collector.depths()
        return all(depths[queue].consumers for queue in queues)

    def waiting(self) -> dict[str, int]:
        """Messages by queue, where there are any."""
        return self._ready([*self._queues, *self._retry_queues])

    def to_be_retried(self) -> dict[str, int]:
        """Messages by retry queue, where there are any."""
        return self._ready(self._retry_queues)

    def wait_empty(
        self, within_seconds: float, *, for_seconds: float = _EMPTY_SECONDS
    ) -> None:
        """Wait until nothing has waited for a while; what still does then is left."""
        now = time.monotonic()
        deadline, last_seen = now + within_seconds, now
        while now < deadline and now - last_seen < for_seconds:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if self.waiting():
                last_seen = now

    def _ready(self, names: Sequence[str]) -> dict[str, int]:
        depths = self._collector.depths()
        return {name: ready for name in names if (ready := depths[name].ready)}
