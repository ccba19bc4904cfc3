"""Counts messages of a running replay that become dead letters again.

If the cause still exists, all replayed messages would fail again. So a few messages of
each cause are requeued first. The others of that cause follow only if the first ones do
not fail again within a moment.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

import kombu
from amqp.exceptions import ChannelError

from meshtasks.amqp.connecting import Depth, connected, depths_of
from meshtasks.amqp.dead_letter_groups import Cause, general_reason
from meshtasks.amqp.dead_letters import (
    DEAD_LETTER_ROUTING_KEY,
    REMEMBERED_CHARS,
    DeadLetter,
    dead_letter_of,
    history_of,
)
from meshtasks.amqp.delivery import delivery_of
from meshtasks.amqp.peek import Tap, tapped
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE, Topology

#: Number of messages of a cause that are requeued first, and the wait for their
#: results. A queue with a backlog may take longer.
_TRIAL, _TRIAL_SECONDS = 20, 1.0
#: A replay stops requeuing a cause if at least this number and this share fail again.
_STOPPING, _STOPPING_SHARE = 10, 0.25
#: Wait after the last message: until its queue is empty, this long at most, and then
#: this much longer.
_LONGEST_SECONDS, _AFTER_SECONDS = 3.0, 0.5
_POLL_SECONDS, _GLANCE_SECONDS = 0.1, 0.001


class FailedAgain:
    """Counts messages of a running replay that become dead letters again.

    Args:
        tap: copies of new dead letters; None if the account may not read them. Then
            nothing is counted.
        connection: used to ask for the depths of queues.
        began: start of the replay, as in the header of its messages.

    Attributes:
        reasons: number of messages that failed again, by reason.
    """

    def __init__(
        self,
        tap: Tap | None,
        connection: kombu.Connection,
        topology: Topology,
        began: str,
    ) -> None:
        self.reasons: Counter[str] = Counter()
        self._tap = tap
        self._connection = connection
        self._topology = topology
        self._began = began
        self._sent: Counter[Cause] = Counter()
        self._failed: Counter[Cause] = Counter()

    def send(self, dead_letter: DeadLetter) -> None:
        """Count a dead letter that will be requeued."""
        self._sent[_cause(dead_letter.kind, dead_letter.reason)] += 1

    def ends_trial(self, dead_letter: DeadLetter) -> bool:
        """Whether all first messages of its cause are sent, so that the replay must
        wait for their results."""
        return self._sent[_cause(dead_letter.kind, dead_letter.reason)] == _TRIAL

    def stops(self, dead_letter: DeadLetter) -> bool:
        """Whether so many messages of its cause fail again that it must be kept."""
        cause = _cause(dead_letter.kind, dead_letter.reason)
        failed, sent = self._failed[cause], self._sent[cause]
        return failed >= _STOPPING and failed >= sent * _STOPPING_SHARE

    def glance(self) -> None:
        """Count the failures that have arrived, without waiting."""
        while self._note(_GLANCE_SECONDS):
            pass

    def wait_for_trial(self, dead_letter: DeadLetter, queues: Collection[str]) -> None:
        """Wait for the results of the first messages of a cause, if these queues have
        consumers."""
        deadline = time.monotonic() + _TRIAL_SECONDS
        while (
            self._is_consumed(queues)
            and not self.stops(dead_letter)
            and time.monotonic() < deadline
        ):
            self._note(_POLL_SECONDS)

    def wait_for_all(self, queues: Collection[str]) -> None:
        """Wait for the results of the last messages in these queues, at most
        :data:`_LONGEST_SECONDS`."""
        ends_at = time.monotonic() + _LONGEST_SECONDS
        empty_at: float | None = None
        sent = self._sent.total()
        while (now := time.monotonic()) < ends_at and self.reasons.total() < sent:
            if not self._is_consumed(queues):
                break
            if empty_at is None and not sum(ready for ready, _ in self._asked(queues)):
                empty_at = now
            if empty_at is not None and now > empty_at + _AFTER_SECONDS:
                break
            self._note(_POLL_SECONDS)
        self.glance()

    def _note(self, within_seconds: float) -> bool:
        """Wait for the next new dead letter, and count it if it is of this replay.
        Return whether there was one."""
        copy = self._tap.next(within_seconds) if self._tap else None
        if copy is None:
            return False
        delivery = delivery_of(copy, time.time())
        dead_letter = dead_letter_of(delivery)
        history = history_of(delivery)
        if dead_letter.replayed_at == self._began and history:
            kind, reason = (str(history[-1].get(name)) for name in ("kind", "reason"))
            self._failed[_cause(kind, reason)] += 1
            why = general_reason(dead_letter.reason)
            self.reasons[f"{dead_letter.kind}: {why}"] += 1
        return True

    def _is_consumed(self, queues: Collection[str]) -> bool:
        return self._tap is not None and any(
            consumers for _, consumers in self._asked(queues)
        )

    def _asked(self, queues: Collection[str]) -> Collection[Depth]:
        """Depths of those of the queues that exist."""
        names = (name for queue in queues for name in self._topology.names_of(queue))
        return depths_of(self._connection, names).values()


@contextmanager
def failures_watched(url: str, topology: Topology, began: str) -> Iterator[FailedAgain]:
    """Count messages that fail again, until the end of the block.

    Raises:
        ConfigError: the broker refuses the account.
        Transient: the broker is unreachable.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(connected(url))
        tap: Tap | None = None
        with suppress(ChannelError):  # the account may replay, but not read the tap
            tap = stack.enter_context(
                tapped(url, topology, DEAD_LETTER_ROUTING_KEY, [DEAD_LETTER_EXCHANGE])
            )
        yield FailedAgain(tap, connection, topology, began)


def _cause(kind: str, reason: str) -> Cause:
    """The cause, from as many characters of the reason as a message's history has."""
    return Cause(kind, general_reason(reason[:REMEMBERED_CHARS]))
