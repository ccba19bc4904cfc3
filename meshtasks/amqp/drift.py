"""Compares a broker with the topology, and changes the number of partitions of a queue
without losing messages.

A change has two waits. First the running workers empty all partitions, because routing
keys move to other partitions, and newer messages must not overtake older ones. Then the
old queues are unbound, emptied again, and deleted. A retry may return to an old queue,
so before the deletion the retry queues must be empty, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kombu

from meshtasks.amqp.declare import Change
from meshtasks.amqp.entities import Binding, Queue, exchange_of, is_reserved, queue_of
from meshtasks.amqp.management import Live, LiveExchange, LiveQueue, activity
from meshtasks.amqp.topology import Topology
from meshtasks.errors import Transient


@dataclass(frozen=True, slots=True)
class Drift:
    """Findings of a comparison, one line each.

    Attributes:
        differences: entities that are missing or differ, and bindings that are not in
            topology.yaml.
        notes: bindings and policies that others added; they are not errors.
    """

    differences: tuple[str, ...]
    notes: tuple[str, ...]


def compare(topology: Topology, live: Live) -> Drift:
    """Compare the whole topology with the entities of a virtual host."""
    differences = [
        *_exchange_differences(topology, live),
        *_queue_differences(topology, live),
        *_binding_differences(topology, live),
    ]
    notes = [*_foreign_bindings(topology, live), *_policies(topology, live)]
    return Drift(tuple(differences), tuple(notes))


def _exchange_differences(topology: Topology, live: Live) -> Iterator[str]:
    found = {exchange.name: exchange for exchange in live.exchanges}
    for exchange in topology.all_exchanges:
        what = f"exchange {exchange.name}"
        if has := found.get(exchange.name):
            should = {"type": exchange.type, "internal": False}
            yield from _unequal(
                what, should, {key: getattr(has, key) for key in should}
            )
            yield from _lifetime(what, has)
            yield from _unequal(what, exchange.arguments, has.arguments)
        else:
            yield f"{what}: missing"


def _queue_differences(topology: Topology, live: Live) -> Iterator[str]:
    found = {queue.name: queue for queue in live.queues}
    for queue in topology.all_queues:
        what = f"queue {queue.name}"
        if has := found.get(queue.name):
            yield from _lifetime(what, has)
            yield from _unequal(what, queue.arguments, has.arguments)
        else:
            yield f"{what}: missing"
    for name in found:
        if _is_left_over(topology, name):
            yield (
                f"queue {name}: of partitions that topology.yaml does not have; "
                "`meshtasks topology apply` empties and deletes it"
            )


def _is_left_over(topology: Topology, name: str) -> bool:
    """Whether a queue is a former partition, or the former single queue of a queue that
    has partitions now."""
    if name in {queue.name for queue in topology.all_queues}:
        return False
    return queue_of(name) in topology.queue_names


def _binding_differences(topology: Topology, live: Live) -> Iterator[str]:
    wanted = set(topology.all_bindings)
    for binding in topology.all_bindings:
        if binding not in live.bindings:
            yield f"binding {binding.label}: missing"
    for binding in live.bindings:
        if binding not in wanted and _is_ours(topology, binding):
            yield f"binding {binding.label}: not in topology.yaml"


def _foreign_bindings(topology: Topology, live: Live) -> Iterator[str]:
    ours = {exchange.name for exchange in topology.all_exchanges}
    for binding in live.bindings:
        if binding.exchange in ours and not _is_ours(topology, binding):
            yield f"binding {binding.label}: added by others"


def _policies(topology: Topology, live: Live) -> Iterator[str]:
    ours = {queue.name for queue in topology.all_queues}
    for queue in live.queues:
        if queue.name in ours and queue.effective_policy_definition:
            settings = ", ".join(
                f"{key}={value}"
                for key, value in sorted(queue.effective_policy_definition.items())
            )
            yield f"queue {queue.name}: a policy adds {settings}"


def _is_ours(topology: Topology, binding: Binding) -> bool:
    """Whether a binding leads to an entity of the mesh, or to a former partition."""
    if is_reserved(binding.exchange) or _is_left_over(topology, binding.destination):
        return True
    ours = topology.all_queues if binding.queue else topology.all_exchanges
    return binding.destination in {item.name for item in ours}


def _lifetime(what: str, has: LiveExchange | LiveQueue) -> Iterator[str]:
    if not has.durable:
        yield f"{what}: does not outlive the broker, should be durable"
    if has.auto_delete:
        yield f"{what}: deletes itself when unused, should not"


def _unequal(
    what: str, should: Mapping[str, object], has: Mapping[str, object]
) -> Iterator[str]:
    for key in sorted(should.keys() | has.keys()):
        if has.get(key) != should.get(key):
            yield f"{what}: {key} is {_text(has, key)}, should be {_text(should, key)}"


def _text(values: Mapping[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


_POLL_SECONDS = 0.5
#: The broker's statistics are up to five seconds old. A queue is empty if they show it
#: empty for longer.
_EMPTY_SECONDS = 6.0


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
            ConfigError: the management API refuses the account.
        """
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
        for name in leaving:
            for exchange, key in self._ways_into(queue, name):
                self._channel.queue_unbind(name, exchange, key)
        if not queue.partitions:
            for binding in self._topology.bindings:
                if binding.queue == queue.name:
                    self._channel.exchange_unbind(
                        exchange_of(queue.name), binding.exchange, binding.routing_key
                    )
        retries = [retry.name for retry in self._topology.retry_queues]
        left = "no exchange leads to it any more; run it again to have it deleted"
        if leaving:
            self._wait_empty([*leaving, *retries], left)
        for name in leaving:
            self._channel.queue_delete(name)
            self._say(f"{name} was empty and is deleted")
        if not queue.partitions:
            self._channel.exchange_delete(exchange_of(queue.name))

    def _ways_into(self, queue: Queue, name: str) -> Iterator[tuple[str, str]]:
        if name != queue.name:
            yield exchange_of(queue.name), "1"
            return
        for binding in self._topology.bindings:
            if binding.queue == name:
                yield binding.exchange, binding.routing_key

    def _wait_empty(self, names: Sequence[str], otherwise: str) -> None:
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
                    raise self._left(what, otherwise)
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
