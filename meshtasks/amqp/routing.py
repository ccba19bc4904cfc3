"""Which queues a published message reaches, as RabbitMQ would route it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshtasks.amqp.patterns import topic_matches

if TYPE_CHECKING:
    from meshtasks.amqp.topology import Binding, Topology

#: Exchanges that every RabbitMQ virtual host has, with their types. A binding may
#: start at one; nobody may declare them. MQTT messages arrive at ``amq.topic``.
PREDECLARED_EXCHANGES = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
}


def queues_reached(
    topology: Topology, exchange: str, routing_key: str
) -> frozenset[str]:
    """Names of the queues that get a message published so.

    Bindings between exchanges are followed, and alternate exchanges where no
    binding matches. The default exchange (``""``) leads to the queue that the
    routing key names.
    """
    if not exchange:
        return frozenset(
            queue.name for queue in topology.all_queues if queue.name == routing_key
        )
    exchanges = {each.name: each for each in topology.all_exchanges}
    types = PREDECLARED_EXCHANGES | {
        each.name: each.type for each in exchanges.values()
    }
    queues: set[str] = set()
    seen: set[str] = set()
    ahead = [exchange]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        matching = [
            binding
            for binding in topology.all_bindings
            if binding.exchange == name and _matches(types[name], binding, routing_key)
        ]
        queues |= {each.queue for each in matching if each.queue}
        ahead += [each.to_exchange for each in matching if each.to_exchange]
        declared = exchanges.get(name)
        if not matching and declared and declared.alternate:
            ahead.append(declared.alternate)
    return frozenset(queues)


def handled_queues(
    topology: Topology, exchange: str, routing_key: str
) -> frozenset[str]:
    """Names of the domain queues that get a message published so.

    None for what ends among the dead letters, for commands, for retries, and for the
    exchanges that are not of the mesh.
    """
    if exchange not in {each.name for each in topology.exchanges}:
        return frozenset()
    reached = queues_reached(topology, exchange, routing_key)
    return reached.intersection(topology.domain_queues)


def _matches(exchange_type: str, binding: Binding, routing_key: str) -> bool:
    match exchange_type:
        case "fanout":
            return True
        case "topic":
            return topic_matches(binding.routing_key, routing_key)
        case _:
            return binding.routing_key == routing_key
