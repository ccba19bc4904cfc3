"""The life of a producer process: connect, feed, drain, and say how it went."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from meshtasks.messaging.connecting import unopened
from meshtasks.settings import load_settings
from producers.base import Producer

logger = logging.getLogger(__name__)

#: Everything is in a queue.
EXIT_OK = 0
#: For some messages there is no queue.
EXIT_UNROUTABLE = 1
#: The broker could not be reached to begin with.
EXIT_UNREACHABLE = os.EX_UNAVAILABLE
#: Some messages were dropped or not confirmed.
EXIT_UNCONFIRMED = os.EX_TEMPFAIL

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a producer process waits for the broker.

    Attributes:
        connect_seconds: for the first connection.
        drain_seconds: at the end, for the confirms of what is left.
    """

    connect_seconds: float = 30.0
    drain_seconds: float = 10.0


def broker_url() -> str:
    """The AMQP URL of the environment.

    Raises:
        ConfigError: there is something else in ``MESH_BROKER_URL``.
    """
    url = load_settings().env.amqp_url
    unopened(url).release()
    return url


def run_session(
    producer: Producer,
    feed: Callable[[], None],
    stop: threading.Event,
    patience: Patience,
) -> int:
    """Let a source feed a producer until it ends or is told to stop.

    Args:
        feed: submits to the producer; returns at its own end or soon after
            ``stop`` is set.

    Returns:
        The exit code of the process, one of ``EXIT_…``.
    """
    producer.start()
    began = time.monotonic()
    while not producer.wait_connected(_POLL_SECONDS):
        waited_seconds = time.monotonic() - began
        if stop.is_set() or waited_seconds >= patience.connect_seconds:
            producer.stop(0.0)
            logger.error(
                "no connection to RabbitMQ within %.1f s (%s). Is it running, and is "
                "MESH_BROKER_URL right?",
                waited_seconds,
                producer.last_error or "no answer",
            )
            return EXIT_UNREACHABLE
    try:
        feed()
    finally:
        unsent = producer.stop(patience.drain_seconds)
    counts = producer.counts()
    if unsent or counts.dropped:
        return EXIT_UNCONFIRMED
    return EXIT_UNROUTABLE if counts.unroutable else EXIT_OK
