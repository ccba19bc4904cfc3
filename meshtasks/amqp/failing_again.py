"""Hears, while a replay goes on, which of its messages become dead letters again.

A fault that is still there would make as many dead letters again as are replayed. So
a replay requeues a few of each cause first, waits a moment for them, and goes on with
that cause only if they are not dead again.
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
    REASON_LIMIT_CHARS,
    DeadLetter,
    dead_letter_of,
    history_of,
)
from meshtasks.amqp.delivery import delivery_of
from meshtasks.amqp.failed import DEAD_LETTER_ROUTING_KEY
from meshtasks.amqp.tap import Tap, tapped
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE, Topology

#: So many of a cause go first, and that long they are waited for; a queue with a
#: backlog takes longer to show what becomes of them.
_TRIAL, _TRIAL_SECONDS = 20, 1.0
#: A cause is left alone when so many of it, and this share, are dead again.
_STOPPING, _STOPPING_SHARE = 10, 0.25
#: After the last message: while its queue is not empty, and so long after that.
_LONGEST_SECONDS, _AFTER_SECONDS = 3.0, 0.5
_POLL_SECONDS, _GLANCE_SECONDS = 0.1, 0.001


class FailedAgain:
    """What became dead again.

    Args:
        tap: copies of what is dead-lettered; None if the account may not have them, and
            nothing is known then.
        connection: on which queues are asked for.
        began: when the replay began, as its messages carry it.

    Attributes:
        reasons: how many died again, by why.
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
        """Count one that is about to be requeued."""
        self._sent[_cause(dead_letter.kind, dead_letter.reason)] += 1

    def ends_trial(self, dead_letter: DeadLetter) -> bool:
        """Whether those of its cause that went first must be waited for."""
        return self._sent[_cause(dead_letter.kind, dead_letter.reason)] == _TRIAL

    def stops(self, dead_letter: DeadLetter) -> bool:
        """Whether those of its cause fail again, so that it is left."""
        cause = _cause(dead_letter.kind, dead_letter.reason)
        failed, sent = self._failed[cause], self._sent[cause]
        return failed >= _STOPPING and failed >= sent * _STOPPING_SHARE

    def glance(self) -> None:
        """Note what is known already."""
        while self._note(_GLANCE_SECONDS):
            pass

    def wait_for_trial(self, dead_letter: DeadLetter, queues: Collection[str]) -> None:
        """Wait for those that went first, if somebody consumes these queues."""
        deadline = time.monotonic() + _TRIAL_SECONDS
        while (
            self._is_consumed(queues)
            and not self.stops(dead_letter)
            and time.monotonic() < deadline
        ):
            self._note(_POLL_SECONDS)

    def wait_for_all(self, queues: Collection[str]) -> None:
        """Wait for the last that were requeued in these queues; not for long."""
        ends_at = time.monotonic() + _LONGEST_SECONDS
        empty_at: float | None = None
        sent = self._sent.total()
        while (now := time.monotonic()) < ends_at and self.reasons.total() < sent:
            if not self._is_consumed(queues):
                break
            if empty_at is None and not self._waiting(queues):
                empty_at = now
            if empty_at is not None and now > empty_at + _AFTER_SECONDS:
                break
            self._note(_POLL_SECONDS)
        self.glance()

    def _note(self, within_seconds: float) -> bool:
        """Note the next one; whether there was one."""
        copy = self._tap.next(within_seconds) if self._tap else None
        if copy is None:
            return False
        delivery = delivery_of(copy, time.time())
        letter = dead_letter_of(delivery)
        history = history_of(delivery)
        if letter.replayed_at == self._began and history:
            kind, reason = (str(history[-1].get(name)) for name in ("kind", "reason"))
            self._failed[_cause(kind, reason)] += 1
            self.reasons[f"{letter.kind}: {general_reason(letter.reason)}"] += 1
        return True

    def _is_consumed(self, queues: Collection[str]) -> bool:
        return self._tap is not None and any(
            consumers for _, consumers in self._asked(queues)
        )

    def _waiting(self, queues: Collection[str]) -> int:
        return sum(ready for ready, _ in self._asked(queues))

    def _asked(self, queues: Collection[str]) -> Collection[Depth]:
        """Of each queue there is."""
        names = (name for queue in queues for name in self._topology.names_of(queue))
        return depths_of(self._connection, names).values()


@contextmanager
def hearing_failures(url: str, topology: Topology, began: str) -> Iterator[FailedAgain]:
    """Listen until the end of the block.

    Raises:
        ConfigError: the broker refuses the account.
        Transient: it cannot be reached.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(connected(url))
        tap: Tap | None = None
        with suppress(ChannelError):  # an account that may replay, and not listen
            tap = stack.enter_context(
                tapped(url, topology, DEAD_LETTER_ROUTING_KEY, [DEAD_LETTER_EXCHANGE])
            )
        yield FailedAgain(tap, connection, topology, began)


def _cause(kind: str, reason: str) -> Cause:
    """The cause, by as much of the reason as a message remembers."""
    return Cause(kind, general_reason(reason[:REASON_LIMIT_CHARS]))
