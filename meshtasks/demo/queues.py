"""The queues of a demo over time: what has passed through them, and what waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshtasks.amqp.management import QueueActivity
from meshtasks.observation.collect import Collector
from meshtasks.observation.event_monitor import Seen

#: The broker takes its statistics every second: what is over for longer is over.
REST_SECONDS = 2.0
_POLL_SECONDS = 0.1
#: How long queues must stay empty to count as such: longer than a batch takes, and
#: than many that were fetched at once.
_EMPTY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class QueueCount:
    """What has passed through one queue; numbers of messages.

    Attributes:
        came_in: put there, what was there at the beginning included.
        acknowledged: by workers.
        retried: of those acknowledged, put back for later.
        dead: dead-lettered, whole or in part.
        dead_by_broker: of those, never acknowledged.
        left: still there.
    """

    queue: str
    came_in: int
    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    dead_by_broker: int = 0
    left: int = 0

    @property
    def done(self) -> int:
        """Acknowledged because nothing was left to do."""
        return self.acknowledged - self.retried - (self.dead - self.dead_by_broker)

    @property
    def difference(self) -> int:
        """Messages that nobody knows of; negative: too many."""
        return self.came_in - self.done - self.dead - self.left

    @property
    def is_over(self) -> bool:
        """All that came in has left."""
        return not self.left and not self.difference


class QueueCounters:
    """Counts from now on.

    Args:
        queues: which ones; nothing is on its way through them.
    """

    def __init__(self, collector: Collector, queues: Sequence[str]) -> None:
        self._collector = collector
        self._queues = queues
        self._before = collector.activity()
        self._seen_before = collector.seen()
        self._held = {name: depth.ready for name, depth in collector.depths().items()}

    def now(self) -> list[QueueCount]:
        """Up to now; what has passed in the last second or two may be missing.

        Raises:
            Transient, ConfigError: the broker does not answer.
        """
        activity, seen = self._collector.activity(), self._collector.seen()
        depths = self._collector.depths()
        return [
            self._flow(name, activity, seen, depths[name].ready)
            for name in self._queues
        ]

    def wait_over(
        self,
        queues: Sequence[str],
        published: Mapping[str, int],
        within_seconds: float,
        *,
        for_seconds: float = 0.0,
    ) -> None:
        """Wait until all that was published has come into these queues and left them,
        and has been so for a while; what has not by then is left.

        Args:
            queues: some of them.
            published: messages, by queue, as far as that is known.
            within_seconds: longest wait.
            for_seconds: how long it must have been so.

        Raises:
            Transient, ConfigError: the broker does not answer.
        """
        now = time.monotonic()
        deadline, last_open = now + within_seconds, now
        while now < deadline:
            flows = [flow for flow in self.now() if flow.queue in queues]
            now = time.monotonic()
            if not all(
                flow.is_over and flow.came_in >= published.get(flow.queue, 0)
                for flow in flows
            ):
                last_open = now
            elif now - last_open >= for_seconds:
                return
            time.sleep(_POLL_SECONDS)

    def _flow(
        self, name: str, activity: Mapping[str, QueueActivity], seen: Seen, left: int
    ) -> QueueCount:
        nothing = QueueActivity(name=name)
        now, before = activity.get(name, nothing), self._before.get(name, nothing)
        was = self._seen_before
        return QueueCount(
            name,
            now.messages_in - before.messages_in + self._held[name],
            now.messages_out - before.messages_out,
            _since(was.retried, seen.retried, name),
            _since(was.dead_messages, seen.dead_messages, name),
            _since(was.dead_by_broker, seen.dead_by_broker, name),
            left,
        )


def _since(before: Mapping[str, int], now: Mapping[str, int], name: str) -> int:
    return now.get(name, 0) - before.get(name, 0)


class Backlog:
    """Messages that nobody has fetched yet.

    Args:
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
