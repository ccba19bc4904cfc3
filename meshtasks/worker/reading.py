"""Reads what has arrived from the broker in bursts.

kombu's reader takes one message per turn of the event loop, and py-amqp sets the
socket's timeout twice, and asks the socket three times, for each of a message's three
frames. Measured side by side with a bare py-amqp consumer that only acknowledges, the
worker without rules and archive (docs/benchmarks.md) reached 0.64 of its rate so, and
0.87 with bursts and reading ahead (medians of two and of four rounds).
"""

from __future__ import annotations

from typing import Any

import amqp
from amqp.transport import TCPTransport

#: Frames per burst (a message has three): a bound, so that results of the pool and
#: timers are not kept waiting for more than a few milliseconds.
_BURST = 150
_READ_AHEAD_BYTES = 16_384


class BurstReader:
    """Takes kombu's place as reader of a connection.

    Args:
        connection: py-amqp's connection.
        hub: the event loop, where kombu's reader is registered.
    """

    def __init__(self, connection: Any, hub: Any) -> None:
        self._connection = connection
        self._hub = hub
        _read_ahead(connection.transport)
        hub.remove_reader(connection.sock)
        hub.add_reader(connection.sock, self.read)
        hub.call_soon(self.read)

    def read(self) -> None:
        """Dispatch the frames that are there, a burst at the most.

        Raises:
            amqp.RecoverableConnectionError: the connection is gone.
        """
        connection = self._connection
        if not connection.connected:
            reason = "the socket was disconnected"
            raise amqp.RecoverableConnectionError(reason)
        sock = connection.sock
        before = sock.gettimeout()
        sock.settimeout(0)  # py-amqp then leaves it alone, frame after frame
        try:
            for _ in range(_BURST):
                connection.blocking_read(0)
        except (TimeoutError, BlockingIOError):
            return
        finally:
            if connection.connected:
                sock.settimeout(before)
        # what was read ahead does not make the socket readable again
        self._hub.call_soon(self.read)


def _read_ahead(transport: Any) -> None:
    """Make py-amqp ask the socket for all there is instead of frame by frame.

    It receives a frame in three pieces, nine system calls for a message, and keeps
    what it has too much of for the next frame. Its receiving function is a private
    attribute; where it is not found (TLS), reading goes on as before.
    """
    if type(transport) is TCPTransport and hasattr(transport, "_quick_recv"):
        receive = transport.sock.recv
        transport._quick_recv = lambda size: receive(max(size, _READ_AHEAD_BYTES))  # noqa: SLF001 - see above
