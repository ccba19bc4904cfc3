"""The ceiling: frames are read and told apart, messages acknowledged, nothing decoded.

``python -m benchmarks.peers.frames QUEUE``, broker in ``BENCH_BROKER_URL``. py-amqp
connects and begins to consume; what comes then is taken from the socket.
"""

from __future__ import annotations

import os
import sys
from struct import Struct
from typing import Any

from kombu import Connection

from benchmarks.peers.bare import ACK_EVERY, PREFETCH

_FRAME = Struct(">BHI")
_DELIVER = b"\0\x3c\0\x3c"
_OVERHEAD_BYTES = _FRAME.size + 1


def consume(connection: Any, queue: str) -> None:
    """Consume a queue until the process is ended.

    Args:
        connection: py-amqp's.
        queue: the queue.
    """
    channel = connection.channel()
    channel.basic_qos(0, PREFETCH, a_global=False)
    channel.basic_consume(queue)
    transport = connection.transport
    # what py-amqp has read of the next frame already
    received, offset, deliveries = transport._read_buffer, 0, 0  # noqa: SLF001
    while arrived := transport.sock.recv(65_536):
        received, offset = received[offset:] + arrived, 0
        while offset + _OVERHEAD_BYTES <= len(received):
            _, _, size = _FRAME.unpack_from(received, offset)
            if offset + _OVERHEAD_BYTES + size > len(received):
                break
            if received.startswith(_DELIVER, offset + _FRAME.size):
                deliveries += 1
                if deliveries % ACK_EVERY == 0:
                    channel.basic_ack(deliveries, multiple=True)
            offset += _OVERHEAD_BYTES + size


if __name__ == "__main__":
    with Connection(os.environ["BENCH_BROKER_URL"]) as broker:
        consume(broker.connect(), sys.argv[1])
