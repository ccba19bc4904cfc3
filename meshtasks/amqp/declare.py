"""The topology as kombu entities, and the one place that declares them.

Declaring is idempotent: what exists as described is left alone, what is missing
is created, and what differs is refused with its name. Nothing is ever deleted.
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

#: RabbitMQ says so of the type of a plugin that is not enabled.
_UNKNOWN_TYPE = "unknown exchange type"


def declare(connection: kombu.Connection, topology: Topology) -> None:
    """Declare the whole topology, on a channel of its own.

    Raises:
        ConfigError: something exists with another type, other arguments or other
            partitions, or the account may not declare it, or the broker lacks the
            plugin of partitions; the text names it and the remedy.
        amqp.exceptions.ConnectionError, OSError: the connection was lost.
    """
    for change in changes(connection, topology):
        expected = f"{change}: `meshtasks topology apply` changes it, once it is empty"
        raise ConfigError(_source(connection), f"queue {change.queue.name}", expected)
    declare_missing(connection, topology)


def declare_missing(connection: kombu.Connection, topology: Topology) -> None:
    """The same, whatever partitions the broker has besides."""
    with closing(connection.channel()) as channel:
        for what, step in _steps(topology):
            try:
                step(channel=channel)
            except (ChannelError, InvalidCommand) as error:
                raise ConfigError(_source(connection), what, _advice(error)) from error


def _source(connection: kombu.Connection) -> str:
    return f"RabbitMQ virtual host {connection.virtual_host}"


def task_queues(topology: Topology) -> list[kombu.Queue]:
    """The queues for Celery's ``task_queues`` setting.

    Celery is left no declaration that could differ from :func:`declare`. It
    declares no domain queue, and what it sends to one goes through the
    default exchange to that queue alone. Of the commands queue it asks whether it
    is there, before each connection's first command: a caller gets an error rather
    than have a command vanish, and needs no right to declare or to read it.
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
    """A queue that others declare; no account needs a right to look for it."""

    @override
    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        self.queue_declare(nowait=nowait, passive=True, channel=channel)
        return str(self.name)


def _steps(topology: Topology) -> Iterator[tuple[str, Callable[..., object]]]:
    """Each declaration with the name of what it declares.

    The way into the dead-letter queue comes first: RabbitMQ tries a dead letter
    that found no queue again only after three minutes, and until its bindings
    are made, what is published to an exchange can only go there. For the same
    reason an exchange comes after the queues it is to be bound to.
    """
    end = topology.dead_letter_queue
    into_end = [b for b in topology.all_bindings if b.queue == end]
    sources = {binding.exchange for binding in into_end}
    for first in (True, False):
        for queue in topology.all_queues:
            if (queue.name == end) is first:
                yield f"queue {queue.name}", _queue(queue).queue_declare
        for exchange in topology.all_exchanges:
            if (exchange.name in sources) is first:
                yield f"exchange {exchange.name}", _exchange(exchange).declare
        for binding in topology.all_bindings:
            if (binding in into_end) is first:
                yield f"binding {binding.label}", _bind(binding)


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
        # RabbitMQ 4 refuses it as a precondition, older ones as an invalid command.
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
    """A queue whose partitions are others on the broker than in topology.yaml.

    Attributes:
        queue: as topology.yaml describes it.
        found: names of what the broker has of it.
    """

    queue: Queue
    found: tuple[str, ...]

    @property
    def leaving(self) -> list[str]:
        """What is to be deleted."""
        return [name for name in self.found if name not in self.queue.names]

    @override
    def __str__(self) -> str:
        name = self.queue.name
        has = f"{len(self.found)} partitions" if self.found != (name,) else "no parts"
        wants = self.queue.partitions or "none"
        return f"{name} has {has} on the broker and {wants} in topology.yaml"


def changes(connection: kombu.Connection, topology: Topology) -> list[Change]:
    """What has to be changed; nothing of what is not there yet.

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
    """What the broker has of a queue: itself, partitions, or all of them if a change
    was interrupted."""
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
    return name in depths_of(connection, [name])
