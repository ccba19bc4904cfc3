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


class Parcel(NamedTuple, Generic[T]):
    """Messages to publish, and what they stand for.

    Attributes:
        messages: what to publish.
        token: given back when they are delivered or refused.
    """

    messages: list[Outgoing]
    token: T


class Courier(Generic[T]):
    """Publishes parcels in order, each until it is confirmed.

    Args:
        publisher: used by the courier's thread alone.
        on_delivered: called in the courier's thread once a parcel is confirmed.
        on_refused: called in the courier's thread for a parcel that cannot be
            delivered although the broker answers.
        is_wanted: false when a parcel's messages were given back to the broker,
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
        self._parcels: queue.SimpleQueue[Parcel[T] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._is_held_up = False
        self._thread = threading.Thread(
            target=self._run, name="mesh-courier", daemon=True
        )

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if not self._thread.is_alive():
            self._thread.start()

    def send(self, parcel: Parcel[T]) -> None:
        """Queue a parcel; returns at once."""
        self._parcels.put(parcel)

    def stop(self, within_seconds: float) -> None:
        """Stop after the parcel at hand. Parcels left over are not lost: their
        messages are unacknowledged and the broker delivers them again."""
        self._stopping.set()
        self._parcels.put(None)
        self._thread.join(within_seconds)

    @property
    def is_held_up(self) -> bool:
        """Whether what is sent cannot be delivered at the moment."""
        return self._is_held_up or self._publisher.is_blocked

    def _run(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            self._deliver([parcel, *self._more()])
        self._publisher.close()

    def _more(self) -> Iterator[Parcel[T]]:
        """Parcels that wait already, to be published together: a flood of dead
        letters then costs one round trip for many, not one for each."""
        while not self._parcels.empty():
            parcel = self._parcels.get()
            if parcel is None:
                self._parcels.put(None)
                return
            yield parcel

    def _deliver(self, parcels: list[Parcel[T]]) -> None:
        pause_seconds = 0.2
        while wanted := [each for each in parcels if self._is_wanted(each.token)]:
            try:
                self._publish(wanted)
            except PublishUnconfirmed as error:
                logger.warning("Failed messages not yet moved, retrying: %s", error)
            except Exception:
                # Nobody foresaw it; the parcels behind must be moved all the same.
                logger.exception("Failed messages not yet moved, retrying one by one")
                self._publisher.close()
                if len(wanted) == 1:
                    self._refuse(wanted[0], "an error that nobody foresaw, see above")
                    return
                for parcel in wanted:
                    self._deliver([parcel])
                return
            else:
                self._is_held_up = False
                return
            self._is_held_up = True
            if self._stopping.wait(pause_seconds):
                return
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _publish(self, parcels: list[Parcel[T]]) -> None:
        """Publish parcels; those that cannot be published are left to the broker.

        Raises:
            PublishUnconfirmed: the broker is away, or does not take them now.
        """
        refused: frozenset[int] = frozenset()
        routes: frozenset[tuple[str, str]] = frozenset()
        reason = ""
        try:
            self._publisher.publish(
                [message for parcel in parcels for message in parcel.messages]
            )
        except PublishRefused as error:
            refused, routes = frozenset(map(id, error.refused)), error.routes
            reason = str(error)
        except Unroutable as error:
            routes, reason = error.routes, str(error)
        for parcel in parcels:
            if any(
                id(message) in refused
                or (message.exchange, message.routing_key) in routes
                for message in parcel.messages
            ):
                self._refuse(parcel, reason)
            else:
                self._on_delivered(parcel.token)

    def _refuse(self, parcel: Parcel[T], reason: str) -> None:
        logger.critical(
            "Left to the broker's own dead-lettering, since publishing is refused "
            "(is the topology whole? meshtasks topology check): %s",
            reason,
        )
        self._on_refused(parcel.token)
