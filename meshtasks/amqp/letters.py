"""Dead letters as they are read, and as they are given back to where they came from.

Two kinds of headers tell why a message died: the mesh's own (``x-mesh-…``), and the
broker's ``x-death`` of a message that it took from a queue itself, because it had
been delivered too often, say. One with neither was published where no binding
matches, and came by way of the alternate exchange.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from meshtasks.amqp import headers
from meshtasks.amqp.deadletter import kept_headers, kept_properties
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.selection import ID_DIGITS, UNROUTABLE, DeadLetter
from meshtasks.amqp.trust import count_in, last_death, text_in
from meshtasks.text import clip

#: Earlier failures that a message remembers, and how much of each.
_HISTORY_LIMIT = 10
_REASON_LIMIT_CHARS = 300
#: Epoch seconds that every calendar and time zone can show; the year 9999.
_END_OF_TIME = 253_370_764_800


class Death(NamedTuple):
    """Why, where and when a message died; see
    :class:`~meshtasks.amqp.selection.DeadLetter`."""

    kind: str
    reason: str
    queue: str | None
    exchange: str
    routing_key: str
    failed_at: float | None


def death_of(
    table: Mapping[str, Any], exchange: str, routing_key: str, timestamp: object
) -> Death:
    """Why a message is in the dead-letter queue. Whatever stands in its headers, this
    tells something.

    Args:
        table: its AMQP headers, those that are believed
            (:func:`~meshtasks.amqp.trust.believed`). What the broker says in
            them comes first.
        exchange: as it was delivered.
        routing_key: as it was delivered.
        timestamp: its publisher's, epoch seconds.
    """
    if last := last_death(table):
        return _taken(last, table)
    first_exchange = text_in(table, headers.EXCHANGE)
    first_key = text_in(table, headers.ROUTING_KEY)
    exchange = exchange if first_exchange is None else first_exchange
    routing_key = routing_key if first_key is None else first_key
    if headers.REASON in table:
        return Death(
            text_in(table, headers.ERROR_TYPE) or "?",
            _text(table[headers.REASON]),
            text_in(table, headers.QUEUE),
            exchange,
            routing_key,
            _epoch(table.get(headers.FAILED_AT)),
        )
    text = "no binding matches its routing key"
    time = _epoch(timestamp)
    return Death(UNROUTABLE, text, None, exchange, routing_key, time)


def _taken(last: Mapping[str, Any], table: Mapping[str, Any]) -> Death:
    """The death of a message that the broker took from its queue."""
    queue, reason = _text(last.get("queue", "?")), _text(last.get("reason", "?"))
    keys = last.get("routing-keys")
    key = _text(keys[0]) if isinstance(keys, list) and keys else ""
    first_exchange = text_in(table, headers.EXCHANGE)
    first_key = text_in(table, headers.ROUTING_KEY)
    return Death(
        reason,
        f"the broker took it from {queue}: {reason}",
        queue,
        _text(last.get("exchange", "")) if first_exchange is None else first_exchange,
        key if first_key is None else first_key,
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
        count_in(table, headers.REPLAYS),
        text_in(table, headers.REPLAYED_AT) or "",
        _sensor_of(delivery.body, death.routing_key),
    )


class _OfSensor(msgspec.Struct):
    sensor_id: str = ""


_OF_SENSOR = msgspec.json.Decoder(_OfSensor)


def _sensor_of(body: bytes, routing_key: str) -> str:
    """The sensor that a record names, or else the routing key's tail."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if body[:1] == b"{" and (named := _OF_SENSOR.decode(body).sensor_id):
            return named
    return ".".join(routing_key.split(".")[2:])


def given_back(
    delivery: Delivery,
    letter: DeadLetter,
    queues: Iterable[str],
    *,
    replayed_at: str,
    body: bytes | None = None,
) -> list[Outgoing]:
    """The messages that take a dead letter to its queues once more, and nowhere else.

    They are as it was first published, plus what the mesh noted of its origin, how
    often it was replayed, and what it died of each time.

    Args:
        delivery: the message.
        letter: what is known of it.
        queues: where to (:func:`~meshtasks.amqp.selection.way_back`).
        replayed_at: when this replay began, RFC 3339.
        body: to send instead of the message's own.
    """
    table = {
        name: value
        for name, value in kept_headers(delivery).items()
        if name not in headers.OF_A_FAILURE
    }
    if letter.failed_at is not None:  # else a reading without time is of today
        table.setdefault(headers.RECEIVED_AT, letter.failed_at)
    table |= {
        headers.EXCHANGE: letter.exchange,
        headers.ROUTING_KEY: letter.routing_key,
        headers.REPLAYS: letter.replays + 1,
        headers.REPLAYED_AT: replayed_at,
        headers.HISTORY: [
            *history_of(delivery)[1 - _HISTORY_LIMIT :],
            _chapter(letter, replayed_at, body),
        ],
    }
    body = delivery.body if body is None else body
    properties = kept_properties(delivery)
    return [
        Outgoing("", queue, body, headers=table, properties=properties)
        for queue in queues
    ]


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
    """Epoch seconds of a moment in a header: RFC 3339 text, or AMQP's timestamp; None
    if it is none, or none of this age."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        # AMQP's has no zone: it counts seconds since the epoch.
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(moment, int | float) or isinstance(moment, bool):
        return None
    return float(moment) if 0 < moment < _END_OF_TIME else None


def _text(value: object) -> str:
    """What stands where a text is expected."""
    return value if isinstance(value, str) else clip(repr(value), _REASON_LIMIT_CHARS)
