"""The exchanges, queues and bindings of the mesh, and the rules for them.

This is the model of config/topology.yaml. Some entities follow from the file without
being named in it: each retry level has an exchange, a queue and a binding; a
partitioned queue has an exchange, its partitions and a presence queue; the commands
queue has a queue for answers. :attr:`Topology.all_exchanges`,
:attr:`Topology.all_queues` and :attr:`Topology.all_bindings` contain everything that
the broker must have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    model_validator,
)
from pydantic_core import InitErrorDetails

from meshtasks.amqp.entities import (
    HASH_EXCHANGE_TYPE,
    PARTITIONS_PREFIX,
    PREDECLARED_EXCHANGES,
    Binding,
    DerivedQueue,
    Exchange,
    ExchangeDefaults,
    HashExchange,
    Queue,
    QueueDefaults,
    RetryLevel,
    RetryQueue,
    answers_queue,
    exchange_of,
    matches,
    presence_of,
    queue_of,
)
from meshtasks.config.loader import ConfigModel, fault, refuse_all
from meshtasks.config.settings import ConfigFile

#: Exchange to which workers and broker publish dead letters.
DEAD_LETTER_EXCHANGE = "dead.letter"
#: Exchange of excerpts for the archive. Publishers may send any JSON to it: a message
#: without the header :data:`~meshtasks.amqp.headers.EXCERPTS` is archived as it is.
ARCHIVE_EXCHANGE = "archive"
#: Queue in which points wait while the time-series store is unavailable. It exists
#: even if topology.yaml does not name it.
PENDING_TIMESERIES = "pending.timeseries"
#: Default ``max_bytes`` of that queue: points of about three million readings.
_PENDING_BYTES = 1 << 30


class Defaults(ConfigModel):
    """Default values of every exchange and every queue."""

    exchange: ExchangeDefaults = ExchangeDefaults()
    queue: QueueDefaults = QueueDefaults()


class Topology(ConfigModel):
    """config/topology.yaml.

    Attributes:
        defaults: values for keys that ``exchanges`` and ``queues`` leave out.
        exchanges: in the order of the file.
        queues: in the order of the file.
        bindings: in the order of the file.
        retry_levels: waits of the retry queues, seconds, ascending.
        commands_queue: queue of the mesh's commands, the only one from which Celery
            task messages are run.
    """

    defaults: Defaults = Defaults()
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    retry_levels: Annotated[tuple[RetryLevel, ...], Field(min_length=1)]
    commands_queue: str

    @model_validator(mode="before")
    @classmethod
    def _lay_defaults_under(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("defaults"), dict):
            return data
        result = dict(data)
        for plural, singular in (("exchanges", "exchange"), ("queues", "queue")):
            base, items = data["defaults"].get(singular), data.get(plural)
            if isinstance(base, dict) and isinstance(items, list):
                result[plural] = [
                    base | item if isinstance(item, dict) else item for item in items
                ]
        return result

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        refuse_all(type(self).__name__, faults_of(self))
        return self

    @cached_property
    def named_queues(self) -> tuple[Queue, ...]:
        """The queues of the file, and the queue of pending points.

        If the file does not name the latter, it dead-letters like the first queue that
        does. It has no delivery limit: while it is full, messages whose write failed
        are requeued.
        """
        if any(queue.name == PENDING_TIMESERIES for queue in self.queues):
            return self.queues
        like = next(
            (q for q in self.queues if q.dead_letter_exchange is not None), None
        )
        if like is None:
            return self.queues
        own = {
            "name": PENDING_TIMESERIES,
            "max_bytes": _PENDING_BYTES,
            "delivery_limit": None,
        }
        return (*self.queues, like.model_copy(update=own))

    @cached_property
    def exchange_types(self) -> Mapping[str, str]:
        """Types of :attr:`exchanges` by name."""
        return {exchange.name: exchange.type for exchange in self.exchanges}

    @cached_property
    def queue_names(self) -> frozenset[str]:
        """Names of :attr:`named_queues`, without the retry queues."""
        return frozenset(queue.name for queue in self.named_queues)

    @cached_property
    def dead_letter_queue(self) -> str:
        """Name of the queue of dead letters."""
        return next(q.name for q in self.queues if q.dead_letter_exchange is None)

    @cached_property
    def domain_queues(self) -> tuple[str, ...]:
        """Names of the queues of published messages and of points that wait for the
        store; not those of dead letters and commands."""
        others = {self.dead_letter_queue, self.commands_queue}
        return tuple(q.name for q in self.named_queues if q.name not in others)

    @cached_property
    def retry_queues(self) -> tuple[RetryQueue, ...]:
        """The retry queues, one per :attr:`retry_levels`."""
        return tuple(map(RetryQueue, self.retry_levels))

    @cached_property
    def answers_queue(self) -> DerivedQueue:
        """The queue of answers to commands."""
        return answers_queue(self.commands_queue)

    @cached_property
    def commands_binding(self) -> Binding:
        """The only binding of the commands queue."""
        return next(b for b in self.bindings if b.queue == self.commands_queue)

    @cached_property
    def partitioned(self) -> Mapping[str, Queue]:
        """Partitioned queues by name."""
        return {queue.name: queue for queue in self.queues if queue.partitions}

    def names_of(self, queue: str) -> tuple[str, ...]:
        """Names by which the broker knows a queue: its partitions, or itself."""
        found = self.partitioned.get(queue)
        return found.names if found else (queue,)

    @cached_property
    def all_exchanges(self) -> tuple[Exchange | HashExchange, ...]:
        """Every exchange of the mesh, including those before retry queues and
        partitions."""
        # No alternate exchange: a retry that has no queue must fail, not be dead.
        retry = (Exchange(name=q.name, type="fanout") for q in self.retry_queues)
        usual = Exchange(name="any", type="topic", **dict(self.defaults.exchange))
        hashes = (
            HashExchange(exchange_of(name), HASH_EXCHANGE_TYPE, usual.arguments)
            for name in self.partitioned
        )
        return (*self.exchanges, *retry, *hashes)

    @cached_property
    def all_queues(self) -> tuple[Queue | DerivedQueue | RetryQueue, ...]:
        """Every queue of the mesh, including partitions, retry queues and answers."""
        queues = (
            DerivedQueue(name, queue.arguments) if queue.partitions else queue
            for queue in self.named_queues
            for name in queue.names
        )
        presence = (
            DerivedQueue(presence_of(queue), {"x-queue-type": "quorum"})
            for queue in self.partitioned
        )
        return (*queues, self.answers_queue, *self.retry_queues, *presence)

    @cached_property
    def all_bindings(self) -> tuple[Binding, ...]:
        """Every binding of the mesh, including those of retry queues and partitions."""
        # the routing key of a binding to a hash exchange is its weight: all are equal
        weights = (
            Binding(exchange=exchange_of(queue.name), queue=name, routing_key="1")
            for queue in self.partitioned.values()
            for name in queue.names
        )
        bindings = (
            Binding(
                exchange=each.exchange,
                to_exchange=exchange_of(each.queue),
                routing_key=each.routing_key,
            )
            if each.queue and each.queue in self.partitioned
            else each
            for each in self.bindings
        )
        return (*weights, *bindings, *self._retry_bindings)

    @cached_property
    def _retry_bindings(self) -> tuple[Binding, ...]:
        return tuple(Binding(exchange=q.name, queue=q.name) for q in self.retry_queues)

    def queues_reached(self, exchange: str, routing_key: str) -> frozenset[str]:
        """Names of the queues to which the broker routes a message.

        Follows bindings between exchanges, and the alternate exchange if no binding
        matches. The default exchange (``""``) routes to the queue that the routing key
        names.
        """
        if not exchange:
            names = {queue.name for queue in self.all_queues} & {routing_key}
            return frozenset(map(queue_of, names))
        if (queue := exchange.removeprefix(PARTITIONS_PREFIX)) in self.partitioned:
            return frozenset({queue})
        declared = {x.name: x for x in self.all_exchanges if isinstance(x, Exchange)}
        types = PREDECLARED_EXCHANGES | {name: x.type for name, x in declared.items()}
        bindings = (*self.bindings, *self._retry_bindings)
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
                for binding in bindings
                if binding.exchange == name
                and matches(types[name], binding, routing_key)
            ]
            queues |= {binding.queue for binding in matching if binding.queue}
            ahead += [b.to_exchange for b in matching if b.to_exchange]
            if not matching and name in declared and declared[name].alternate:
                ahead.append(declared[name].alternate or "")
        return frozenset(queues)

    def way_to(self, queue: str, routing_key: str) -> tuple[str, str]:
        """Exchange and routing key that route a message to this queue only, from an
        exchange on which the mesh's headers are trusted.

        Args:
            queue: name of the queue.
            routing_key: routing key of first publication; it selects the partition.
        """
        if queue in self.partitioned:
            return exchange_of(queue), routing_key
        return "", queue

    def handled_queues(self, exchange: str, routing_key: str) -> frozenset[str]:
        """Names of the domain queues to which a message is routed.

        Empty for messages that become dead letters, for commands and retries, and for
        exchanges that topology.yaml does not declare.
        """
        if exchange not in {item.name for item in self.exchanges}:
            return frozenset()
        reached = self.queues_reached(exchange, routing_key)
        return reached.intersection(self.domain_queues)


def faults_of(topology: Topology) -> list[InitErrorDetails]:
    """Contradictions in a topology. Routes are followed only if all names are valid."""
    return (
        [*_name_faults(topology), *_reference_faults(topology)]
        or [*_dead_letter_faults(topology), *_alternate_faults(topology)]
        or [*_command_faults(topology), *_partition_faults(topology)]
    )


def _name_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    yield from _repeated_names("exchanges", topology.exchanges, topology)
    yield from _repeated_names("queues", topology.queues, topology)
    for index, binding in enumerate(topology.bindings):
        if (first := topology.bindings.index(binding)) < index:
            yield fault(f"the same binding as bindings.{first}", "bindings", index)
    levels = topology.retry_levels
    for index, (before, level) in enumerate(pairwise(levels), 1):
        if level <= before:
            yield fault("levels should ascend, none twice", "retry_levels", index)


def _repeated_names(
    key: str, entities: Sequence[Exchange | Queue], topology: Topology
) -> Iterator[InitErrorDetails]:
    generated = {queue.name for queue in topology.retry_queues}
    seen: set[str] = set()
    for index, entity in enumerate(entities):
        if entity.name in seen:
            yield fault(f"{entity.name} is declared twice", key, index, "name")
        if entity.name in generated:
            reason = f"{entity.name} is declared by retry_levels already"
            yield fault(reason, key, index, "name")
        seen.add(entity.name)


def _reference_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    types = topology.exchange_types

    def undeclared(name: str | None, *loc: str | int) -> Iterator[InitErrorDetails]:
        if name is not None and name not in types:
            yield fault(f"no exchange {name!r} is declared", *loc)

    for index, exchange in enumerate(topology.exchanges):
        yield from undeclared(exchange.alternate, "exchanges", index, "alternate")
    for index, queue in enumerate(topology.queues):
        loc = ("queues", index, "dead_letter_exchange")
        yield from undeclared(queue.dead_letter_exchange, *loc)
    for index, binding in enumerate(topology.bindings):
        if binding.exchange not in PREDECLARED_EXCHANGES:
            yield from undeclared(binding.exchange, "bindings", index, "exchange")
        yield from undeclared(binding.to_exchange, "bindings", index, "to_exchange")
        if binding.queue is not None and binding.queue not in topology.queue_names:
            reason = f"no queue {binding.queue!r} is declared"
            yield fault(reason, "bindings", index, "queue")
        if not binding.routing_key and types.get(binding.exchange) != "fanout":
            reason = "only a binding of a fanout exchange may have no routing key"
            yield fault(reason, "bindings", index, "routing_key")
    if topology.commands_queue not in topology.queue_names:
        reason = f"no queue {topology.commands_queue!r} is declared"
        yield fault(reason, "commands_queue")


def _dead_letter_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    """Each queue must dead-letter to the one queue that has no dead-letter exchange."""
    ends = {q.name for q in topology.queues if q.dead_letter_exchange is None}
    if not ends:
        reason = "one queue, where dead letters end, needs dead_letter_exchange: null"
        yield fault(reason, "queues")
    used: set[str] = set()
    for index, queue in enumerate(topology.queues):
        exchange, key = queue.dead_letter_exchange, queue.dead_letter_routing_key
        if exchange is None:
            continue
        loc = ("queues", index, "dead_letter_routing_key")
        reached = ends & topology.queues_reached(exchange, key or "")
        used |= reached
        if key is None and not _takes_any_key(topology, exchange):
            yield fault(f"is needed: {exchange} is no fanout exchange", *loc)
        elif ends and not reached:
            names = " or ".join(sorted(ends))
            yield fault(f"{exchange} has no binding from {key!r} to {names}", *loc)
    for index, queue in enumerate(topology.queues):
        if queue.name in ends - used:
            reason = "is needed: dead letters of other queues do not end here"
            yield fault(reason, "queues", index, "dead_letter_exchange")
        elif queue.name in ends and len(ends & used) > 1:
            reason = "is needed: dead letters should end in one queue only"
            yield fault(reason, "queues", index, "dead_letter_exchange")


def _alternate_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    for index, exchange in enumerate(topology.exchanges):
        alternate = exchange.alternate
        if alternate is not None and not _takes_any_key(topology, alternate):
            reason = (
                f"{alternate} should be a fanout exchange with a queue: an "
                "unroutable message keeps its own routing key"
            )
            yield fault(reason, "exchanges", index, "alternate")


def _partition_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    for index, queue in enumerate(topology.queues):
        if queue.partitions and queue.name not in topology.domain_queues:
            reason = "commands and dead letters are in one queue each"
            yield fault(reason, "queues", index, "partitions")


def _command_faults(topology: Topology) -> Iterator[InitErrorDetails]:
    """Messages in the commands queue run tasks: no topic exchange may lead there."""
    name = topology.commands_queue
    sources = [
        binding.exchange for binding in topology.bindings if binding.queue == name
    ]
    if [topology.exchange_types.get(source) for source in sources] != ["direct"]:
        reason = f"{name} should have one binding, from a direct exchange"
        yield fault(reason, "commands_queue")
    if name == topology.dead_letter_queue:
        yield fault("dead letters and commands need a queue each", "commands_queue")


def _takes_any_key(topology: Topology, name: str) -> bool:
    return topology.exchange_types[name] == "fanout" and bool(
        topology.queues_reached(name, "")
    )


TOPOLOGY = ConfigFile("topology.yaml", Topology)
