"""Reads what has arrived from the broker in bursts.

py-amqp sets the socket's timeout twice, and asks the socket three times, for each
frame. A message has three, a confirm one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from amqp.transport import TCPTransport

_READ_AHEAD_BYTES = 16_384


def read_burst(connection: Any, frames: int) -> bool:
    """Dispatch the frames that are there, without waiting for any.

    All are read before the first is dispatched: when the broker has closed a channel,
    py-amqp opens it again there and then, and has to wait for that.

    Args:
        connection: py-amqp's.
        frames: at most so many.

    Returns:
        Whether there may be more.

    Raises:
        amqp.AMQPError: what the frames say, or the connection is gone.
    """
    transport = connection.transport
    found: list[Any] = []
    try:
        # TLS says in a way of its own that there is nothing, which is translated.
        with suppress(TimeoutError, BlockingIOError), transport.having_timeout(0):
            while len(found) < frames:
                found.append(transport.read_frame())
    finally:
        for frame in found:
            connection.on_inbound_frame(frame)
    return len(found) == frames


def read_ahead(transport: Any) -> None:
    """Make py-amqp ask the socket for all there is instead of frame by frame.

    It receives a frame in three pieces, nine system calls for a message, and keeps
    what it has too much of for the next frame. Its receiving function is a private
    attribute; where it is not found (TLS), reading goes on as before.
    """
    if type(transport) is TCPTransport and hasattr(transport, "_quick_recv"):
        receive = transport.sock.recv
        transport._quick_recv = lambda size: receive(max(size, _READ_AHEAD_BYTES))  # noqa: SLF001 - see above
