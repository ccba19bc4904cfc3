"""The AMQP headers that the mesh writes, and any headers as JSON, with their types.

What JSON has no type for is an object of one member whose name begins with ``$``:
``{"$bytes": "/wA="}``, ``{"$decimal": "1.50"}``, ``{"$time": 1795435200}``,
``{"$float": "nan"}``. A table that looks so itself stands in ``{"$table": …}``.
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
    """A value of a header as JSON has it."""
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
        case datetime():  # AMQP's has no zone: it counts seconds since the epoch
            return {"$time": int(value.replace(tzinfo=UTC).timestamp())}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case _:
            return value


def from_json(value: Any) -> Any:
    """What :func:`as_json` has made JSON of.

    Raises:
        ValueError: the type is none of these, or the value none of its type.
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
#: Queue the message failed in.
QUEUE = "x-mesh-queue"
#: Retries that count against the message (those during an outage do not).
ATTEMPT = "x-mesh-attempt"
#: Epoch seconds of the first failure; gives the age that ``max_age`` bounds.
FIRST_FAILED_AT = "x-mesh-first-failed-at"
#: Epoch seconds of first receipt: the time of a reading that carries none.
RECEIVED_AT = "x-mesh-received-at"
#: Set on a message that must be processed alone: it may have killed its process.
SINGLE = "x-mesh-isolate"
#: Why a message is dead: a sentence, and the class of the fault.
REASON = "x-mesh-reason"
ERROR_TYPE = "x-mesh-error-type"
ERROR_MESSAGE = "x-mesh-error-message"
TRACEBACK = "x-mesh-traceback"
#: How often it was retried, by which task, when and where it died.
RETRIES = "x-mesh-retries"
TASK = "x-mesh-task"
TASK_ID = "x-mesh-task-id"
FAILED_AT = "x-mesh-failed-at"
WORKER = "x-mesh-worker"
#: Place of the record in the array message it came in.
RECORD_INDEX = "x-mesh-record-index"

#: What of a message's headers had to be left out when it was published again.
OMITTED = "x-mesh-omitted-headers"

#: How often a dead letter was replayed, when the last replay that took it began, and
#: the reason each time (tables, the latest last).
REPLAYS = "x-mesh-replays"
REPLAYED_AT = "x-mesh-replayed-at"
HISTORY = "x-mesh-history"

#: Id in the archive of a record that comes from there once more. It is not archived
#: again.
ARCHIVED = "x-mesh-archived"
#: Marks a message that is stored silently: no alerts, no webhooks.
QUIET = "x-mesh-quiet"
#: Marks excerpts that the mesh made for the archive.
EXCERPTS = "x-mesh-archive"

#: What a failure adds. A message that is replayed begins anew.
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

#: How RabbitMQ notes that it took a message from a queue itself.
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

#: Headers that RabbitMQ keeps itself. They are not copied to a message
#: published again: a stale ``x-death`` makes brokers before 4.0.1 take a later
#: expiry for a dead-letter cycle and drop the message.
BROKER_MANAGED = DEATHS_OF_THE_BROKER | {"x-delivery-count", "x-acquired-count"}

#: Headers that send a message to further queues (CC and BCC, of RabbitMQ), or make a
#: call of it (Celery's task protocol 2). A sender's are not published again.
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
