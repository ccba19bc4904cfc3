"""One thread that publishes what others hand in, over a connection of its own.

Waiting for the broker's confirms must hold up neither the consumption of a worker nor
the callers of a gateway, and a broker that blocks publishers (memory or disk alarm)
must not block the connection that acknowledges. What waits is published together: a
flood of dead letters, or of callers, costs one round trip for many.
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

#: Requests that are published together at most.
_TOGETHER = 200
_LONGEST_PAUSE_SECONDS = 5.0
#: :meth:`Republisher.publish` waits no longer than this, connecting included.
_GIVE_UP_SECONDS = 25.0


@dataclass(frozen=True, slots=True, eq=False)
class PublishRequest:
    """Messages to publish, and whom to call afterwards.

    Attributes:
        messages: what to publish.
        on_end: called once in the publishing thread: with None when all messages are
            confirmed, else with why they are not.
        is_wanted: asked before each attempt; the request is tried until it is confirmed
            or not wanted any more, and then dropped without a call. Without it there is
            one attempt, which may end in ``PublishUnconfirmed``.
    """

    messages: Sequence[Outgoing]
    on_end: Callable[[Exception | None], object]
    is_wanted: Callable[[], bool] | None = None


class Republisher:
    """The thread and its queue.

    Args:
        publisher: used by the thread alone.
        max_waiting: requests that may wait; 0 for any number.
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
        """Start the thread, if it does not run yet."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self, within_seconds: float | None = None) -> None:
        """Publish what was handed in, without trying again; close the connection."""
        self._stopping.set()
        self._requests.put(None)
        self._thread.join(within_seconds)

    @property
    def is_held_up(self) -> bool:
        """Whether the broker takes nothing at the moment."""
        return self._is_held_up or self._publisher.is_blocked

    def send(self, request: PublishRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            PublishUnconfirmed: too many wait already.
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
            PublishUnconfirmed: it did not in time; it may have been stored.
            PublishRefused: it cannot be published.
            Unroutable: no queue is bound for it; it was not stored.
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
                if following is None:  # the last one: come back to it
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
                # Nobody foresaw it; the requests behind must be published all the same.
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
        """Find the request that nobody foresaw, by publishing each by itself."""
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
        """Publish requests together, and call each that is confirmed or refused.

        Raises:
            PublishUnconfirmed: the broker is away, or does not take them now.
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
    """End the requests that are tried once only; return the others."""
    for request in requests:
        if request.is_wanted is None:
            request.on_end(error)
    return [request for request in requests if request.is_wanted is not None]
