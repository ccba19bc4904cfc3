"""The ceiling: py-amqp receives and acknowledges, and does nothing else.

``python -m benchmarks.peers.bare QUEUE``, broker in ``BENCH_BROKER_URL``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from kombu import Connection

PREFETCH = 1_000
ACK_EVERY = 100
#: Acknowledge an incomplete run when nothing came for so long.
IDLE_SECONDS = 0.05


class BareConsumer:
    """Consumes a queue and acknowledges every hundred messages with one frame."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.auto_decode = False
        self._channel.basic_qos(0, PREFETCH, a_global=False)
        self._channel.basic_consume(queue, callback=self._on_message)
        self._last_tag = self._acknowledged_tag = 0

    def run(self) -> None:
        """Consume until the process is ended."""
        while True:
            try:
                self._connection.drain_events(timeout=IDLE_SECONDS)
            except TimeoutError:
                self._acknowledge()

    def _on_message(self, message: Any) -> None:
        self._last_tag = message.delivery_tag
        if self._last_tag - self._acknowledged_tag >= ACK_EVERY:
            self._acknowledge()

    def _acknowledge(self) -> None:
        if self._last_tag > self._acknowledged_tag:
            self._channel.basic_ack(self._last_tag, multiple=True)
            self._acknowledged_tag = self._last_tag


if __name__ == "__main__":
    with Connection(os.environ["BENCH_BROKER_URL"]) as broker:
        BareConsumer(broker, sys.argv[1]).run()
