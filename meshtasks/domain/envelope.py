"""A message as handlers see it: the body and where it came from."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Envelope(NamedTuple):
    """One message's body with its origin.

    A NamedTuple because tens of thousands are made a second: it is built three
    times faster than a frozen dataclass of the same fields.

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
    def key_tail(self) -> str:
        """Words after ``domain.kind``: ``living_room`` of
        ``sensors.temperature.living_room``; empty when there are none."""
        return ".".join(self.routing_key.split(".")[2:])


def record_id(envelope: Envelope, body: bytes, index: int = 0) -> str:
    """A deterministic id for one record of a message.

    Args:
        envelope: the message the record came in.
        body: the record's own JSON (the whole body, unless it came in an array).
        index: its place in an array message.

    Returns:
        ``<message_id>`` or ``<message_id>/<index>`` when the publisher gave an
        id, else 32 hex digits of BLAKE2b over routing key, index and body. A
        redelivery of the same message gives the same id.
    """
    if envelope.message_id:
        return f"{envelope.message_id}/{index}" if index else envelope.message_id
    digest = hashlib.blake2b(digest_size=16)
    digest.update(envelope.routing_key.encode())
    digest.update(b"\0%d\0" % index)
    digest.update(body)
    return digest.hexdigest()
