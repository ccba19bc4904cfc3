"""From an AMQP message on a domain queue to a delivery for that queue's task.

Celery drops a message without Celery headers, runs whatever a ``task`` header
names, and acknowledges a body it cannot decode. Here the queue alone decides the
task, and the body stays bytes. Nothing in this module raises: an exception in
the consumer's callback would end the worker, and the next one after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from meshtasks.amqp import headers
from meshtasks.amqp.content import short_text
from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.amqp.receiving import Message
from meshtasks.outcome import Dead


class Adapted(NamedTuple):
    """A delivery, and why it is dead already if it is."""

    delivery: Delivery
    dead: Dead | None


def adapt(message: Message, queue: str, max_bytes: int, now: float) -> Adapted:
    """Take a message in.

    Args:
        message: as it came.
        queue: the queue it was consumed from, which is the name of its task.
        max_bytes: a larger body is dead, unread.
        now: epoch seconds.
    """
    delivery = delivery_of(message, now)
    if len(delivery.body) > max_bytes:
        reason = (
            f"the body has {len(delivery.body)} bytes; at most {max_bytes} are "
            "taken (max_message_bytes in queues.yaml)"
        )
        return Adapted(delivery, Dead(reason, "UndecodableMessage"))
    task = delivery.headers.get("task")
    if task is None:
        return Adapted(delivery, None)
    if task != queue:
        reason = (
            f"a Celery message for task {task!r} on queue {queue}: only task "
            f"{queue!r} may be called here, commands have a queue of their own"
        )
        return Adapted(delivery, Dead(reason[:500], "SchemaMismatch"))
    return _unpacked(delivery)


def _unpacked(delivery: Delivery) -> Adapted:
    """The records of ``send_task(queue, args=[records])`` as a plain message."""
    try:
        args, kwargs, _embed = json.loads(delivery.body)
        records = args[0] if args else kwargs["records"]
        # what JSON can spell and UTF-8 cannot, a lone surrogate, stays spelt out
        body = json.dumps(records, ensure_ascii=False).encode(errors="backslashreplace")
    except (ValueError, TypeError, LookupError, RecursionError):
        reason = (
            "a Celery call whose body is not [[records], {}, {}] in JSON; call the "
            "task with one argument, a record or a list of records"
        )
        return Adapted(delivery, Dead(reason, "UndecodableMessage"))
    table = delivery.headers
    properties = {
        **delivery.properties,
        "message_id": delivery.properties.get("message_id") or _id_of(table),
        "application_headers": {
            name: value for name, value in table.items() if name not in headers.STEERING
        },
    }
    return Adapted(replace(delivery, body=body, properties=properties), None)


def _id_of(table: Mapping[str, Any]) -> str | None:
    """The id of a Celery call, if it may be that of a message."""
    match table.get("id"):
        case str() as text:
            return short_text(text.encode(errors="backslashreplace")) or None
        case _:
            return None
