"""AMQP deliveries: what the worker keeps of them, and what goes to the pool.

The mesh publishes some messages again (retry, replay). Their first exchange and
routing key are in headers, and the functions of this module read them there.

Which headers are trusted:

A publisher can set any header, ``x-mesh-…`` and ``x-death`` included. It cannot forge
the exchange of a delivery. The broker sets that to the exchange of publication, also
when bindings between exchanges or an alternate exchange route the message. So the
mesh's headers are trusted only on exchanges to which publishers have no access
(:mod:`meshtasks.amqp.accounts`):

* the default exchange: retries, replays of dead letters and replays of the archive;
* the exchanges before partitions: replays to partitioned queues;
* the exchange of dead letters.

On the exchange ``archive`` only the mark of excerpts is kept. Any publisher may set it,
so the archive's handlers validate excerpts.

Values of trusted headers are bounded too: no value may stop a worker.
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
#: Upper bound of counts in headers: above any configured number of retries, and far
#: below the largest AMQP integer.
_LARGEST_COUNT = 1_000_000


def trusted_headers(table: dict[str, Any], exchange: str) -> dict[str, Any]:
    """The headers of a message without those that its publisher may have forged.

    Args:
        table: all AMQP headers of the message.
        exchange: exchange of the delivery.
    """
    if not exchange or exchange.startswith(PARTITIONS_PREFIX):
        return table
    kept = frozenset[str]()
    if exchange == DEAD_LETTER_EXCHANGE:
        last = last_death(table)
        came_by = None if last is None else last.get("exchange")
        if not came_by or str(came_by).startswith(PARTITIONS_PREFIX):
            return table
        # the broker dead-lettered it before the mesh had added headers
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
    """The latest entry of ``x-death``; None if there is none.

    The broker adds an entry when it dead-letters a message itself; the entry names the
    queue. Only in a message from the exchange of dead letters is it certain that the
    broker wrote it.
    """
    match table.get("x-death"):
        case [dict() as last, *_]:
            return last
        case _:
            return None


def count_in(table: Mapping[str, Any], name: str) -> int:
    """The count in a header; 0 if the header is missing or not an integer."""
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return max(0, min(value, _LARGEST_COUNT))


def past_in(table: Mapping[str, Any], name: str, now: float) -> float | None:
    """The past time in a header, epoch seconds; None if the header is missing, in the
    future, or not a finite number."""
    value = table.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value <= now else None


def text_in(table: Mapping[str, Any], name: str) -> str | None:
    """The text in a header; None if the header is missing or not a text."""
    value = table.get(name)
    return value if isinstance(value, str) else None


#: What goes to the pool: (body, exchange, routing key, properties, received at). A
#: plain tuple, because it is pickled for every message of every batch. The properties
#: are the received bytes, which the pool decodes; or, if the message has headers, the
#: decoded ones that handlers need.
Wire = tuple[bytes, str, str, bytes | Origin, float]


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One AMQP delivery, as the consuming process holds it until it is resolved.

    Attributes:
        tag: delivery tag on its channel.
        body: undecoded bytes.
        exchange: exchange of first publication.
        routing_key: routing key of first publication.
        properties: AMQP properties, ``application_headers`` included.
        redelivered: whether the broker delivered the message before.
        received_at: time of first receipt, epoch seconds; retries keep it.
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
        """AMQP headers; empty if there are none."""
        properties = self.properties
        if type(properties) is Properties and not properties.has_headers:
            return {}  # known without decoding the properties
        return properties.get("application_headers") or {}

    @property
    def attempt(self) -> int:
        """Retries that count against this message."""
        return count_in(self.headers, headers.ATTEMPT)

    def to_wire(self) -> Wire:
        """The part that the pool needs."""
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
    """Make a delivery of a message, without the headers that are not trusted."""
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
