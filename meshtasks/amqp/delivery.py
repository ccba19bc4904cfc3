"""AMQP deliveries: what the worker keeps of one, and what travels to the pool.

A message published again by the mesh (retry, replay) keeps its first exchange
and routing key in headers; everything here reads those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from meshtasks.amqp import headers
from meshtasks.amqp.content import Origin, Properties
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.trust import believed, count_in, past_in, text_in

#: (body, exchange, routing key, properties, received at); a plain tuple, because it is
#: pickled for every message of every batch. Properties are what handlers are told of
#: them, or the bytes they came as: most messages have no headers, and it is left to the
#: pool to look for the rest.
Wire = tuple[bytes, str, str, bytes | Origin, float]


class Delivery(NamedTuple):
    """One AMQP delivery as the consuming process holds it until it is settled.

    Attributes:
        tag: delivery tag on its channel.
        body: the body, undecoded.
        exchange: the exchange of first publication.
        routing_key: the routing key of first publication.
        properties: AMQP properties, ``application_headers`` included.
        redelivered: the broker delivered it before, to somebody.
        received_at: epoch seconds; of the first receipt, kept over retries.
    """

    tag: int
    body: bytes
    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
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
    properties: Mapping[str, Any] = message.properties
    exchange, routing_key = message.exchange, message.routing_key
    if message.properties.has_headers:
        table = believed(message.headers, exchange)
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
