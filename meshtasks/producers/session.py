"""The life of a producer process: connect, feed, drain, exit code."""

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

#: Everything is in a queue.
EXIT_OK = 0
#: For some messages there is no queue.
EXIT_UNROUTABLE = 1
#: The broker could not be reached to begin with.
EXIT_UNREACHABLE = os.EX_UNAVAILABLE
#: Some messages were dropped, or are not confirmed (they may wait in the spool).
EXIT_UNCONFIRMED = os.EX_TEMPFAIL

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a producer process waits for the broker.

    Attributes:
        connect_seconds: for the first connection, before anything is fed; None to
            feed at once, which is right for a producer with a spool.
        drain_seconds: at the end, for the confirms of what is left.
    """

    connect_seconds: float | None = None
    drain_seconds: float = 10.0


def broker_url() -> str:
    """The AMQP URL of the environment; a broker that is away is no fault of it.

    Raises:
        ConfigError: ``MESH_BROKER_URL`` holds something else, or names an account
            or virtual host that the broker refuses.
    """
    url = load_settings().env.amqp_url
    with suppress(Transient), connected(url):
        pass
    return url


def spooling_producer(name: str, batching: Batching | None = None) -> Producer:
    """The producer of a source that cannot wait; its spool has the source's name.

    Raises:
        ConfigError: as :func:`broker_url`; or another process of the same name is
            running, or the spool cannot be made.
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
    """Let a source feed a producer until it ends or ``stop`` is set.

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
