"""A message as handlers see it: the body and where it came from."""

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
    """One message's body with its origin.

    Attributes:
        body: the bytes exactly as they were published.
        exchange: exchange it was first published to (kept over retries).
        routing_key: routing key it was first published with (kept over retries).
        queue: queue it was consumed from.
        message_id: the publisher's id for it, if given.
        timestamp: the publisher's AMQP timestamp, epoch seconds, if given.
        received_at: when the worker received it, epoch seconds.
        headers: AMQP headers, the mesh's own ``x-mesh-*`` included.
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
        """It was replayed from the archive."""
        return headers.ARCHIVED in self.headers

    @property
    def may_be_old(self) -> bool:
        """It is processed again on purpose, and so may be of any age."""
        return headers.ARCHIVED in self.headers or headers.REPLAYED_AT in self.headers

    @property
    def is_quiet(self) -> bool:
        """Its records are stored without alerts and webhooks."""
        return headers.QUIET in self.headers

    @property
    def key_tail(self) -> str:
        """See :func:`~meshtasks.amqp.entities.tail_of`."""
        return tail_of(self.routing_key)


def sensor_of_key(envelope: Envelope) -> str:
    """The sensor of a record that names none: the routing key's tail.

    Raises:
        SchemaMismatch: the key has no tail.
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
    """A deterministic id for one record of a message.

    Args:
        envelope: the message the record came in.
        record_json: the record's own JSON.
        occurrence: how many identical records precede it in the message.
        time: epoch seconds; when the record was made.

    Returns:
        ``<message id>/<digest>``, or for a message without an id ``<time>/<digest>``,
        the time as 14 hex digits of microseconds; so the ids of one publisher sort
        by time if its message ids do. The digest is 16 hex digits of BLAKE2b over
        routing key, occurrence and record.

    A record that was replayed from the archive has the id that it has there.

    A redelivery of the same message gives the same id, unless the message has neither
    an id nor a time of its own: it cannot be distinguished from a new message then.

    Record and time are part of it for the sake of records that are *not* the same:
    a device without ids sends ``21.5`` every minute; a publisher may give every
    message one id; the failed records of an array message are retried without their
    neighbours, at other indexes.
    """
    if archived := envelope.headers.get(headers.ARCHIVED):
        return str(archived)
    digest = _digest_of_key(envelope.routing_key).copy()
    digest.update(b"\0%d\0" % occurrence)
    digest.update(record_json)
    if envelope.message_id:
        # AMQP text may hold lone surrogates, which no JSON or SQL text may
        origin = envelope.message_id.encode("utf-8", "replace").decode()
    else:
        origin = f"{round(time * 1_000_000):014x}"
    return f"{origin}/{digest.hexdigest()}"


@lru_cache(maxsize=16_384)
def _digest_of_key(routing_key: str) -> hashlib.blake2b:
    key = routing_key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=8)


def envelope_of(wire: Wire, queue: str) -> Envelope:
    """The envelope that handlers see."""
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
