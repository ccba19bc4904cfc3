"""Reads what has arrived from the broker in bursts.

kombu's reader takes one message per turn of the event loop. Measured side by side
with a bare py-amqp consumer that only acknowledges, the worker without rules and
archive (docs/benchmarks.md) reached 0.64 of its rate so, and 0.87 with bursts and
reading ahead (medians of two and of four rounds).
"""

from __future__ import annotations

from typing import Any

import amqp

from meshtasks.amqp.receiving import Connection
from meshtasks.worker.loop import Loop

#: Messages per burst: a bound, so that results of the pool and timers are not kept
#: waiting for more than a millisecond.
_BURST = 100


class BurstReader:
    """Takes kombu's place as reader of a connection.

    Args:
        connection: the connection beneath kombu's.
        hub: where kombu's reader is registered.
        loop: the same event loop.
    """

    def __init__(self, connection: Connection, hub: Any, loop: Loop) -> None:
        self._connection = connection
        self._loop = loop
        hub.remove_reader(connection.sock)
        hub.add_reader(connection.sock, self.read)
        loop.soon(self.read)

    def read(self) -> None:
        """Dispatch the frames that are there, a burst at the most.

        Raises:
            amqp.RecoverableConnectionError: the connection is gone.
        """
        connection = self._connection
        if not connection.connected:
            reason = "the socket was disconnected"
            raise amqp.RecoverableConnectionError(reason)
        if connection.read_arrived(_BURST):
            # what was read ahead does not make the socket readable again
            self._loop.soon(self.read)
