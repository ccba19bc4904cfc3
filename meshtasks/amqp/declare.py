"""Declares the topology; no other module does.

Declaring is idempotent. It creates entities that are missing, does not touch entities
that exist as described, and raises an error for an entity that differs. It deletes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import kombu
from amqp.exceptions import (
    AccessRefused,
    ChannelError,
    InvalidCommand,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from typing_extensions import override

from meshtasks.amqp.connecting import depths_of
from meshtasks.amqp.entities import (
    HASH_EXCHANGE_TYPE,
    HASH_PLUGIN,
    MOST_PARTITIONS,
    Binding,
    DerivedQueue,
    Exchange,
    HashExchange,
    Queue,
    RetryQueue,
    exchange_of,
    partition_name,
)
from meshtasks.amqp.topology import Topology
from meshtasks.errors import ConfigError

#: RabbitMQ's text for the exchange type of a plugin that is not enabled.
_UNKNOWN_TYPE = "unknown exchange type"


def declare(connection: kombu.Connection, topology: Topology) -> None:
    """Declare the whole topology, on a new channel.

    Raises:
        ConfigError: an entity exists with another type, other arguments or other
            partitions, or the account may not declare it, or the broker lacks the
            plugin for partitions; the text names the entity and the remedy.
        amqp.exceptions.ConnectionError, OSError: the connection was lost.
    """
    for error in refusals(connection, topology):
        raise error


def declare_missing(connection: kombu.Connection, topology: Topology) -> None:
    """Declare the whole topology, even if the broker has other partitions.

    Raises the same as :func:`declare`, except for other partitions.
    """
    for error in _refusals(connection, topology):
        raise error


def refusals(connection: kombu.Connection, topology: Topology) -> Iterator[ConfigError]:
    """Declare the whole topology as :func:`declare` does, and continue past what the
    broker refuses. Yield the error for each such entity. If the broker has other
    partitions, nothing is declared.

    Raises:
        amqp.exceptions.ConnectionError, OSError: the connection was lost.
    """
    source, found = _source(connection), changes(connection, topology)
    for change in found:
        expected = f"{change}: `meshtasks topology apply` changes it, once it is empty"
        yield ConfigError(source, f"queue {change.queue.name}", expected)
    if not found:
        yield from _refusals(connection, topology)


def _refusals(
    connection: kombu.Connection, topology: Topology
) -> Iterator[ConfigError]:
    """The bindings of an entity that is refused are tried, but not mentioned."""
    refused: set[str] = set()
    with closing(connection.channel()) as channel:
        for what, ends, step in _steps(topology):
            try:
                step(channel=channel)
            except (ChannelError, InvalidCommand) as error:
                # py-amqp has opened the channel again
                if refused.isdisjoint(ends):
                    fault = ConfigError(_source(connection), what, _advice(error))
                    fault.__cause__ = error
                    yield fault
                if isinstance(error, InvalidCommand):  # which closes the connection
                    return
                refused.add(what)


def _source(connection: kombu.Connection) -> str:
    return f"RabbitMQ virtual host {connection.virtual_host}"


def task_queues(topology: Topology) -> list[kombu.Queue]:
    """The queues for Celery's ``task_queues`` setting.

    Celery declares none of them, so no declaration can differ from :func:`declare`.
    Tasks for a domain queue go through the default exchange, or the exchange before its
    partitions, to that queue only. Before the first command on a connection, Celery
    checks that the commands queue exists. So a caller gets an error instead of losing
    the command, and needs no permission to declare or read the queue.
    """
    by_name = {queue.name: queue for queue in topology.named_queues}
    direct = kombu.Exchange("", type="direct")
    hashed = partial(kombu.Exchange, type=HASH_EXCHANGE_TYPE, no_declare=True)
    domain = [
        _queue(
            by_name[name],
            exchange=hashed(exchange_of(name))
            if name in topology.partitioned
            else direct,
            routing_key=name,
            no_declare=True,
        )
        for name in topology.domain_queues
    ]
    way = topology.commands_binding
    exchange = next(x for x in topology.exchanges if x.name == way.exchange)
    commands = _ExistingQueue(
        topology.commands_queue,
        exchange=_exchange(exchange),
        durable=True,
        queue_arguments=by_name[topology.commands_queue].arguments,
        routing_key=way.routing_key,
    )
    return [*domain, commands]


class _ExistingQueue(kombu.Queue):  # type: ignore[misc]  # kombu has no types
    """A queue that is only checked for existence, which needs no permission."""

    @override
    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        self.queue_declare(nowait=nowait, passive=True, channel=channel)
        return str(self.name)


def _steps(
    topology: Topology,
) -> Iterator[tuple[str, tuple[str, ...], Callable[..., object]]]:
    """All declarations, each with the name of its entity and, for a binding, with the
    names of both ends.

    The dead-letter queue, its exchanges and its bindings come first. RabbitMQ retries
    a dead letter that found no queue only after three minutes, and messages to an
    exchange without bindings go to the dead-letter queue. For the same reason queues
    come before the exchanges that are bound to them.
    """
    end = topology.dead_letter_queue
    into_end = [b for b in topology.all_bindings if b.queue == end]
    sources = {binding.exchange for binding in into_end}
    for first in (True, False):
        for queue in topology.all_queues:
            if (queue.name == end) is first:
                yield f"queue {queue.name}", (), _queue(queue).queue_declare
        for exchange in topology.all_exchanges:
            if (exchange.name in sources) is first:
                yield f"exchange {exchange.name}", (), _exchange(exchange).declare
        for binding in topology.all_bindings:
            if (binding in into_end) is first:
                to = f"{binding.destination_type} {binding.destination}"
                ends = (f"exchange {binding.exchange}", to)
                yield f"binding {binding.label}", ends, _bind(binding)


def _exchange(exchange: Exchange | HashExchange) -> kombu.Exchange:
    return kombu.Exchange(
        exchange.name, type=exchange.type, durable=True, arguments=exchange.arguments
    )


def _queue(queue: Queue | DerivedQueue | RetryQueue, **options: Any) -> kombu.Queue:
    return kombu.Queue(
        queue.name, durable=True, queue_arguments=queue.arguments, **options
    )


def _bind(binding: Binding) -> Callable[..., object]:
    destination = (kombu.Queue if binding.queue else kombu.Exchange)(
        binding.destination
    )
    return partial(destination.bind_to, binding.exchange, binding.routing_key)


def _advice(error: ChannelError | InvalidCommand) -> str:
    match error:
        # RabbitMQ 4 closes with PRECONDITION_FAILED, older versions with
        # COMMAND_INVALID.
        case InvalidCommand() | PreconditionFailed() if _UNKNOWN_TYPE in str(
            error.reply_text
        ):
            return (
                f"is in partitions, for which the broker needs a plugin "
                f"({error.reply_text}): rabbitmq-plugins enable {HASH_PLUGIN}"
            )
        case PreconditionFailed():
            return (
                f"exists, but not as topology.yaml describes it ({error.reply_text}). "
                "Change topology.yaml to match, or empty and delete it on the "
                "broker; then run meshtasks topology apply"
            )
        case AccessRefused():
            return (
                f"may not be declared by this account ({error.reply_text}). It needs "
                "the rights to configure, write and read"
            )
        case _:
            return f"cannot be declared ({error.reply_text})"


class Change(NamedTuple):
    """A queue whose partitions on the broker differ from topology.yaml.

    Attributes:
        queue: the queue as topology.yaml describes it.
        found: names of the queues that the broker has for it.
    """

    queue: Queue
    found: tuple[str, ...]

    @property
    def leaving(self) -> list[str]:
        """Names of the queues to delete."""
        return [name for name in self.found if name not in self.queue.names]

    @override
    def __str__(self) -> str:
        name = self.queue.name
        has = f"{len(self.found)} partitions" if self.found != (name,) else "no parts"
        wants = self.queue.partitions or "none"
        return f"{name} has {has} on the broker and {wants} in topology.yaml"


def changes(connection: kombu.Connection, topology: Topology) -> list[Change]:
    """The queues whose partitions must change. Queues that do not exist yet are not
    among them.

    Raises:
        amqp.exceptions.ConnectionError, OSError: the connection was lost.
    """
    found = []
    for queue in topology.queues:
        if queue.name in topology.domain_queues:
            names = tuple(_found(connection, queue))
            if names and set(names) != set(queue.names):
                found.append(Change(queue, names))
    return found


def _found(connection: kombu.Connection, queue: Queue) -> Iterator[str]:
    """Names of the queues that the broker has for a queue: the queue itself, its
    partitions, or both if a change was interrupted."""
    if _is_there(connection, queue.name):
        yield queue.name
    try:
        with closing(connection.channel()) as channel:
            channel.exchange_declare(exchange_of(queue.name), "", passive=True)
    except NotFound:
        return
    for index in range(MOST_PARTITIONS):
        name = partition_name(queue.name, index)
        if not _is_there(connection, name):
            return
        yield name


def _is_there(connection: kombu.Connection, name: str) -> bool:
    try:
        return name in depths_of(connection, [name])
    except ResourceLocked:  # it is exclusive to another connection
        return True
