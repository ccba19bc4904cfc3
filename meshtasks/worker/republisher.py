"""Carries failed messages to their retry or dead-letter queue.

A thread of its own with its own connection: waiting for the broker's confirms
must not hold up consumption, and a broker that blocks publishers (memory or disk
alarm) must not block the connection that acknowledges.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from celery.utils.log import get_logger

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.errors import PublishRefused, PublishUnconfirmed, Unroutable

logger = get_logger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE_SECONDS = 5.0


class PublishRequest(NamedTuple, Generic[T]):
    """Messages to publish, and what they stand for.

    Attributes:
        messages: what to publish.
        token: given back when they are delivered or refused.
    """

    messages: list[Outgoing]
    token: T


class Republisher(Generic[T]):
    """Publishes requests in order, each until it is confirmed.

    Args:
        publisher: used by the republisher's thread alone.
        on_delivered: called in the republisher's thread once a request is confirmed.
        on_refused: called in the republisher's thread for a request that cannot be
            delivered although the broker answers.
        is_wanted: false when a request's messages were given back to the broker,
            so that it need not be published any more.
    """

    def __init__(
        self,
        publisher: Publisher,
        on_delivered: Callable[[T], None],
        on_refused: Callable[[T], None],
        is_wanted: Callable[[T], bool],
    ) -> None:
        self._publisher = publisher
        self._on_delivered = on_delivered
        self._on_refused = on_refused
        self._is_wanted = is_wanted
        self._requests: queue.SimpleQueue[PublishRequest[T] | None] = (
            queue.SimpleQueue()
        )
        self._stopping = threading.Event()
        self._is_held_up = False
        self._thread = threading.Thread(
            target=self._run, name="mesh-republisher", daemon=True
        )

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if not self._thread.is_alive():
            self._thread.start()

    def send(self, request: PublishRequest[T]) -> None:
        """Queue a request; returns at once."""
        self._requests.put(request)

    def stop(self, within_seconds: float) -> None:
        """Stop after the request at hand. Requests left over are not lost: their
        messages are unacknowledged and the broker delivers them again."""
        self._stopping.set()
        self._requests.put(None)
        self._thread.join(within_seconds)

    @property
    def is_held_up(self) -> bool:
        """Whether what is sent cannot be delivered at the moment."""
        return self._is_held_up or self._publisher.is_blocked

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            self._deliver([request, *self._more()])
        self._publisher.close()

    def _more(self) -> Iterator[PublishRequest[T]]:
        """Parcels that wait already, to be published together: a flood of dead
        letters then costs one round trip for many, not one for each."""
        while not self._requests.empty():
            request = self._requests.get()
            if request is None:
                self._requests.put(None)
                return
            yield request

    def _deliver(self, requests: list[PublishRequest[T]]) -> None:
        pause_seconds = 0.2
        while wanted := [each for each in requests if self._is_wanted(each.token)]:
            try:
                self._publish(wanted)
            except PublishUnconfirmed as error:
                logger.warning("Failed messages not yet moved, retrying: %s", error)
            except Exception:
                # Nobody foresaw it; the requests behind must be moved all the same.
                logger.exception("Failed messages not yet moved, retrying one by one")
                self._publisher.close()
                if len(wanted) == 1:
                    self._refuse(wanted[0], "an error that nobody foresaw, see above")
                    return
                for request in wanted:
                    self._deliver([request])
                return
            else:
                self._is_held_up = False
                return
            self._is_held_up = True
            if self._stopping.wait(pause_seconds):
                return
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _publish(self, requests: list[PublishRequest[T]]) -> None:
        """Publish requests; those that cannot be published are left to the broker.

        Raises:
            PublishUnconfirmed: the broker is away, or does not take them now.
        """
        refused: frozenset[int] = frozenset()
        routes: frozenset[tuple[str, str]] = frozenset()
        reason = ""
        try:
            self._publisher.publish(
                [message for request in requests for message in request.messages]
            )
        except PublishRefused as error:
            refused, routes = frozenset(map(id, error.refused)), error.routes
            reason = str(error)
        except Unroutable as error:
            routes, reason = error.routes, str(error)
        for request in requests:
            if any(
                id(message) in refused
                or (message.exchange, message.routing_key) in routes
                for message in request.messages
            ):
                self._refuse(request, reason)
            else:
                self._on_delivered(request.token)

    def _refuse(self, request: PublishRequest[T], reason: str) -> None:
        logger.critical(
            "Left to the broker's own dead-lettering, since publishing is refused "
            "(is the topology whole? meshtasks topology check): %s",
            reason,
        )
        self._on_refused(request.token)
