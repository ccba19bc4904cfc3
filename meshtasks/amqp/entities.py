"""Exchanges, queues and bindings of topology.yaml, the entities of partitioned queues,
and the matching of routing keys by RabbitMQ's rules.

A partitioned queue consists of several queues, its partitions. All messages of one
routing key are in one partition, in order. The exchange before the partitions belongs
to RabbitMQ's plugin ``rabbitmq_consistent_hash_exchange``; it selects the partition by
a hash of the routing key, because that is all that AMQP and MQTT publishers have in
common. Each partition is a quorum queue with a single active consumer
(https://www.rabbitmq.com/docs/consumers#single-active-consumer).

Only this package and the worker's consumers use the names of partitions; all other code
uses the name of the queue. A retry returns to its partition; a replay goes through the
exchange.
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

#: Means "no limit". RabbitMQ 4 takes a missing limit as 20. Its value for "no limit",
#: -1, makes RabbitMQ 3.10 drop a message at the first redelivery.
UNLIMITED_DELIVERIES = 1_000_000_000

#: How long the answer to a command waits for its caller.
ANSWER_TTL_SECONDS = 7 * 86_400

HASH_PLUGIN = "rabbitmq_consistent_hash_exchange"
HASH_EXCHANGE_TYPE = "x-consistent-hash"
#: Prefix of the exchanges before partitions; only the mesh may publish to them.
PARTITIONS_PREFIX = "partitions."
MOST_PARTITIONS = 64

_SUFFIX = re.compile(r"\.part-\d+$")

#: Longest name or routing key (AMQP 0-9-1, section 4.2.5.3).
SHORT_STRING_LIMIT_BYTES = 255
_MAX_RETRY_LEVEL_SECONDS = 86_400


def exchange_of(queue: str) -> str:
    """Name of the exchange before the partitions of a queue."""
    return PARTITIONS_PREFIX + queue


def presence_of(queue: str) -> str:
    """Name of the presence queue of a partitioned queue.

    Every worker of the partitions consumes it, and nobody publishes to it. Its number
    of consumers tells a worker how many workers share the partitions. The partitions
    themselves cannot: the broker counts only their single active consumer.
    """
    return PARTITIONS_PREFIX + queue


def partition_name(queue: str, index: int) -> str:
    """Name of a partition."""
    return f"{queue}.part-{index}"


def queue_of(name: str) -> str:
    """Name of the queue to which a partition belongs; other names are unchanged."""
    return _SUFFIX.sub("", name)


def is_reserved(name: str) -> bool:
    """Whether a name is reserved for partitions."""
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
    """Keys of an exchange that ``defaults`` may set.

    Attributes:
        alternate: exchange that gets the messages that match no binding of this one.
    """

    alternate: ShortText | None = None


class Exchange(ExchangeDefaults):
    """An exchange; always durable."""

    name: Name
    type: Literal["topic", "direct", "fanout"]

    @property
    def arguments(self) -> dict[str, str | int]:
        """Arguments of its declaration."""
        return {"alternate-exchange": self.alternate} if self.alternate else {}


class QueueDefaults(ConfigModel):
    """Keys of a queue that ``defaults`` may set.

    Attributes:
        kind: type of the queue. Only quorum queues limit redeliveries, and keep a dead
            letter until the dead-letter queue has confirmed it.
        delivery_limit: number of deliveries without acknowledgement after which the
            broker dead-letters a message; None for no limit.
        dead_letter_exchange: exchange of the messages that the broker dead-letters;
            None for the dead-letter queue itself.
        dead_letter_routing_key: their routing key; None keeps the message's own.
    """

    kind: Literal["quorum"] = "quorum"
    delivery_limit: Annotated[int, Field(ge=1, lt=UNLIMITED_DELIVERIES)] | None = 20
    dead_letter_exchange: ShortText | None = None
    dead_letter_routing_key: RoutingKey | None = None


class Queue(QueueDefaults):
    """A queue; always durable.

    Attributes:
        max_bytes: limit of the bodies in the queue, bytes; at the limit it rejects
            publishes. None for no limit.
        partitions: number of partitions, which keep the messages of one routing key in
            order; None for a single queue.
    """

    name: Name
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    partitions: Annotated[int, Field(ge=2, le=MOST_PARTITIONS)] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names by which the broker knows it: its partitions, or itself."""
        return tuple(
            partition_name(self.name, index) for index in range(self.partitions or 0)
        ) or (self.name,)

    @property
    def arguments(self) -> dict[str, str | int]:
        """Arguments of its declaration."""
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
    """A queue that topology.yaml implies without naming it, such as a partition."""

    name: str
    arguments: dict[str, str | int]


class HashExchange(NamedTuple):
    """The exchange before the partitions of a queue."""

    name: str
    type: str
    arguments: dict[str, str | int]


class RetryQueue(NamedTuple):
    """A queue in which messages wait before they return to the queue they failed in.

    A message is published to the exchange of the same name, with the queue it failed in
    as routing key. After ``seconds`` it expires to the default exchange with the same
    key, and so returns to that queue only. All messages of a retry queue wait equally
    long, because the broker expires messages only at the head of a queue.
    """

    seconds: int

    @property
    def name(self) -> str:
        """Name of the queue, and of the fanout exchange that feeds it."""
        return f"retry.{self.seconds}"

    @property
    def arguments(self) -> dict[str, str | int]:
        """Arguments of its declaration."""
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": self.seconds * 1000,
            **_dead_lettering(""),
        }


def answers_queue(commands_queue: str) -> DerivedQueue:
    """The queue in which answers to commands wait for their callers.

    Answers are published through the default exchange. A caller names the queue in
    ``reply_to``; no other queue gets answers. Answers that nobody fetches expire after
    a week, so that they do not fill the disk.
    """
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-message-ttl": ANSWER_TTL_SECONDS * 1000,
        "x-delivery-limit": UNLIMITED_DELIVERIES,
    }
    return DerivedQueue(f"{commands_queue}.answers", arguments)


class Binding(ConfigModel):
    """Routes the messages of ``exchange`` that match ``routing_key`` to a destination.

    Attributes:
        exchange: name of the source.
        queue: name of the destination, if it is a queue.
        to_exchange: name of the destination, if it is an exchange.
        routing_key: for a topic exchange a pattern, for a direct exchange the exact
            key; a fanout exchange ignores it.
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
        """Name of the destination queue or exchange."""
        return self.queue or self.to_exchange or ""

    @property
    def destination_type(self) -> Literal["queue", "exchange"]:
        """Whether :attr:`destination` is a queue or an exchange."""
        return "exchange" if self.queue is None else "queue"

    @property
    def label(self) -> str:
        """The binding as one line of text for messages."""
        to = f"{self.destination_type} {self.destination}"
        return f"{self.exchange} → {to} ({self.routing_key!r})"


def _dead_lettering(exchange: str) -> dict[str, str | int]:
    """Arguments that make the broker keep a dead letter until a queue confirms it.

    By default it sends a dead letter once, at most. RabbitMQ requires this overflow
    strategy with ``at-least-once``.
    """
    return {
        "x-dead-letter-exchange": exchange,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


#: Exchange to which the broker's MQTT plugin publishes the messages of devices.
MQTT_EXCHANGE = "amq.topic"
#: Exchanges of every RabbitMQ virtual host, with their types. They may be the source of
#: a binding, but cannot be declared.
PREDECLARED_EXCHANGES = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    MQTT_EXCHANGE: "topic",
}


def tail_of(routing_key: str) -> str:
    """The words after ``domain.kind``: ``living_room`` of
    ``sensors.temperature.living_room``; empty if there are none."""
    return ".".join(routing_key.split(".")[2:])


def matches(exchange_type: str, binding: Binding, routing_key: str) -> bool:
    """Whether an exchange of this type routes the routing key by the binding."""
    match exchange_type:
        case "fanout":
            return True
        case "topic":
            return topic_matches(binding.routing_key, routing_key)
        case _:
            return binding.routing_key == routing_key


@lru_cache(maxsize=16_384)
def topic_matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange routes ``routing_key`` by ``pattern``.

    Words are separated by dots; ``*`` matches exactly one word, ``#`` any number of
    words, also none (AMQP 0-9-1, section 3.1.3.3). As in RabbitMQ, an empty routing key
    has no words, and a word may be empty (``a..b`` has three).

    The time is proportional to length of pattern times length of key, because all
    possible matches are followed at once. Backtracking would take exponential time for
    patterns such as ``#.a.#.b.#``. A cached result takes 0.1 µs.
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
    """Whether some routing key matches both patterns."""
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
    """The indexes, and those after each ``#`` there: ``#`` may match no word."""
    reached = set(indexes)
    for start in indexes:
        index = start
        while index < len(wanted) and wanted[index] == "#":
            index += 1
            reached.add(index)
    return reached
