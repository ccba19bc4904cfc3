"""Messages that failed: back to their queue later, or dead letters; what is known of a
dead letter, and how one is replayed.

The original body and properties are published again; only headers are added.

Two kinds of headers give the reason of a dead letter: the mesh's own (``x-mesh-…``),
and the broker's ``x-death`` of a message that it took from a queue itself, because it
had been delivered too often, say. One with neither was published where no binding
matches, and came by way of the alternate exchange.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery, count_in, last_death, past_in, text_in
from meshtasks.amqp.entities import PREDECLARED_EXCHANGES, queue_of, tail_of
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.topology import DEAD_LETTER_EXCHANGE, Topology
from meshtasks.outcome import REASON_LIMIT_CHARS, TRACEBACK_LIMIT_CHARS, Dead
from meshtasks.text import clip

#: ``dead.letter`` is a direct exchange: ``#`` is a literal key, not a wildcard.
DEAD_LETTER_ROUTING_KEY = "#"
#: Hex digits of an id: 48 bits, so that of 100,000 dead letters no two share one but
#: once in 50,000 such queues.
ID_DIGITS = 12
#: Kind of a message that was published where no binding matches.
UNROUTABLE = "Unroutable"
#: Earlier failures that a message remembers, and how much of each.
_HISTORY_LIMIT = 10
REMEMBERED_CHARS = 300
#: Epoch seconds that every calendar and time zone can show; the year 9999.
_END_OF_TIME = 253_370_764_800


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
        headers.FAILED_AT: _rfc3339(now),
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
    properties = kept_properties(delivery)
    if failing.body is not delivery.body:
        properties.pop("content_encoding", None)  # parts of a body are plain
    return Outgoing(
        exchange,
        routing_key,
        failing.body,
        headers={**kept_headers(delivery), **origin, **extra},
        properties=properties,
    )


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


class DeadLetter(NamedTuple):
    """A dead letter, less its body.

    Attributes:
        id: the same whenever it is read; messages that are the same in every respect
            share one.
        kind: class of the fault, or the broker's word for it (``delivery_limit``).
        reason: the fault as a sentence.
        queue: where it failed; None if it never was in a queue.
        exchange: of first publication.
        routing_key: of first publication.
        failed_at: epoch seconds, None if unknown.
        replays: how often it was replayed before.
        replayed_at: when the last replay that took it began, as its command wrote
            it; empty if none did.
        sensor: what its record is of; empty if unknown.
    """

    id: str
    kind: str
    reason: str
    queue: str | None
    exchange: str
    routing_key: str
    failed_at: float | None
    replays: int = 0
    replayed_at: str = ""
    sensor: str = ""


def requeue_targets(
    dead_letter: DeadLetter, topology: Topology
) -> tuple[str, ...] | str:
    """The queues that a dead letter is replayed to, or why it cannot be.

    Only queues that carry what is published to the mesh: a dead letter's origin may be
    made up, and the commands queue starts tasks.

    Returns:
        The queue it failed in; of one that never was in a queue, those that its
        exchange and routing key lead to. Or a sentence.
    """
    ours = topology.domain_queues
    if dead_letter.queue is not None:
        if dead_letter.queue in ours:
            return (dead_letter.queue,)
        if dead_letter.queue in {queue.name for queue in topology.all_queues}:
            return f"{dead_letter.queue} takes no replays"
        return f"topology.yaml has no queue {dead_letter.queue}"
    exchange = dead_letter.exchange
    known = PREDECLARED_EXCHANGES.keys() | {
        item.name for item in topology.all_exchanges
    }
    if exchange not in known:
        return f"its origin is unknown (exchange {exchange!r})"
    reached = topology.queues_reached(exchange, dead_letter.routing_key)
    if queues := tuple(name for name in ours if name in reached):
        return queues
    return f"no binding of {exchange} matches its routing key in topology.yaml"


class Death(NamedTuple):
    """Why, where and when a message died; see
    :class:`~meshtasks.amqp.dead_letters.DeadLetter`."""

    kind: str
    reason: str
    queue: str | None
    exchange: str
    routing_key: str
    failed_at: float | None


def death_of(
    table: Mapping[str, Any], exchange: str, routing_key: str, timestamp: object
) -> Death:
    """Why a message is in the dead-letter queue. There is an answer whatever
    stands in its headers.

    Args:
        table: its AMQP headers, those that are believed
            (:func:`~meshtasks.amqp.delivery.trusted_headers`). The broker's own
            come first.
        timestamp: its publisher's, epoch seconds.
    """
    failed_at: object
    if last := last_death(table):
        queue: str | None = queue_of(_text(last.get("queue", "?")))
        kind = _text(last.get("reason", "?"))
        reason = f"the broker took it from {queue}: {kind}"
        exchange = _text(last.get("exchange", ""))
        keys = last.get("routing-keys")
        routing_key = _text(keys[0]) if isinstance(keys, list) and keys else ""
        failed_at = last.get("time")
    elif headers.REASON in table:
        queue = text_in(table, headers.QUEUE)
        kind = text_in(table, headers.ERROR_TYPE) or "?"
        reason = _text(table[headers.REASON])
        failed_at = table.get(headers.FAILED_AT)
    else:
        queue, kind, failed_at = None, UNROUTABLE, timestamp
        reason = "no binding matches its routing key"
    if (first_exchange := text_in(table, headers.EXCHANGE)) is not None:
        exchange = first_exchange
    if (first_key := text_in(table, headers.ROUTING_KEY)) is not None:
        routing_key = first_key
    return Death(kind, reason, queue, exchange, routing_key, _epoch(failed_at))


def dead_letter_of(delivery: Delivery) -> DeadLetter:
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
        sensor_of(delivery.body, death.routing_key),
    )


class _OfSensor(msgspec.Struct):
    sensor_id: str = ""


_OF_SENSOR = msgspec.json.Decoder(_OfSensor)


def sensor_of(body: bytes, routing_key: str) -> str:
    """The sensor that a record names, or else the routing key's tail."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if body[:1] == b"{" and (named := _OF_SENSOR.decode(body).sensor_id):
            return named
    return tail_of(routing_key)


def replay_messages(
    delivery: Delivery,
    dead_letter: DeadLetter,
    queues: Iterable[str],
    *,
    replayed_at: str,
    body: bytes | None = None,
    way_to: Callable[[str, str], tuple[str, str]] = lambda queue, _key: ("", queue),
) -> list[Outgoing]:
    """The messages that take a dead letter to its queues once more, and nowhere else.

    They are as it was first published, plus what the mesh noted of its origin, how
    often it was replayed, and the reason each time.

    Args:
        queues: where to (:func:`~meshtasks.amqp.dead_letters.requeue_targets`).
        replayed_at: when this replay began, RFC 3339.
        body: to send instead of the message's own.
        way_to: exchange and routing key that lead to a queue, and its first routing key
            (:meth:`~meshtasks.amqp.topology.Topology.way_to`).
    """
    table = {
        name: value
        for name, value in kept_headers(delivery).items()
        if name not in headers.OF_A_FAILURE
    }
    if dead_letter.failed_at is not None:  # else a reading without time is of today
        table.setdefault(headers.RECEIVED_AT, dead_letter.failed_at)
    table |= {
        headers.EXCHANGE: dead_letter.exchange,
        headers.ROUTING_KEY: dead_letter.routing_key,
        headers.REPLAYS: dead_letter.replays + 1,
        headers.REPLAYED_AT: replayed_at,
        headers.HISTORY: [
            *history_of(delivery)[1 - _HISTORY_LIMIT :],
            _history_entry(dead_letter, replayed_at, body),
        ],
    }
    properties = kept_properties(delivery)
    if body is None:
        body = delivery.body
    else:
        properties.pop("content_encoding", None)  # what was typed is plain
    return [
        Outgoing(
            *way_to(queue, dead_letter.routing_key),
            body,
            headers=table,
            properties=properties,
        )
        for queue in queues
    ]


def history_of(delivery: Delivery) -> list[Mapping[str, Any]]:
    """What the message had died of before its replays, the latest last; the keys are
    ``kind``, ``reason``, ``queue``, ``failed_at``, ``replayed_at`` and ``edited``."""
    history = delivery.headers.get(headers.HISTORY)
    entries = history if isinstance(history, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _history_entry(
    dead_letter: DeadLetter, replayed_at: str, body: bytes | None
) -> dict[str, object]:
    failed_at = dead_letter.failed_at
    return {
        "kind": dead_letter.kind,
        "reason": dead_letter.reason[:REMEMBERED_CHARS],
        "queue": dead_letter.queue or "",
        "failed_at": "" if failed_at is None else _rfc3339(failed_at),
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
    return value if isinstance(value, str) else clip(repr(value), REMEMBERED_CHARS)
