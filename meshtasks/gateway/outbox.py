"""Publishes what concurrent requests hand in, over one connection, in one thread.

A :class:`~meshtasks.amqp.publisher.Publisher` belongs to one thread. Requests
that come while it waits for the broker are published together, and a broker that does
not answer costs all of them one wait, not one each.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.errors import (
    MeshError,
    PublishRefused,
    PublishUnconfirmed,
    Unroutable,
)

logger = logging.getLogger(__name__)

_MAX_WAITING = 1_000
_MAX_BATCH = 200
#: A caller waits no longer than this, the connection and its confirms included.
_CONFIRM_SECONDS = 10.0
_GIVE_UP_SECONDS = 25.0


class _Handed(NamedTuple):
    message: Outgoing
    confirmed: Future[None]


class Outbox:
    """The thread and its queue.

    Args:
        url: AMQP URL.
    """

    def __init__(self, url: str) -> None:
        self._publisher = Publisher(url, confirm_timeout_seconds=_CONFIRM_SECONDS)
        self._queue: queue.Queue[_Handed | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="outbox")

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what was handed in, then close the connection."""
        self._queue.put(None)
        self._thread.join()

    def publish(self, message: Outgoing) -> None:
        """Publish a message; return once the broker has confirmed it. Any thread may
        call this.

        Raises:
            PublishUnconfirmed: it did not in time; it may have been stored.
            Unroutable: no queue is bound for it; it was not stored.
        """
        handed = _Handed(message, Future())
        try:
            self._queue.put_nowait(handed)
        except queue.Full as error:
            text = f"{_MAX_WAITING} messages wait already"
            raise PublishUnconfirmed(text) from error
        try:
            handed.confirmed.result(_GIVE_UP_SECONDS)
        except TimeoutError as error:
            text = f"no confirmation within {_GIVE_UP_SECONDS:g} s"
            raise PublishUnconfirmed(text) from error

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < _MAX_BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:  # the last one: come back to it
                    self._queue.put(None)
                    break
                batch.append(following)
            self._publish(batch)
        self._publisher.close()

    def _publish(self, batch: Sequence[_Handed]) -> None:
        fault: Exception | None = None
        refused: frozenset[int] = frozenset()
        unroutable: frozenset[tuple[str, str]] = frozenset()
        try:
            self._publisher.publish([each.message for each in batch])
        except Unroutable as error:
            unroutable = error.routes
        except PublishRefused as error:  # all others are confirmed
            refused, unroutable = frozenset(map(id, error.refused)), error.routes
            fault = error
        except MeshError as error:
            refused, fault = frozenset(id(each.message) for each in batch), error
        except Exception as error:
            # Nobody foresaw it; the thread has to go on for those who come after.
            logger.exception("Publishing failed")
            self._publisher.close()
            refused = frozenset(id(each.message) for each in batch)
            fault = PublishUnconfirmed(f"publishing failed: {type(error).__name__}")
        for message, confirmed in batch:
            route = message.exchange, message.routing_key
            if route in unroutable:
                confirmed.set_exception(Unroutable(frozenset({route})))
            elif fault is not None and id(message) in refused:
                confirmed.set_exception(fault)
            else:
                confirmed.set_result(None)
