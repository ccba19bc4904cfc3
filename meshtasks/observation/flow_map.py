"""The paths of messages through the mesh as a graph in columns: exchanges, queues,
workers, sinks. Every node has a place of its own, whatever the topology is."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from meshtasks.amqp.entities import queue_of
from meshtasks.amqp.topology import Topology
from meshtasks.flows.contract import Handler
from meshtasks.observation.collect import WorkerAnswer

Kind = Literal["exchange", "queue", "worker", "sink"]

#: Colours of the domains.
DOMAIN_COLOURS = {
    "home": "#41BDF5",
    "sensors": "#86DAF1",
    "metrics": "#4CAF50",
    "ai": "#00ABA9",
    "alerts": "#FF9800",
    "archive": "#C72E49",
}
SYSTEM_COLOUR = "#757575"
#: First words of names that belong to no domain.
_SYSTEM = frozenset({"amq", "commands", "dead", "devices", "pending", "unrouted"})
#: Passes that move nodes near their neighbours; more passes change nothing.
_SWEEPS = 6


def colour_of(name: str) -> str:
    """The colour of a name's domain. An unknown domain always gets the same colour."""
    domain = name.partition(".")[0]
    if domain in _SYSTEM:
        return SYSTEM_COLOUR
    if domain in DOMAIN_COLOURS:
        return DOMAIN_COLOURS[domain]
    return f"hsl({zlib.crc32(domain.encode()) % 360} 60% 50%)"


class Node(NamedTuple):
    """A box of the graph.

    Attributes:
        key: kind and name; unique.
        kind: what it stands for.
        name: name of the exchange, queue, worker or sink.
        column: counted from the left, from 0.
        row: counted from the top of its column, from 0.
    """

    key: str
    kind: Kind
    name: str
    column: int
    row: int


class Edge(NamedTuple):
    """An arrow between two boxes.

    Attributes:
        source: key of the box where it begins.
        target: key of the box where it ends.
        routing_keys: routing keys of the bindings that it stands for.
    """

    source: str
    target: str
    routing_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlowMap:
    """The graph.

    Attributes:
        nodes: by key, column by column.
        edges: the arrows between them.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]

    @property
    def columns(self) -> int:
        """Number of columns."""
        return 1 + max((node.column for node in self.nodes.values()), default=-1)

    @property
    def rows(self) -> int:
        """Number of rows of the longest column."""
        return 1 + max((node.row for node in self.nodes.values()), default=-1)


def flow_map(
    topology: Topology,
    handlers: Mapping[str, Handler],
    answers: Iterable[WorkerAnswer],
) -> FlowMap:
    """The graph of a mesh.

    Args:
        topology: the exchanges, queues and bindings.
        handlers: by queue; they name their sinks.
        answers: the workers with the queues that they consume.
    """
    edges = [*_bindings(topology), *_consuming(topology, handlers, answers)]
    queues = {f"queue:{queue.name}" for queue in topology.named_queues}
    exchanges = {f"exchange:{each.name}" for each in topology.exchanges}
    keys = dict.fromkeys(
        [*sorted(exchanges), *sorted(queues)]
        + [key for edge in edges for key in (edge.source, edge.target)]
    )
    first = _columns(edges, [key for key in keys if key.startswith("exchange:")])
    last = max(first.values(), default=0)
    column = {
        key: first[key] if key in first else last + _AFTER[key.partition(":")[0]]
        for key in keys
    }
    return FlowMap(_placed(column, edges), tuple(edges))


#: Number of columns after the last exchange, by kind.
_AFTER = {"queue": 1, "worker": 2, "sink": 3}


def _bindings(topology: Topology) -> Iterator[Edge]:
    """One edge for all bindings between the same two nodes."""
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for binding in topology.bindings:
        kind = "queue" if binding.queue else "exchange"
        ends = f"exchange:{binding.exchange}", f"{kind}:{binding.destination}"
        keys[ends].append(binding.routing_key)
    for (source, target), found in keys.items():
        yield Edge(source, target, tuple(found))


def _consuming(
    topology: Topology,
    handlers: Mapping[str, Handler],
    answers: Iterable[WorkerAnswer],
) -> Iterator[Edge]:
    """Edges from queues to workers, and from workers to sinks."""
    edges: dict[Edge, None] = {}
    for answer in answers:
        for queue in map(queue_of, answer.consuming + answer.resting):
            if queue not in topology.queue_names:
                continue
            edges[Edge(f"queue:{queue}", f"worker:{answer.name}")] = None
            if handler := handlers.get(queue):
                for sink in handler.sinks:
                    edges[Edge(f"worker:{answer.name}", f"sink:{sink.name}")] = None
    yield from edges


def _columns(edges: Iterable[Edge], exchanges: list[str]) -> dict[str, int]:
    """The column of each exchange: left of those to which its bindings lead, with the
    last ones beside the queues. If bindings form a cycle, all share one column."""
    ahead: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        if edge.target.startswith("exchange:"):
            ahead[edge.source].append(edge.target)
    height = dict.fromkeys(exchanges, 0)
    for _ in exchanges:  # more passes than any path without a cycle needs
        moved = False
        for source, targets in ahead.items():
            least = 1 + max(height[target] for target in targets)
            if height[source] < least:
                height[source] = least
                moved = True
        if not moved:
            highest = max(height.values(), default=0)
            return {key: highest - height[key] for key in exchanges}
    return dict.fromkeys(exchanges, 0)  # a cycle


def _placed(column: Mapping[str, int], edges: Iterable[Edge]) -> dict[str, Node]:
    """Place the nodes of each column in rows near their neighbours."""
    beside: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        beside[edge.source].append(edge.target)
        beside[edge.target].append(edge.source)
    used = sorted(set(column.values()))
    order = {
        each: [key for key in column if column[key] == number]
        for each, number in enumerate(used)
    }
    share = {
        key: (index + 0.5) / len(keys)
        for keys in order.values()
        for index, key in enumerate(keys)
    }
    for sweep in range(_SWEEPS):
        for each in sorted(order, reverse=bool(sweep % 2)):
            keys = order[each]
            middle = {
                key: sum(share[other] for other in beside[key]) / len(beside[key])
                if beside[key]
                else share[key]
                for key in keys
            }
            keys.sort(key=lambda key: middle[key])
            for index, key in enumerate(keys):
                share[key] = (index + 0.5) / len(keys)
    nodes: dict[str, Node] = {}
    for each, keys in order.items():
        for row, key in enumerate(keys):
            kind, _, name = key.partition(":")
            nodes[key] = Node(key, cast("Kind", kind), name, each, row)
    return nodes
