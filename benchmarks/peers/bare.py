"""The ceiling: py-amqp receives and acknowledges, and does nothing else.

``python -m benchmarks.peers.bare QUEUE``, broker in ``BENCH_BROKER_URL``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from kombu import Connection

PREFETCH = 1_000
#: One frame acknowledges so many messages; an incomplete run at the end is not.
ACK_EVERY = 100


def consume(connection: Any, queue: str) -> None:
    """Consume a queue until the process is ended.

    Args:
        connection: py-amqp's.
        queue: the queue.
    """
    channel = connection.channel()
    channel.auto_decode = False

    def on_message(message: Any) -> None:
        if message.delivery_tag % ACK_EVERY == 0:
            channel.basic_ack(message.delivery_tag, multiple=True)

    channel.basic_qos(0, PREFETCH, a_global=False)
    channel.basic_consume(queue, callback=on_message)
    while True:
        connection.drain_events()


if __name__ == "__main__":
    with Connection(os.environ["BENCH_BROKER_URL"]) as broker:
        consume(broker.connect(), sys.argv[1])
