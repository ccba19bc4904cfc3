"""Dead letters as they are read, and as they are given back to where they came from.

Two kinds of headers tell why a message died: the mesh's own (``x-mesh-…``), and the
broker's ``x-death`` of a message that it took from a queue itself, because it had
been delivered too often, say. One with neither was published where no binding
matches, and came by way of the alternate exchange.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshtasks.domain.deadletters import ID_DIGITS, UNROUTABLE, DeadLetter
from meshtasks.messaging import headers
from meshtasks.messaging.codec import Delivery
from meshtasks.messaging.deadletter import kept_headers, kept_properties
from meshtasks.messaging.publisher import Outgoing

#: Earlier failures that a message remembers, and how much of each.
_HISTORY_LIMIT = 10
_REASON_LIMIT_CHARS = 300


class Death(NamedTuple):
    """Why, where and when a message died; see
    :class:`~meshtasks.domain.deadletters.DeadLetter`."""

    kind: str
    reason: str
    queue: str | None
    exchange: str
    routing_key: str
    failed_at: float | None


def death_of(
    table: Mapping[str, Any], exchange: str, routing_key: str, timestamp: float | None
) -> Death:
    """Why a message is in the dead-letter queue.

    Args:
        table: its AMQP headers.
        exchange: as it was delivered.
        routing_key: as it was delivered.
        timestamp: its publisher's, epoch seconds.
    """
    first_exchange = str(table.get(headers.EXCHANGE, exchange))
    first_key = str(table.get(headers.ROUTING_KEY, routing_key))
    if headers.REASON in table:
        queue = table.get(headers.QUEUE)
        return Death(
            str(table.get(headers.ERROR_TYPE, "?")),
            str(table[headers.REASON]),
            None if queue is None else str(queue),
            first_exchange,
            first_key,
            _epoch(table.get(headers.FAILED_AT)),
        )
    match table.get("x-death"):
        case [dict() as last, *_]:
            return _taken(last, table)
        case _:
            text = "no binding matches its routing key"
            time = None if timestamp is None else float(timestamp)
            return Death(UNROUTABLE, text, None, first_exchange, first_key, time)


def _taken(last: Mapping[str, Any], table: Mapping[str, Any]) -> Death:
    """The death of a message that the broker took from its queue."""
    queue, reason = str(last.get("queue", "?")), str(last.get("reason", "?"))
    key = next(iter(last.get("routing-keys") or ()), "")
    return Death(
        reason,
        f"the broker took it from {queue}: {reason}",
        queue,
        str(table.get(headers.EXCHANGE, last.get("exchange", ""))),
        str(table.get(headers.ROUTING_KEY, key)),
        _epoch(last.get("time")),
    )


def letter_of(delivery: Delivery) -> DeadLetter:
    """What is known of a message from the dead-letter queue."""
    table = delivery.headers
    death = death_of(
        table,
        delivery.exchange,
        delivery.routing_key,
        delivery.properties.get("timestamp"),
    )
    replays = table.get(headers.REPLAYS)
    identity = (
        *death,
        delivery.properties.get("message_id"),
        table.get(headers.RECORD_INDEX),
        table.get(headers.REPLAYED_AT),
    )
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=ID_DIGITS // 2)
    digest.update(delivery.body)
    return DeadLetter(
        digest.hexdigest(),
        *death,
        replays if isinstance(replays, int) else 0,
        str(table.get(headers.REPLAYED_AT, "")),
    )


def given_back(
    delivery: Delivery,
    letter: DeadLetter,
    *,
    replayed_at: str,
    body: bytes | None = None,
) -> Outgoing:
    """The message that takes a dead letter to its queue once more, and nowhere else;
    one that never was in a queue goes to its exchange.

    It is as it was first published, plus what the mesh noted of its origin, how often
    it was replayed, and what it died of each time.

    Args:
        delivery: the message.
        letter: what is known of it.
        replayed_at: when this replay began, RFC 3339.
        body: to send instead of the message's own.
    """
    extra: dict[str, object] = {
        headers.REPLAYS: letter.replays + 1,
        headers.REPLAYED_AT: replayed_at,
        headers.HISTORY: [
            *history_of(delivery)[1 - _HISTORY_LIMIT :],
            _chapter(letter, replayed_at, body),
        ],
    }
    kept = {
        name: value
        for name, value in kept_headers(delivery).items()
        if name not in headers.OF_A_FAILURE
    }
    if letter.queue is not None:
        extra |= {
            headers.EXCHANGE: letter.exchange,
            headers.ROUTING_KEY: letter.routing_key,
        }
        if letter.failed_at is not None:  # else a reading without time is of today
            kept.setdefault(headers.RECEIVED_AT, letter.failed_at)
    exchange, key = route_back(letter)
    return Outgoing(
        exchange,
        key,
        delivery.body if body is None else body,
        headers=kept | extra,
        properties=kept_properties(delivery),
    )


def route_back(letter: DeadLetter) -> tuple[str, str]:
    """Exchange and routing key that lead a dead letter back."""
    if letter.queue is None:
        return letter.exchange, letter.routing_key
    return "", letter.queue


def history_of(delivery: Delivery) -> list[Mapping[str, Any]]:
    """What the message had died of before its replays, the latest last; the keys are
    ``kind``, ``reason``, ``queue``, ``failed_at``, ``replayed_at`` and ``edited``."""
    told = delivery.headers.get(headers.HISTORY)
    chapters = told if isinstance(told, list) else []
    return [each for each in chapters if isinstance(each, dict)]


def _chapter(
    letter: DeadLetter, replayed_at: str, body: bytes | None
) -> dict[str, object]:
    return {
        "kind": letter.kind,
        "reason": letter.reason[:_REASON_LIMIT_CHARS],
        "queue": letter.queue or "",
        "failed_at": "" if letter.failed_at is None else _rfc3339(letter.failed_at),
        "replayed_at": replayed_at,
        "edited": body is not None,
    }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _epoch(value: object) -> float | None:
    """Epoch seconds of a moment in a header: RFC 3339 text, or AMQP's timestamp."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(moment, datetime):
        return None
    # AMQP's has no zone: it counts seconds since the epoch.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
