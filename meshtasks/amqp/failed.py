"""The two routes of a message that failed: back to its queue later, or dead.

Both publish the original body and properties again; only headers are added.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery, past_in
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE
from meshtasks.outcome import REASON_LIMIT_CHARS, TRACEBACK_LIMIT_CHARS, Dead

#: ``dead.letter`` is a direct exchange: ``#`` is a literal key, not a wildcard.
DEAD_LETTER_ROUTING_KEY = "#"


class FailedMessage(NamedTuple):
    """The message (or the failed part of it) and where it failed.

    Attributes:
        delivery: the delivery it came in.
        queue: queue it was consumed from, which is also its task's name.
        body: what to publish: the delivery's body, or for an array message the
            JSON of the failed records only.
        record_index: index of the record in its array message.
    """

    delivery: Delivery
    queue: str
    body: bytes
    record_index: int | None = None


def retry_message(
    failing: FailedMessage,
    *,
    level_seconds: int | None,
    attempt: int,
    now: float,
    single: bool,
    source: str = "",
) -> Outgoing:
    """A message that comes back to the failing queue alone, after a wait.

    Args:
        level_seconds: the wait.
        attempt: retries that count against it, this one included.
        now: epoch seconds.
        single: it is to be processed alone.
        source: the partition of the queue that it came from, if it has any.

    The exchange ``retry.<seconds>`` is a fanout into a queue whose messages
    expire to the default exchange with the routing key kept: the queue's name.
    Without a wait (None) it goes to the end of that queue.
    """
    extra: dict[str, object] = {
        headers.QUEUE: failing.queue,
        headers.ATTEMPT: attempt,
        headers.FIRST_FAILED_AT: first_failed_at(failing.delivery, now),
    }
    if single:
        extra[headers.SINGLE] = 1
    exchange = "" if level_seconds is None else f"retry.{level_seconds}"
    return _again(failing, exchange, source or failing.queue, extra)


def dead_message(
    failing: FailedMessage, dead: Dead, *, task_id: str, worker: str, now: float
) -> Outgoing:
    """A dead letter: the original, and why it died."""
    extra: dict[str, object] = {
        headers.QUEUE: failing.queue,
        headers.REASON: dead.reason[:REASON_LIMIT_CHARS],
        headers.ERROR_TYPE: dead.error_type,
        headers.ERROR_MESSAGE: dead.reason[:REASON_LIMIT_CHARS],
        headers.TRACEBACK: dead.traceback[-TRACEBACK_LIMIT_CHARS:],
        headers.RETRIES: failing.delivery.attempt,
        headers.TASK: failing.queue,
        headers.TASK_ID: task_id,
        headers.FAILED_AT: datetime.fromtimestamp(now, UTC).isoformat(),
        headers.WORKER: worker,
    }
    if failing.record_index is not None:
        extra[headers.RECORD_INDEX] = failing.record_index
    return _again(failing, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY, extra)


def first_failed_at(delivery: Delivery, now: float) -> float:
    """When the message first failed, epoch seconds; ``now`` if it had not."""
    return past_in(delivery.headers, headers.FIRST_FAILED_AT, now) or now


def _again(
    failing: FailedMessage, exchange: str, routing_key: str, extra: dict[str, object]
) -> Outgoing:
    delivery = failing.delivery
    origin = {
        headers.EXCHANGE: delivery.exchange,
        headers.ROUTING_KEY: delivery.routing_key,
        headers.RECEIVED_AT: delivery.received_at,
    }
    return Outgoing(
        exchange,
        routing_key,
        failing.body,
        headers={**kept_headers(delivery), **origin, **extra},
        properties=_properties(failing),
    )


def _properties(failing: FailedMessage) -> dict[str, Any]:
    properties = kept_properties(failing.delivery)
    if failing.body is not failing.delivery.body:
        properties.pop("content_encoding", None)  # parts of a body are plain
    return properties


def kept_headers(delivery: Delivery) -> dict[str, Any]:
    """The headers that a message published again keeps."""
    return {
        name: value
        for name, value in delivery.headers.items()
        if name not in headers.BROKER_MANAGED and name not in headers.STEERING
    }


def kept_properties(delivery: Delivery) -> dict[str, Any]:
    """The AMQP properties, headers apart, that a message published again keeps."""
    properties: dict[str, Any] = {
        name: value
        for name, value in delivery.properties.items()
        # user_id must be the publishing user's own; an expiration would drop
        # the message while it waits.
        if name not in {"application_headers", "user_id", "expiration"}
    }
    properties["delivery_mode"] = 2
    # the original may have none (MQTT), and none must be invented for it
    properties.setdefault("content_type", None)
    return properties
