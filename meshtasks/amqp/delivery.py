"""AMQP deliveries: what the worker keeps of one, and what travels to the pool.

A message published again by the mesh (retry, replay) keeps its first exchange
and routing key in headers; everything here reads those.

Which headers of a message are believed.

Whoever may publish a message chooses its headers, the ``x-mesh-…`` and the ``x-death``
among them. What cannot be chosen is the exchange a message is delivered from: the
broker names it, also behind bindings between exchanges and alternate exchanges. So the
mesh's own headers count on those exchanges only that senders may not publish to
(:mod:`meshtasks.amqp.accounts`): the default exchange, by which retries, replays of
dead letters and replays of the archive come back, the exchanges before partitions, by
which replays come back to those, and the exchange of dead letters.

What is believed is bounded all the same: no value of a header may stop a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshtasks.amqp import headers
from meshtasks.amqp.content import Origin, Properties
from meshtasks.amqp.entities import PARTITIONS_PREFIX
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, DEAD_LETTER_EXCHANGE

_PREFIX = "x-mesh-"
#: More retries than are ever configured, and one more is still an AMQP integer.
_LARGEST_COUNT = 1_000_000


def trusted_headers(table: dict[str, Any], exchange: str) -> dict[str, Any]:
    """The headers of a message, less those that its sender may have made up.

    Args:
        exchange: that it was delivered from.
    """
    if not exchange or exchange.startswith(PARTITIONS_PREFIX):
        return table
    kept = frozenset[str]()
    if exchange == DEAD_LETTER_EXCHANGE:
        last = last_death(table)
        came_by = None if last is None else last.get("exchange")
        if not came_by or str(came_by).startswith(PARTITIONS_PREFIX):
            return table
        # the broker took it, before the mesh had added headers
        kept = headers.BROKER_MANAGED
    elif exchange == ARCHIVE_EXCHANGE:
        kept = frozenset({headers.EXCERPTS})
    return {
        name: value
        for name, value in table.items()
        if name in kept
        or not (name.startswith(_PREFIX) or name in headers.DEATHS_OF_THE_BROKER)
    }


def last_death(table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The broker's note on a message that it took from a queue itself, if it did.

    Only in a message from the exchange of dead letters is it certain that the broker
    has written it. The queue in it is then the one the message was taken from.
    """
    match table.get("x-death"):
        case [dict() as last, *_]:
            return last
        case _:
            return None


def count_in(table: Mapping[str, Any], name: str) -> int:
    """A number of times; 0 if there is none, or something else."""
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return max(0, min(value, _LARGEST_COUNT))


def past_in(table: Mapping[str, Any], name: str, now: float) -> float | None:
    """A moment that is over, epoch seconds; None if there is none, or something else
    (infinity, say)."""
    value = table.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= now else None


def text_in(table: Mapping[str, Any], name: str) -> str | None:
    """A text; None if there is none, or something else."""
    value = table.get(name)
    return value if isinstance(value, str) else None


#: (body, exchange, routing key, properties, received at); a plain tuple, because it is
#: pickled for every message of every batch. Properties are those that
#: handlers need, or the bytes they came as: most messages have no headers, and the pool
#: decodes the rest.
Wire = tuple[bytes, str, str, bytes | Origin, float]


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One AMQP delivery as the consuming process holds it until it is resolved.

    Attributes:
        tag: delivery tag on its channel.
        body: the body, undecoded.
        exchange: the exchange of first publication.
        routing_key: the routing key of first publication.
        properties: AMQP properties, ``application_headers`` included.
        redelivered: the broker delivered it before.
        received_at: epoch seconds; of the first receipt, kept over retries.
    """

    tag: int
    body: bytes
    exchange: str
    routing_key: str
    properties: Mapping[str, Any] | Properties
    redelivered: bool
    received_at: float

    @property
    def headers(self) -> Mapping[str, Any]:
        """AMQP headers; empty when there are none."""
        properties = self.properties
        if type(properties) is Properties and not properties.has_headers:
            return {}  # which need not be decoded to be found out
        return properties.get("application_headers") or {}

    @property
    def attempt(self) -> int:
        """Retries that count against this message."""
        return count_in(self.headers, headers.ATTEMPT)

    def to_wire(self) -> Wire:
        """The part the pool process needs."""
        properties = self.properties
        return (
            self.body,
            self.exchange,
            self.routing_key,
            properties.encoded
            if isinstance(properties, Properties)
            else Origin.of(properties),
            self.received_at,
        )


def delivery_of(message: Message, received_at: float) -> Delivery:
    """A delivery from a message, less the headers that are not believed."""
    properties: Mapping[str, Any] | Properties = message.properties
    exchange, routing_key = message.exchange, message.routing_key
    if message.properties.has_headers:
        table = trusted_headers(message.headers, exchange)
        properties = {**properties, "application_headers": table}
        first_exchange = text_in(table, headers.EXCHANGE)
        exchange = exchange if first_exchange is None else first_exchange
        routing_key = text_in(table, headers.ROUTING_KEY) or routing_key
        received_at = past_in(table, headers.RECEIVED_AT, received_at) or received_at
    return Delivery(
        message.delivery_tag,
        message.body,
        exchange,
        routing_key,
        properties,
        message.redelivered,
        received_at,
    )
