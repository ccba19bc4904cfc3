"""Changes the number of partitions of a queue without losing messages.

A change has two waits. First the running workers empty all partitions, because routing
keys move to other partitions, and newer messages must not overtake older ones. Then the
old queues are unbound, emptied again, and deleted. A retry may return to an old queue,
so before the deletion the retry queues must be empty, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import kombu

from meshtasks.amqp.declare import Change
from meshtasks.amqp.entities import Queue, exchange_of
from meshtasks.amqp.management import activity
from meshtasks.amqp.topology import Topology
from meshtasks.errors import Transient

_POLL_SECONDS = 0.5
#: The broker's statistics are up to five seconds old. A queue is empty if they show it
#: empty for longer.
_EMPTY_SECONDS = 6.0
#: State of a queue that is not empty in time.
_UNBOUND = "no exchange leads to it any more; run it again to have it deleted"


class Repartition:
    """Changes the number of partitions of queues.

    Args:
        connection: an open connection of an account that may declare and delete.
        topology: the new topology.
        urls: URL of the broker, and URL of its management plugin or None for the
            default.
        within_seconds: longest wait for the workers to empty the queues.
        say: called with a line of text for each step.
    """

    def __init__(
        self,
        connection: kombu.Connection,
        topology: Topology,
        urls: tuple[str, str | None],
        within_seconds: float,
        say: Callable[[str], object],
    ) -> None:
        self._channel: Any = connection.channel()
        self._topology = topology
        self._urls = urls
        self._within_seconds = within_seconds
        self._say = say

    def empty(self, change: Change) -> None:
        """Wait until the workers have emptied all present queues of a change.

        Raises:
            Transient: they are not empty in time; nothing has been changed.
            ConfigError: the management API refuses the account, or is another broker's.
        """
        if change.leaving:  # remove() asks it, too late to change nothing
            activity(*self._urls)
        self._say(f"{change}; waiting until the workers have emptied it")
        deadline = time.monotonic() + self._within_seconds
        while ready := sum(map(self._ready, change.found)):
            if time.monotonic() > deadline:
                what = f"{ready:,} messages wait"
                raise self._left(what, "nothing was changed")
            time.sleep(_POLL_SECONDS)

    def remove(self, change: Change) -> None:
        """Unbind the queues to delete; delete them when they are empty.

        Raises:
            Transient: they are not empty in time. Call it again to continue.
            ConfigError: the management API refuses the account.
        """
        leaving, queue = change.leaving, change.queue
        before_partitions = exchange_of(queue.name)
        for name in leaving:
            is_partition = name != queue.name
            ways = [(before_partitions, "1")] if is_partition else self._ways_to(queue)
            for exchange, key in ways:
                self._channel.queue_unbind(name, exchange, key)
        if not queue.partitions:
            for exchange, key in self._ways_to(queue):
                self._channel.exchange_unbind(before_partitions, exchange, key)
        if leaving:
            self._wait_empty([*leaving, *(q.name for q in self._topology.retry_queues)])
        for name in leaving:
            self._channel.queue_delete(name)
            self._say(f"{name} was empty and is deleted")
        if not queue.partitions:
            self._channel.exchange_delete(before_partitions)

    def _ways_to(self, queue: Queue) -> list[tuple[str, str]]:
        """Exchange and routing key of each binding of a queue in topology.yaml."""
        return [
            (binding.exchange, binding.routing_key)
            for binding in self._topology.bindings
            if binding.queue == queue.name
        ]

    def _wait_empty(self, names: Sequence[str]) -> None:
        """Wait until these queues have had no messages, ready or unacknowledged, for
        :data:`_EMPTY_SECONDS`."""
        deadline = time.monotonic() + self._within_seconds + _EMPTY_SECONDS
        since: float | None = None
        while since is None or time.monotonic() - since < _EMPTY_SECONDS:
            held = self._held(names)
            if not held:
                since = since or time.monotonic()
            else:
                since = None
                if time.monotonic() > deadline:
                    what = ", ".join(f"{n:,} in {name}" for name, n in held.items())
                    raise self._left(what, _UNBOUND)
            time.sleep(_POLL_SECONDS)

    def _held(self, names: Sequence[str]) -> dict[str, int]:
        active = activity(*self._urls)
        held = {}
        for name in names:
            ready = self._ready(name)
            in_hand = active[name].messages_unacknowledged if name in active else 0
            if ready + in_hand:
                held[name] = ready + in_hand
        return held

    def _ready(self, name: str) -> int:
        return int(self._channel.queue_declare(name, passive=True).message_count)

    def _left(self, what: str, otherwise: str) -> Transient:
        after = f"after {self._within_seconds:g} s"
        return Transient(f"{after} {what}; {otherwise}. Do its workers run?")
