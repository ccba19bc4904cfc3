"""Exchanges, queues and bindings, as topology.yaml describes them; what stands for a
queue in partitions; and how routing keys match patterns, as in RabbitMQ.

Messages of one routing key stay in one partition, in their order. An exchange of
RabbitMQ's plugin ``rabbitmq_consistent_hash_exchange`` stands before the partitions and
chooses by a hash of the routing key, which is all that AMQP and MQTT publishers have in
common. Each is a quorum queue with a single active consumer
(https://www.rabbitmq.com/docs/consumers#single-active-consumer).

Outside of this package and the worker's consumers the name of the queue is the name of
them all. A retry goes back to its partition; what is replayed, through the exchange.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from meshtasks.config.loader import ConfigModel, refuse_value

#: Stands for "no limit". RabbitMQ 4 reads a missing limit as 20, and its own
#: spelling of "no limit", -1, makes 3.10 drop a message at its first redelivery.
UNLIMITED_DELIVERIES = 1_000_000_000

#: How long the outcome of a command waits to be fetched.
ANSWER_TTL_SECONDS = 7 * 86_400

HASH_PLUGIN = "rabbitmq_consistent_hash_exchange"
HASH_EXCHANGE_TYPE = "x-consistent-hash"
#: Nobody but the mesh publishes to exchanges of this name.
PARTITIONS_PREFIX = "partitions."
MOST_PARTITIONS = 64

_SUFFIX = re.compile(r"\.part-\d+$")

#: Of names and routing keys (AMQP 0-9-1, section 4.2.5.3).
SHORT_STRING_LIMIT_BYTES = 255
_MAX_RETRY_LEVEL_SECONDS = 86_400


def exchange_of(queue: str) -> str:
    """Name of the exchange before the partitions of a queue."""
    return PARTITIONS_PREFIX + queue


def presence_of(queue: str) -> str:
    """Name of the queue that every worker of these partitions consumes, and nobody
    publishes to: who has few partitions learns so how many share them. (Of a queue with
    a single active consumer the broker counts that one alone.)"""
    return PARTITIONS_PREFIX + queue


def partition_name(queue: str, index: int) -> str:
    """Name of a partition."""
    return f"{queue}.part-{index}"


def queue_of(name: str) -> str:
    """The queue that a partition is one of; any other name is its own."""
    return _SUFFIX.sub("", name)


def is_reserved(name: str) -> bool:
    """Whether a name is kept for partitions."""
    return name.startswith(PARTITIONS_PREFIX) or bool(_SUFFIX.search(name))


def _short_string(text: str) -> str:
    if len(text.encode()) > SHORT_STRING_LIMIT_BYTES:
        refuse_value(f"should have at most {SHORT_STRING_LIMIT_BYTES} bytes in UTF-8")
    return text


def _name(text: str) -> str:
    if not text:
        refuse_value("should not be empty")
    if text.startswith("amq."):
        refuse_value("names that start with 'amq.' are the broker's own")
    if is_reserved(text):
        refuse_value("names in 'partitions.…' and '….part-N' are those of partitions")
    return text


def _given(value: object) -> object:
    if value is None:
        refuse_value('is empty; write "#" in quotes, since # begins a comment in YAML')
    return value


ShortText = Annotated[str, AfterValidator(_short_string)]
Name = Annotated[ShortText, AfterValidator(_name)]
RoutingKey = Annotated[ShortText, BeforeValidator(_given)]
RetryLevel = Annotated[int, Field(ge=1, le=_MAX_RETRY_LEVEL_SECONDS)]


class ExchangeDefaults(ConfigModel):
    """What an exchange may leave to the ``defaults`` block.

    Attributes:
        alternate: exchange that takes the messages no binding here matches.
    """

    alternate: ShortText | None = None


class Exchange(ExchangeDefaults):
    """An exchange; always durable."""

    name: Name
    type: Literal["topic", "direct", "fanout"]

    @property
    def arguments(self) -> dict[str, str | int]:
        """The arguments it is declared with."""
        return {"alternate-exchange": self.alternate} if self.alternate else {}


class QueueDefaults(ConfigModel):
    """What a queue may leave to the ``defaults`` block.

    Attributes:
        kind: quorum queues only. Only they limit redeliveries and hold a dead
            letter until the dead-letter queue has it.
        delivery_limit: deliveries without an acknowledgement after which a
            message is a dead letter; None for no limit.
        dead_letter_exchange: exchange that takes rejected messages and those
            over the limit; None for the dead-letter queue itself.
        dead_letter_routing_key: routing key they get; None keeps their own.
    """

    kind: Literal["quorum"] = "quorum"
    delivery_limit: Annotated[int, Field(ge=1, lt=UNLIMITED_DELIVERIES)] | None = 20
    dead_letter_exchange: ShortText | None = None
    dead_letter_routing_key: RoutingKey | None = None


class Queue(QueueDefaults):
    """A queue; always durable.

    Attributes:
        max_bytes: of the bodies that wait in it; with so many it refuses what is
            published. None for no bound.
        partitions: queues of which it is made, so that the messages of one routing key
            stay in order; None for one queue, as ever.
    """

    name: Name
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    partitions: Annotated[int, Field(ge=2, le=MOST_PARTITIONS)] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the broker has of it: itself, or its partitions."""
        return tuple(
            partition_name(self.name, index) for index in range(self.partitions or 0)
        ) or (self.name,)

    @property
    def arguments(self) -> dict[str, str | int]:
        """The arguments it is declared with."""
        limit = self.delivery_limit or UNLIMITED_DELIVERIES
        arguments: dict[str, str | int] = {
            "x-queue-type": self.kind,
            "x-delivery-limit": limit,
        }
        if self.dead_letter_exchange is not None:
            arguments |= _dead_lettering(self.dead_letter_exchange)
            if self.dead_letter_routing_key is not None:
                arguments["x-dead-letter-routing-key"] = self.dead_letter_routing_key
        if self.max_bytes is not None:
            arguments |= {
                "x-max-length-bytes": self.max_bytes,
                "x-overflow": "reject-publish",
            }
        if self.partitions:
            arguments["x-single-active-consumer"] = True
        return arguments


class DerivedQueue(NamedTuple):
    """A queue that follows from what topology.yaml has; a partition, say."""

    name: str
    arguments: dict[str, str | int]


class HashExchange(NamedTuple):
    """The exchange before the partitions of a queue."""

    name: str
    type: str
    arguments: dict[str, str | int]


class RetryQueue(NamedTuple):
    """Where messages wait before they return to the queue they failed in.

    A message published to the exchange of the same name, with the name of a
    queue as routing key, expires after ``seconds`` to the default exchange with
    that key, so it returns to that queue alone. All messages of a queue wait
    equally long because only the head of a queue expires.
    """

    seconds: int

    @property
    def name(self) -> str:
        """Name of the queue, and of the fanout exchange that feeds it."""
        return f"retry.{self.seconds}"

    @property
    def arguments(self) -> dict[str, str | int]:
        """The arguments it is declared with."""
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": self.seconds * 1000,
            **_dead_lettering(""),
        }


def answers_queue(commands_queue: str) -> DerivedQueue:
    """Where the outcomes of commands wait for their callers; the default exchange is
    the way in.

    A caller names it in ``reply_to``, and only it is answered to. What is not
    fetched within a week is gone: an outcome is worth less than the disk it fills.
    """
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-message-ttl": ANSWER_TTL_SECONDS * 1000,
        "x-delivery-limit": UNLIMITED_DELIVERIES,
    }
    return DerivedQueue(f"{commands_queue}.answers", arguments)


class Binding(ConfigModel):
    """Messages of ``exchange`` that match ``routing_key`` go on to one destination.

    Attributes:
        exchange: the source.
        queue: the destination, when it is a queue.
        to_exchange: the destination, when it is an exchange.
        routing_key: a pattern for a topic exchange, a literal for a direct one,
            of no effect for a fanout.
    """

    exchange: ShortText
    queue: ShortText | None = None
    to_exchange: ShortText | None = None
    routing_key: RoutingKey = ""

    @model_validator(mode="after")
    def _one_destination(self) -> Self:
        if (self.queue is None) == (self.to_exchange is None):
            refuse_value("names one destination: either queue or to_exchange")
        return self

    @property
    def destination(self) -> str:
        """Name of the queue or exchange it leads to."""
        return self.queue or self.to_exchange or ""

    @property
    def destination_type(self) -> Literal["queue", "exchange"]:
        """Whether :attr:`destination` is a queue or an exchange."""
        return "exchange" if self.queue is None else "queue"

    @property
    def label(self) -> str:
        """The binding in one line, for people."""
        to = f"{self.destination_type} {self.destination}"
        return f"{self.exchange} → {to} ({self.routing_key!r})"


def _dead_lettering(exchange: str) -> dict[str, str | int]:
    """Arguments that hold a dead letter until a queue has confirmed it.

    By default it is sent once and forgotten. RabbitMQ wants the overflow with it.
    """
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


#: Where the broker's MQTT plugin publishes what devices send.
MQTT_EXCHANGE = "amq.topic"
#: Exchanges that every RabbitMQ virtual host has, with their types. A binding may
#: start at one; nobody may declare them.
PREDECLARED_EXCHANGES = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    MQTT_EXCHANGE: "topic",
}


def tail_of(routing_key: str) -> str:
    """Words after ``domain.kind``: ``living_room`` of
    ``sensors.temperature.living_room``; empty when there are none."""
    return ".".join(routing_key.split(".")[2:])


def matches(exchange_type: str, binding: Binding, routing_key: str) -> bool:
    """Whether an exchange of this type would route a message by a binding."""
    match exchange_type:
        case "fanout":
            return True
        case "topic":
            return topic_matches(binding.routing_key, routing_key)
        case _:
            return binding.routing_key == routing_key


@lru_cache(maxsize=16_384)
def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange would route ``routing_key`` by ``pattern``.

    Words are separated by dots; ``*`` stands for exactly one word, ``#`` for any
    number of words, none included (AMQP 0-9-1, section 3.1.3.3). As in RabbitMQ an
    empty routing key has no words, and a word may be empty (``a..b`` has three).

    The time grows with pattern times key, whatever the pattern: all ways to read
    it are followed at once, where trying one after the other could take ages for
    ``#.a.#.b.#`` and the like. A repeated question costs 0.1 µs.
    """
    wanted = _words(pattern)
    reached = _past_hashes(wanted, {0})
    for word in _words(routing_key):
        ahead = set()
        for index in reached:
            if index == len(wanted):
                continue
            if wanted[index] == "#":
                ahead.add(index)
            elif wanted[index] in ("*", word):
                ahead.add(index + 1)
        reached = _past_hashes(wanted, ahead)
    return len(wanted) in reached


@lru_cache(maxsize=4_096)
def patterns_overlap(one: str, other: str) -> bool:
    """Whether there is a routing key that both patterns match."""
    return _overlap(tuple(_words(one)), tuple(_words(other)))


@lru_cache(maxsize=16_384)
def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if not one or not other:
        return set(one) | set(other) <= {"#"}
    if one[0] == "#":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "#":
        return _overlap(other, one)
    fits = one[0] == other[0] or "*" in (one[0], other[0])
    return fits and _overlap(one[1:], other[1:])


def _words(text: str) -> list[str]:
    return text.split(".") if text else []


def _past_hashes(wanted: list[str], indexes: AbstractSet[int]) -> set[int]:
    """The indexes, and those behind each ``#`` there, which may match no word."""
    reached = set(indexes)
    for start in indexes:
        index = start
        while index < len(wanted) and wanted[index] == "#":
            index += 1
            reached.add(index)
    return reached
