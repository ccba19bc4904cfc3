"""A queue in partitions: messages of one routing key stay in one, in their order.

An exchange of RabbitMQ's plugin ``rabbitmq_consistent_hash_exchange`` stands before
them and chooses by a hash of the routing key, which is all that AMQP and MQTT
publishers have in common. Each partition is a quorum queue with a single active
consumer (https://www.rabbitmq.com/docs/consumers#single-active-consumer).

Outside of this package and the worker's consumers the name of the queue is the name of
them all. A retry goes back to its partition; what is replayed, through the exchange.
"""

from __future__ import annotations

import re

PLUGIN = "rabbitmq_consistent_hash_exchange"
EXCHANGE_TYPE = "x-consistent-hash"
#: Nobody but the mesh publishes to exchanges of this name.
EXCHANGE_PREFIX = "partitions."
MOST = 64

_SUFFIX = re.compile(r"\.part-\d+$")


def exchange_of(queue: str) -> str:
    """Name of the exchange before the partitions of a queue."""
    return EXCHANGE_PREFIX + queue


def presence_of(queue: str) -> str:
    """Name of the queue that every worker of these partitions consumes, and nobody
    publishes to: who has few partitions learns so how many share them. (Of a queue with
    a single active consumer the broker counts that one alone.)"""
    return EXCHANGE_PREFIX + queue


def partition_name(queue: str, index: int) -> str:
    """Name of a partition."""
    return f"{queue}.part-{index}"


def queue_of(name: str) -> str:
    """The queue that a partition is one of; any other name is its own."""
    return _SUFFIX.sub("", name)


def is_reserved(name: str) -> bool:
    """Whether a name is kept for partitions."""
    return name.startswith(EXCHANGE_PREFIX) or bool(_SUFFIX.search(name))
