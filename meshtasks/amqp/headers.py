"""Names of the AMQP headers that the mesh writes, and conversion of headers to JSON.

A value of a type that JSON does not have becomes an object with one member, whose name
begins with ``$``: ``{"$bytes": "/wA="}``, ``{"$decimal": "1.50"}``,
``{"$time": 1795435200}``, ``{"$float": "nan"}``. A table that looks like one of these
becomes ``{"$table": …}``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_MARK = "$"


def as_json(value: object) -> Any:
    """Convert a value of a header to JSON."""
    if isinstance(value, dict):
        table = {str(name): as_json(item) for name, item in value.items()}
        return {"$table": table} if _is_marked(table) else table
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return _marked(value)


def _marked(value: object) -> Any:
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Decimal():
            return {"$decimal": str(value)}
        case datetime():  # an AMQP timestamp has no zone: it counts epoch seconds
            return {"$time": int(value.replace(tzinfo=UTC).timestamp())}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case _:
            return value


def from_json(value: Any) -> Any:
    """Convert JSON of :func:`as_json` back to the value.

    Raises:
        ValueError: the type is unknown, or the value is invalid for its type.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_marked(value):
        return _table(value)
    ((kind, written),) = value.items()
    try:
        return _READERS[kind](written)
    except (KeyError, AttributeError, TypeError, ArithmeticError, OSError) as error:
        message = f"{kind} is no type of a header, or {written!r} no value of it"
        raise ValueError(message) from error


def _table(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_json(item) for name, item in value.items()}


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


_READERS: Mapping[str, Callable[[Any], object]] = {
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$decimal": Decimal,
    "$time": _time,
    "$float": float,
    "$table": _table,
}


def _is_marked(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and next(iter(table)).startswith(_MARK)


#: Exchange and routing key of first publication.
EXCHANGE = "x-mesh-exchange"
ROUTING_KEY = "x-mesh-routing-key"
#: Queue in which the message failed.
QUEUE = "x-mesh-queue"
#: Number of retries that count against the message (not those during an outage).
ATTEMPT = "x-mesh-attempt"
#: Time of the first failure, epoch seconds; ``max_age_seconds`` counts from it.
FIRST_FAILED_AT = "x-mesh-first-failed-at"
#: Time of first receipt, epoch seconds; also the time of a reading that has none.
RECEIVED_AT = "x-mesh-received-at"
#: Set on a message that must be processed alone, because it may have killed a process.
SINGLE = "x-mesh-isolate"
#: Why the message is dead: a sentence, the class and message of the error, the end of
#: the traceback.
REASON = "x-mesh-reason"
ERROR_TYPE = "x-mesh-error-type"
ERROR_MESSAGE = "x-mesh-error-message"
TRACEBACK = "x-mesh-traceback"
#: Number of retries; name and id of the task, time and worker of the failure.
RETRIES = "x-mesh-retries"
TASK = "x-mesh-task"
TASK_ID = "x-mesh-task-id"
FAILED_AT = "x-mesh-failed-at"
WORKER = "x-mesh-worker"
#: Index of the record in its array.
RECORD_INDEX = "x-mesh-record-index"

#: Names of the headers that were left out when the message was published again.
OMITTED = "x-mesh-omitted-headers"

#: Number of replays of a dead letter, start of the last one, and the reasons of the
#: failures before them (tables, the latest last).
REPLAYS = "x-mesh-replays"
REPLAYED_AT = "x-mesh-replayed-at"
HISTORY = "x-mesh-history"

#: Id in the archive of a record that is replayed from there; it is not archived again.
ARCHIVED = "x-mesh-archived"
#: Marks a message that causes no alerts and no webhooks.
QUIET = "x-mesh-quiet"
#: Marks excerpts that the mesh made for the archive.
EXCERPTS = "x-mesh-archive"

#: Headers that a failure adds. A replay removes them.
OF_A_FAILURE = frozenset(
    {
        ATTEMPT,
        FIRST_FAILED_AT,
        REASON,
        ERROR_TYPE,
        ERROR_MESSAGE,
        TRACEBACK,
        RETRIES,
        TASK,
        TASK_ID,
        FAILED_AT,
        WORKER,
    }
)

#: Headers that RabbitMQ adds when it dead-letters a message itself.
DEATHS_OF_THE_BROKER = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)

#: Headers that RabbitMQ manages. They are not copied when a message is published again:
#: with an old ``x-death``, brokers before 4.0.1 take a later expiry for a dead-letter
#: cycle and drop the message.
BROKER_MANAGED = DEATHS_OF_THE_BROKER | {"x-delivery-count", "x-acquired-count"}

#: Headers that route a message to more queues (RabbitMQ's CC and BCC) or make it a call
#: (Celery's task protocol 2). If a publisher set them, they are not published again.
STEERING = frozenset(
    {
        "BCC",
        "CC",
        "argsrepr",
        "compression",
        "eta",
        "expires",
        "group",
        "group_index",
        "id",
        "ignore_result",
        "kwargsrepr",
        "lang",
        "origin",
        "parent_id",
        "replaced_task_nesting",
        "retries",
        "root_id",
        "shadow",
        "stamped_headers",
        "stamps",
        "task",
        "timelimit",
    }
)
