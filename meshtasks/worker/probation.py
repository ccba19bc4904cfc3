"""How queues are consumed after the broker itself has failed over a message.

MQTT has topics of up to 65,535 bytes, AMQP routing keys of 255: RabbitMQ stores what
it cannot deliver, and ends the consumer's connection with ``541 INTERNAL_ERROR`` each
time it tries, until the queue's delivery limit takes the message away. All that it had
delivered by then counts one delivery more, so that 20 such ends would take thousands
of good messages along. So queues are then consumed one after the other, first a message
at a time: what is behind the bad one has not been delivered when it fails.
"""

from __future__ import annotations

from collections.abc import Iterable

#: Unacknowledged messages that a queue on probation may have, step by step.
_WINDOWS = (1, 32, 1_024)


class Probation:
    """The queues that are on probation; at first none.

    Pure: the caller says when the broker failed and when time has passed.
    """

    def __init__(self) -> None:
        self._suspects: list[str] = []
        self._step = 0

    @property
    def is_active(self) -> bool:
        """Whether queues are on probation."""
        return bool(self._suspects)

    def suspect(self, queues: Iterable[str]) -> None:
        """The broker failed while it delivered from these queues: one of them it is,
        or the one that was on probation alone."""
        self._suspects = self._suspects[:1] or list(queues)
        self._step = 0

    def restart(self) -> None:
        """A new connection: begin anew with the queue that is on probation."""
        self._step = 0

    def step(self) -> None:
        """The queue on probation has been consumed for a while."""
        self._step += 1
        if self._step == len(_WINDOWS):
            self._suspects = self._suspects[1:]
            self._step = 0

    def window(self, queue: str) -> int | None:
        """Unacknowledged messages that a queue may have: None for the usual number, 0
        for a queue that is not to be consumed yet."""
        if not self._suspects:
            return None
        return _WINDOWS[self._step] if queue == self._suspects[0] else 0
