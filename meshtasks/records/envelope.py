"""A message as handlers see it: its body and its origin."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from meshtasks.amqp import headers
from meshtasks.amqp.content import origin_of
from meshtasks.amqp.delivery import Wire
from meshtasks.amqp.entities import tail_of
from meshtasks.errors import SchemaMismatch


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The body of a message, and its origin.

    Attributes:
        body: the bytes exactly as they were published.
        exchange: first exchange of the message, also after retries.
        routing_key: first routing key of the message, also after retries.
        queue: queue from which it was consumed.
        message_id: message id that the publisher set; None without one.
        timestamp: AMQP timestamp that the publisher set, in epoch seconds; None
            without one.
        received_at: time at which a worker first received it, in epoch seconds.
        headers: AMQP headers, including the mesh's own, ``x-mesh-*``.
    """

    body: bytes
    exchange: str
    routing_key: str
    queue: str
    message_id: str | None
    timestamp: float | None
    received_at: float
    headers: dict[str, object]

    @property
    def is_archived(self) -> bool:
        """Whether the message was replayed from the archive."""
        return headers.ARCHIVED in self.headers

    @property
    def may_be_old(self) -> bool:
        """Whether the message was replayed, and so may be of any age."""
        return headers.ARCHIVED in self.headers or headers.REPLAYED_AT in self.headers

    @property
    def is_quiet(self) -> bool:
        """Whether its records are stored without causing alerts and webhooks."""
        return headers.QUIET in self.headers

    @property
    def key_tail(self) -> str:
        """The end of the routing key: :func:`~meshtasks.amqp.entities.tail_of`."""
        return tail_of(self.routing_key)


def sensor_of_key(envelope: Envelope) -> str:
    """The sensor id of a record without one: the end of the routing key.

    Raises:
        SchemaMismatch: the routing key has no words after the kind.
    """
    if sensor_id := envelope.key_tail:
        return sensor_id
    message = (
        "sensor_id: is missing, and there is none in the routing key "
        f"{envelope.routing_key} either"
    )
    raise SchemaMismatch(message)


def record_id(
    envelope: Envelope, record_json: bytes, occurrence: int, time: float
) -> str:
    """The deterministic id of one record of a message.

    A redelivered message gives the same ids, unless it has neither a message id nor a
    time: then it cannot be distinguished from a new message. A record replayed from the
    archive keeps its id.

    The id depends on record and time, because the message id alone is not enough: a
    device without message ids sends ``21.5`` every minute; some publishers give all
    messages the same id; failed records of an array are retried without the others, at
    other indexes.

    Args:
        envelope: envelope of the message.
        record_json: JSON text of the record.
        occurrence: number of identical records before it in the message.
        time: time of the record, in epoch seconds.

    Returns:
        ``<message id>/<digest>``, or without a message id ``<time>/<digest>``. The time
        is 14 hex digits of microseconds, so these ids sort by time. The digest is 16
        hex digits of BLAKE2b over routing key, occurrence and record.
    """
    if archived := envelope.headers.get(headers.ARCHIVED):
        return str(archived)
    digest = _digest_of_key(envelope.routing_key).copy()
    digest.update(b"\0%d\0" % occurrence)
    digest.update(record_json)
    if envelope.message_id:
        # Text from AMQP may contain lone surrogates, which JSON and SQL do not allow.
        origin = envelope.message_id.encode("utf-8", "replace").decode()
    else:
        origin = f"{round(time * 1_000_000):014x}"
    return f"{origin}/{digest.hexdigest()}"


@lru_cache(maxsize=16_384)
def _digest_of_key(routing_key: str) -> hashlib.blake2b:
    key = routing_key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8)


def envelope_of(wire: Wire, queue: str) -> Envelope:
    """Make the envelope of a delivered message.

    Args:
        queue: queue from which it was consumed.
    """
    body, exchange, routing_key, properties, received_at = wire
    origin = origin_of(properties) if isinstance(properties, bytes) else properties
    return Envelope(
        body,
        exchange,
        routing_key,
        queue,
        origin.message_id,
        origin.timestamp,
        received_at,
        origin.headers,
    )
