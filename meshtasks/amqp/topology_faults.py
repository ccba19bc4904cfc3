"""What a topology must not contradict: each fault with its place and reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails

from meshtasks.amqp.routing import PREDECLARED_EXCHANGES, queues_reached
from meshtasks.config.faults import fault

if TYPE_CHECKING:
    from meshtasks.amqp.topology import Exchange, Queue, Topology


def faults_of(topology: Topology) -> list[InitErrorDetails]:
    """The contradictions; routes are followed only once all names are known."""
    return (
        [*_name_faults(topology), *_reference_faults(topology)]
        or [*_dead_letter_faults(topology), *_alternate_faults(topology)]
        or [*_command_faults(topology)]
    )


def _name_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    yield from _repeated_names("exchanges", topology.exchanges, topology)
    yield from _repeated_names("queues", topology.queues, topology)
    for place, binding in enumerate(topology.bindings):
        if (first := topology.bindings.index(binding)) < place:
            yield fault(f"the same binding as bindings.{first}", "bindings", place)
    levels = topology.retry_levels
    for place, (before, level) in enumerate(pairwise(levels), 1):
        if level <= before:
            yield fault("levels should ascend, none twice", "retry_levels", place)


def _repeated_names(
    key: str, entities: Sequence[Exchange | Queue], topology: Topology
) -> Iterator[InitErrorDetails]:
    generated = {queue.name for queue in topology.retry_queues}
    seen: set[str] = set()
    for place, entity in enumerate(entities):
        if entity.name in seen:
            yield fault(f"{entity.name} is declared twice", key, place, "name")
        if entity.name in generated:
            reason = f"{entity.name} is declared by retry_levels already"
            yield fault(reason, key, place, "name")
        seen.add(entity.name)


def _reference_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    types = {exchange.name: exchange.type for exchange in topology.exchanges}

    def undeclared(name: str | None, *loc: str | int) -> Iterator[InitErrorDetails]:
        if name is not None and name not in types:
            yield fault(f"no exchange {name!r} is declared", *loc)

    for place, exchange in enumerate(topology.exchanges):
        yield from undeclared(exchange.alternate, "exchanges", place, "alternate")
    for place, queue in enumerate(topology.queues):
        loc = ("queues", place, "dead_letter_exchange")
        yield from undeclared(queue.dead_letter_exchange, *loc)
    for place, binding in enumerate(topology.bindings):
        if binding.exchange not in PREDECLARED_EXCHANGES:
            yield from undeclared(binding.exchange, "bindings", place, "exchange")
        yield from undeclared(binding.to_exchange, "bindings", place, "to_exchange")
        if binding.queue is not None and binding.queue not in topology.queue_names:
            reason = f"no queue {binding.queue!r} is declared"
            yield fault(reason, "bindings", place, "queue")
        if not binding.routing_key and types.get(binding.exchange) != "fanout":
            reason = "only a binding of a fanout exchange may have no routing key"
            yield fault(reason, "bindings", place, "routing_key")
    if topology.commands_queue not in topology.queue_names:
        reason = f"no queue {topology.commands_queue!r} is declared"
        yield fault(reason, "commands_queue")


def _dead_letter_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    """Every queue dead-letters to the one queue that does not."""
    ends = {q.name for q in topology.queues if q.dead_letter_exchange is None}
    if not ends:
        reason = "one queue, where dead letters end, needs dead_letter_exchange: null"
        yield fault(reason, "queues")
    used: set[str] = set()
    for place, queue in enumerate(topology.queues):
        exchange, key = queue.dead_letter_exchange, queue.dead_letter_routing_key
        if exchange is None:
            continue
        loc = ("queues", place, "dead_letter_routing_key")
        reached = ends & queues_reached(topology, exchange, key or "")
        used |= reached
        if key is None and not _takes_any_key(topology, exchange):
            yield fault(f"is needed: {exchange} is no fanout exchange", *loc)
        elif ends and not reached:
            names = " or ".join(sorted(ends))
            yield fault(f"{exchange} has no binding from {key!r} to {names}", *loc)
    for place, queue in enumerate(topology.queues):
        if queue.name in ends - used:
            reason = "is needed: dead letters of other queues do not end here"
            yield fault(reason, "queues", place, "dead_letter_exchange")
        elif queue.name in ends and len(ends & used) > 1:
            reason = "is needed: dead letters should end in one queue only"
            yield fault(reason, "queues", place, "dead_letter_exchange")


def _alternate_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    for place, exchange in enumerate(topology.exchanges):
        alternate = exchange.alternate
        if alternate is not None and not _takes_any_key(topology, alternate):
            reason = (
                f"{alternate} should be a fanout exchange with a queue: an "
                "unroutable message keeps its own routing key"
            )
            yield fault(reason, "exchanges", place, "alternate")


def _command_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    """Whoever reaches the commands queue starts tasks: no topic leads there."""
    name = topology.commands_queue
    types = {exchange.name: exchange.type for exchange in topology.exchanges}
    sources = [each.exchange for each in topology.bindings if each.queue == name]
    if [types.get(source) for source in sources] != ["direct"]:
        reason = f"{name} should have one binding, from a direct exchange"
        yield fault(reason, "commands_queue")
    if name == topology.dead_letter_queue:
        yield fault("dead letters and commands need a queue each", "commands_queue")


def _takes_any_key(topology: Topology, name: str) -> bool:
    types = {exchange.name: exchange.type for exchange in topology.exchanges}
    return types[name] == "fanout" and bool(queues_reached(topology, name, ""))
