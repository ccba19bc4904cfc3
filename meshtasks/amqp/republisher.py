"""A thread that publishes messages of other threads, over a connection of its own.

The wait for confirms must not delay a worker's consumption or a gateway's callers, and
a broker that blocks publishers (memory or disk alarm) must not block the connection
that acknowledges. Waiting requests are published together, so many dead letters, or
many callers, cost one round trip.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.errors import MeshError, PublishRefused, PublishUnconfirmed, Unroutable

logger = logging.getLogger(__name__)

#: Most requests that are published together.
_TOGETHER = 200
_LONGEST_PAUSE_SECONDS = 5.0
#: Longest wait of :meth:`Republisher.publish`, connecting included.
_GIVE_UP_SECONDS = 25.0


@dataclass(frozen=True, slots=True, eq=False)
class PublishRequest:
    """Messages to publish, and a callback for the result.

    Attributes:
        messages: messages to publish.
        on_end: called once, in the publishing thread: with None when all messages are
            confirmed, else with the error.
        is_wanted: called before each attempt. Attempts are repeated until the request
            is confirmed, or until this returns false; then the request is dropped
            without calling ``on_end``. None: only one attempt, which may end with
            ``PublishUnconfirmed``.
    """

    messages: Sequence[Outgoing]
    on_end: Callable[[Exception | None], object]
    is_wanted: Callable[[], bool] | None = None


class Republisher:
    """The publishing thread and its queue of requests.

    Args:
        publisher: used only by the thread.
        max_waiting: most requests that may wait; 0 for no limit.
    """

    def __init__(self, publisher: Publisher, max_waiting: int = 0) -> None:
        self._publisher = publisher
        self._requests: queue.Queue[PublishRequest | None] = queue.Queue(max_waiting)
        self._stopping = threading.Event()
        self._is_held_up = False
        self._thread = threading.Thread(
            target=self._run, name="mesh-republisher", daemon=True
        )

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self, within_seconds: float | None = None) -> None:
        """Publish the waiting requests, one attempt each; close the connection.

        Args:
            within_seconds: longest wait for the thread; None for no limit.
        """
        self._stopping.set()
        self._requests.put(None)
        self._thread.join(within_seconds)

    @property
    def is_held_up(self) -> bool:
        """Whether the broker accepts no messages at the moment."""
        return self._is_held_up or self._publisher.is_blocked

    def send(self, request: PublishRequest) -> None:
        """Queue a request, and return at once.

        Raises:
            PublishUnconfirmed: ``max_waiting`` requests wait already.
        """
        try:
            self._requests.put_nowait(request)
        except queue.Full as error:
            text = f"{self._requests.maxsize} messages wait already"
            raise PublishUnconfirmed(text) from error

    def publish(self, message: Outgoing) -> None:
        """Publish a message; return once the broker has confirmed it. Any thread may
        call this.

        Raises:
            PublishUnconfirmed: no confirm in time; the message may have been stored.
            PublishRefused: the message cannot be published.
            Unroutable: no queue matches its routing key; it was not stored.
        """
        confirmed: Future[None] = Future()

        def end(error: Exception | None) -> None:
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self.send(PublishRequest([message], end))
        try:
            confirmed.result(_GIVE_UP_SECONDS)
        except TimeoutError as error:
            text = f"no confirmation within {_GIVE_UP_SECONDS:g} s"
            raise PublishUnconfirmed(text) from error

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            requests = [request]
            while len(requests) < _TOGETHER and not self._requests.empty():
                following = self._requests.get()
                if following is None:  # the mark of the end: read it again later
                    self._requests.put(None)
                    break
                requests.append(following)
            self._deliver(requests)
        self._publisher.close()

    def _deliver(self, requests: Sequence[PublishRequest]) -> None:
        pause_seconds = 0.2
        while requests := [
            each for each in requests if each.is_wanted is None or each.is_wanted()
        ]:
            try:
                self._publish(requests)
                break
            except PublishUnconfirmed as error:
                requests = _without_single_attempts(requests, error)
                logger.warning("Not published yet, trying again: %s", error)
            except Exception as error:
                # Unexpected; the other requests must be published nevertheless.
                logger.exception("Publishing failed")
                self._publisher.close()
                self._deliver_singly(requests, error)
                break
            self._is_held_up = bool(requests)
            if self._is_held_up and self._stopping.wait(pause_seconds):
                return
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
        self._is_held_up = False

    def _deliver_singly(
        self, requests: Sequence[PublishRequest], error: Exception
    ) -> None:
        """Publish each request alone, to find the one with the unexpected error."""
        known = error
        if not isinstance(error, MeshError):
            known = PublishUnconfirmed(f"publishing failed: {type(error).__name__}")
        requests = _without_single_attempts(requests, known)
        if len(requests) == 1:
            requests[0].on_end(error)
            return
        for request in requests:
            self._deliver([request])

    def _publish(self, requests: Sequence[PublishRequest]) -> None:
        """Publish requests together; call ``on_end`` of those confirmed or refused.

        Raises:
            PublishUnconfirmed: the broker is unavailable, or accepts no messages now.
        """
        fault: PublishRefused | None = None
        routes: frozenset[tuple[str, str]] = frozenset()
        try:
            self._publisher.publish(
                [message for request in requests for message in request.messages]
            )
        except PublishRefused as error:  # all others are confirmed
            fault, routes = error, error.routes
        except Unroutable as error:
            routes = error.routes
        refused = set(map(id, fault.refused)) if fault else set()
        for request in requests:
            lost = routes & {
                (each.exchange, each.routing_key) for each in request.messages
            }
            if lost:
                request.on_end(Unroutable(lost))
            elif any(id(message) in refused for message in request.messages):
                request.on_end(fault)
            else:
                request.on_end(None)


def _without_single_attempts(
    requests: Sequence[PublishRequest], error: Exception
) -> list[PublishRequest]:
    """End the requests that have one attempt only; return the others."""
    for request in requests:
        if request.is_wanted is None:
            request.on_end(error)
    return [request for request in requests if request.is_wanted is not None]
