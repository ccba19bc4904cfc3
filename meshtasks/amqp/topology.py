"""The exchanges, queues and bindings of the mesh, and the rules they must obey.

The model of config/topology.yaml. Besides what the file names, every retry
level adds an exchange, a queue and a binding, a queue in partitions an exchange and
its partitions, and the commands queue one for the answers;
:attr:`Topology.all_exchanges` and its siblings hold the whole of what a broker is to
have.
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

#: Where a dead letter is published; also by the broker.
DEAD_LETTER_EXCHANGE = "dead.letter"
#: Excerpts of records, for the archive. Anyone may publish any JSON to it; what comes
#: without the header :data:`~meshtasks.amqp.headers.EXCERPTS` is archived as it is.
ARCHIVE_EXCHANGE = "archive"
#: Where points wait while the time-series store is away. A topology.yaml that does not
#: name the queue has it all the same.
PENDING_TIMESERIES = "pending.timeseries"
#: Its bound unless topology.yaml sets another: points of some three million readings.
_PENDING_BYTES = 1 << 30


class Defaults(ConfigModel):
    """What every exchange and every queue has by default."""

    exchange: ExchangeDefaults = ExchangeDefaults()
    queue: QueueDefaults = QueueDefaults()


class Topology(ConfigModel):
    """config/topology.yaml.

    Attributes:
        defaults: laid under each of ``exchanges`` and ``queues``.
        exchanges: in order of the file.
        queues: in order of the file.
        bindings: in order of the file.
        retry_levels: how long the retry queues hold a message, seconds,
            ascending.
        commands_queue: the queue of the mesh's own Celery tasks, and the only
            one that takes Celery messages for them.
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
        """The queues of the file, and the one of pending points, which a file need not
        name: it then dead-letters as the first of those that do. It has no delivery
        limit: while it is full, what tried the store in vain is given back to it."""
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
        """Types of :attr:`exchanges`, by name."""
        return {exchange.name: exchange.type for exchange in self.exchanges}

    @cached_property
    def queue_names(self) -> frozenset[str]:
        """Names of :attr:`named_queues`; the retry queues are not among them."""
        return frozenset(queue.name for queue in self.named_queues)

    @cached_property
    def dead_letter_queue(self) -> str:
        """Name of the queue where dead letters end."""
        return next(q.name for q in self.queues if q.dead_letter_exchange is None)

    @cached_property
    def domain_queues(self) -> tuple[str, ...]:
        """Names of the queues that carry what was published to the mesh, or what
        waits for a sink: not dead letters or commands."""
        others = {self.dead_letter_queue, self.commands_queue}
        return tuple(q.name for q in self.named_queues if q.name not in others)

    @cached_property
    def retry_queues(self) -> tuple[RetryQueue, ...]:
        """One for each of :attr:`retry_levels`."""
        return tuple(map(RetryQueue, self.retry_levels))

    @cached_property
    def answers_queue(self) -> DerivedQueue:
        """Where the outcomes of commands go."""
        return answers_queue(self.commands_queue)

    @cached_property
    def commands_binding(self) -> Binding:
        """The one binding that leads to the commands queue."""
        return next(b for b in self.bindings if b.queue == self.commands_queue)

    @cached_property
    def partitioned(self) -> Mapping[str, Queue]:
        """The queues that are made of partitions, by name."""
        return {queue.name: queue for queue in self.queues if queue.partitions}

    def names_of(self, queue: str) -> tuple[str, ...]:
        """What the broker has of a queue: its partitions, or itself."""
        found = self.partitioned.get(queue)
        return found.names if found else (queue,)

    @cached_property
    def all_exchanges(self) -> tuple[Exchange | HashExchange, ...]:
        """Every exchange of the mesh, those of retry queues and partitions included."""
        # No alternate: a retry that cannot wait must fail, not die.
        retry = (Exchange(name=q.name, type="fanout") for q in self.retry_queues)
        usual = Exchange(name="any", type="topic", **dict(self.defaults.exchange))
        hashes = (
            HashExchange(exchange_of(name), HASH_EXCHANGE_TYPE, usual.arguments)
            for name in self.partitioned
        )
        return (*self.exchanges, *retry, *hashes)

    @cached_property
    def all_queues(self) -> tuple[Queue | DerivedQueue | RetryQueue, ...]:
        """Every queue of the mesh, partitions, retries and the answers to commands
        included."""
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
        """Every binding of the mesh, those of retry queues and partitions included."""
        # of equal weight, which is what the routing key means there
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
        """Names of the queues that get a message published so.

        Bindings between exchanges are followed, and alternate exchanges where no
        binding matches. The default exchange (``""``) leads to the queue that the
        routing key names.
        """
        if not exchange:
            names = {queue.name for queue in self.all_queues} & {routing_key}
            return frozenset(map(queue_of, names))
        if (queue := exchange.removeprefix(PARTITIONS_PREFIX)) in self.partitioned:
            return frozenset({queue})
        declared = {x.name: x for x in self.all_exchanges if isinstance(x, Exchange)}
        types = PREDECLARED_EXCHANGES | {name: x.type for name, x in declared.items()}
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
                for binding in (*self.bindings, *self._retry_bindings)
                if binding.exchange == name
                and matches(types[name], binding, routing_key)
            ]
            queues |= {binding.queue for binding in matching if binding.queue}
            ahead += [b.to_exchange for b in matching if b.to_exchange]
            if not matching and name in declared and declared[name].alternate:
                ahead.append(declared[name].alternate or "")
        return frozenset(queues)

    def way_to(self, queue: str, routing_key: str) -> tuple[str, str]:
        """Exchange and routing key by which a message reaches this queue alone, with
        the headers of the mesh believed.

        Args:
            routing_key: of first publication, which chooses the partition.
        """
        if queue in self.partitioned:
            return exchange_of(queue), routing_key
        return "", queue

    def handled_queues(self, exchange: str, routing_key: str) -> frozenset[str]:
        """Names of the domain queues that get a message published so.

        None for what ends among the dead letters, for commands, for retries, and for
        the exchanges that are not of the mesh.
        """
        if exchange not in {item.name for item in self.exchanges}:
            return frozenset()
        reached = self.queues_reached(exchange, routing_key)
        return reached.intersection(self.domain_queues)


def faults_of(topology: Topology) -> list[InitErrorDetails]:
    """The contradictions; routes are followed only once all names are known."""
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
    """Every queue dead-letters to the one queue that does not."""
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
    """Whoever reaches the commands queue starts tasks: no topic leads there."""
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
