"""Lifetime of a producer process: connect, feed, publish the rest, exit code."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.publisher import Publisher
from meshtasks.config.settings import load_settings
from meshtasks.errors import Transient
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Batching
from meshtasks.producers.spool import Spool, SpoolLimits

logger = logging.getLogger(__name__)

#: Every message is in a queue.
EXIT_OK = 0
#: No queue is bound for some messages.
EXIT_UNROUTABLE = 1
#: The first connection to the broker was not made in time.
EXIT_UNREACHABLE = os.EX_UNAVAILABLE
#: Some messages were dropped or are not confirmed; the latter may wait in the spool.
EXIT_UNCONFIRMED = os.EX_TEMPFAIL

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a producer process waits for the broker.

    Attributes:
        connect_seconds: for the first connection, before the feed starts. None starts
            the feed at once, as suits a producer with a spool.
        drain_seconds: for the confirms of the remaining messages, at the end.
    """

    connect_seconds: float | None = None
    drain_seconds: float = 10.0


def broker_url() -> str:
    """Return the AMQP URL of the environment; an unavailable broker is no error.

    Raises:
        ConfigError: ``MESH_BROKER_URL`` is not an AMQP URL, or the broker refuses its
            account or virtual host.
    """
    url = load_settings().env.amqp_url
    with suppress(Transient), connected(url):
        pass
    return url


def spooling_producer(name: str, batching: Batching | None = None) -> Producer:
    """Return a producer for a source that cannot wait, with the spool ``name``.

    Raises:
        ConfigError: as :func:`broker_url`; or another process uses the spool, or the
            spool cannot be created.
    """
    url = broker_url()
    env = load_settings().env
    path = env.state_dir / "spool" / f"{name}.sqlite3"
    spool = Spool(path, SpoolLimits(env.spool_messages, env.spool_bytes))
    return Producer(Publisher(url), buffer=spool, batching=batching)


def run_session(
    producer: Producer,
    feed: Callable[[], None],
    stop: threading.Event,
    patience: Patience | None = None,
) -> int:
    """Run ``feed`` until it returns, then stop the producer.

    Args:
        feed: submits records until its source ends or ``stop`` is set.

    Returns:
        The exit code of the process, one of ``EXIT_…``.
    """
    patience = patience or Patience()
    producer.start()
    if not _connects(producer, stop, patience.connect_seconds):
        return EXIT_UNREACHABLE
    try:
        feed()
    finally:
        producer.stop(patience.drain_seconds)
    counts = producer.counts()
    if counts.unresolved or counts.dropped:
        return EXIT_UNCONFIRMED
    return EXIT_UNROUTABLE if counts.unroutable else EXIT_OK


def _connects(
    producer: Producer, stop: threading.Event, within_seconds: float | None
) -> bool:
    if within_seconds is None:
        return True
    began = time.monotonic()
    while not producer.wait_connected(_POLL_SECONDS):
        waited_seconds = time.monotonic() - began
        if stop.is_set() or waited_seconds >= within_seconds:
            producer.stop(0.0)
            logger.error(
                "no connection to RabbitMQ within %.1f s (%s). Is it running, and is "
                "MESH_BROKER_URL right?",
                waited_seconds,
                producer.last_error or "no answer",
            )
            return False
    return True
