"""Makes retries, dead letters and replays of messages, and reads dead letters.

All of them have the original body and properties; only headers are added.

The reason of a dead letter is in one of two places: the mesh's headers (``x-mesh-…``),
or the broker's ``x-death`` if the broker dead-lettered the message itself, for example
because it was delivered too often. A dead letter with neither matched no binding, and
the alternate exchange routed it here.
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

#: ``dead.letter`` is a direct exchange: ``#`` is the exact key, not a wildcard.
DEAD_LETTER_ROUTING_KEY = "#"
#: Hex digits of an id, 48 bits: of 50,000 queues with 100,000 dead letters each, one
#: has two dead letters with the same id.
ID_DIGITS = 12
#: Kind of a dead letter that matched no binding.
UNROUTABLE = "Unroutable"
#: Most entries of a message's history, and longest reason in one, characters.
_HISTORY_LIMIT = 10
REMEMBERED_CHARS = 300
#: Limit of times, epoch seconds: the year 9999 begins. Every calendar and time zone can
#: show earlier times.
_END_OF_TIME = 253_370_764_800


class FailedMessage(NamedTuple):
    """A message that failed, or the failed part of it.

    Attributes:
        delivery: delivery of the message.
        queue: queue from which it was consumed; also the name of its task.
        body: body to publish: the delivery's, or of an array only the failed records,
            as JSON.
        record_index: index of the record in its array.
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
    """The message of a retry: it returns to its queue only, after a wait.

    Args:
        failing: the message.
        level_seconds: wait of a retry queue; None to put the message at the end of its
            queue at once.
        attempt: retries that count against it, this one included.
        now: epoch seconds.
        single: whether to process it alone.
        source: partition that it came from; empty if its queue has no partitions.

    The exchange ``retry.<seconds>`` is a fanout exchange. Messages in its queue expire
    to the default exchange and keep their routing key, the name of the queue that they
    return to.
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
    """The dead letter of a message: the original, and the reason in headers."""
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
    """Time of the first failure, epoch seconds; ``now`` if this is the first."""
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
        properties.pop("content_encoding", None)  # part of a body is not encoded
    return Outgoing(
        exchange,
        routing_key,
        failing.body,
        headers={**kept_headers(delivery), **origin, **extra},
        properties=properties,
    )


def kept_headers(delivery: Delivery) -> dict[str, Any]:
    """The headers that stay when a message is published again."""
    return {
        name: value
        for name, value in delivery.headers.items()
        if name not in headers.BROKER_MANAGED and name not in headers.STEERING
    }


def kept_properties(delivery: Delivery) -> dict[str, Any]:
    """The AMQP properties, without headers, that stay when a message is published
    again."""
    properties: dict[str, Any] = {
        name: value
        for name, value in delivery.properties.items()
        # The broker accepts only the publishing account as user_id. An expiration would
        # drop the message while it waits.
        if name not in {"application_headers", "user_id", "expiration"}
    }
    properties["delivery_mode"] = 2
    # None stops the publisher from adding a type that the original (MQTT) did not have
    properties.setdefault("content_type", None)
    return properties


class DeadLetter(NamedTuple):
    """A dead letter without its body.

    Attributes:
        id: hash of its content, the same whenever it is read; dead letters that are
            equal share one.
        kind: class of the error, or the broker's reason (``delivery_limit``).
        reason: the reason as a sentence.
        queue: queue in which it failed; None if it never was in a queue.
        exchange: exchange of first publication.
        routing_key: routing key of first publication.
        failed_at: time of failure, epoch seconds; None if unknown.
        replays: number of earlier replays.
        replayed_at: start of the last replay, RFC 3339; empty if there was none.
        sensor: sensor of its record; empty if unknown.
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
    """The queues to which a dead letter is replayed, or the reason why it cannot be.

    Only domain queues are allowed: the origin of a dead letter may be forged, and
    messages in the commands queue run tasks.

    Returns:
        The queue in which it failed; if it never was in a queue, the queues to which
        its exchange and routing key lead. If there are none, the reason as a sentence.
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
    """Why, where and when a message became a dead letter. Its attributes are those of
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
    """Why a message is in the dead-letter queue. No value of a header raises an error.

    Args:
        table: its trusted AMQP headers
            (:func:`~meshtasks.amqp.delivery.trusted_headers`). ``x-death`` takes
            precedence.
        exchange: exchange of the delivery.
        routing_key: routing key of the delivery.
        timestamp: time that its publisher set, epoch seconds.
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
    """Read a message of the dead-letter queue."""
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
    """The sensor id in a record; if it has none, the words of the routing key after
    ``domain.kind``."""
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
    """The messages of a replay: one for each queue, and for no other queue.

    They equal the message as first published, plus headers for its origin, the number
    of replays, and the reason of each failure.

    Args:
        delivery: the dead letter as a delivery.
        dead_letter: the same, read by :func:`dead_letter_of`.
        queues: destinations (:func:`~meshtasks.amqp.dead_letters.requeue_targets`).
        replayed_at: start of this replay, RFC 3339.
        body: corrected body; None for the original.
        way_to: gives exchange and routing key for a queue and the first routing key
            (:meth:`~meshtasks.amqp.topology.Topology.way_to`).
    """
    table = {
        name: value
        for name, value in kept_headers(delivery).items()
        if name not in headers.OF_A_FAILURE
    }
    # without this, a reading that has no time would get today's
    if dead_letter.failed_at is not None:
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
        properties.pop("content_encoding", None)  # a corrected body is not encoded
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
    """Reasons of the failures before each replay, the latest last. The keys are
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
    """Epoch seconds of a time in a header (RFC 3339 text, AMQP timestamp, or number);
    None if it is not a time from 1970 to 9999."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        # An AMQP timestamp has no time zone: it counts seconds since the epoch.
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not isinstance(moment, int | float) or isinstance(moment, bool):
        return None
    return float(moment) if 0 < moment < _END_OF_TIME else None


def _text(value: object) -> str:
    """The value if it is a text, else its ``repr``, truncated."""
    return value if isinstance(value, str) else clip(repr(value), REMEMBERED_CHARS)
