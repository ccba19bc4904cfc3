"""From an AMQP message on a domain queue to a batch bounded by count, bytes and age.

Celery drops a message without Celery headers, runs whatever a ``task`` header
names, and acknowledges a body it cannot decode. Here the queue alone decides the
task, and the body stays bytes. Nothing that takes a message in raises: an exception in
the consumer's callback would end the worker, and the next one after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from meshtasks.amqp import headers
from meshtasks.amqp.content import short_text
from meshtasks.amqp.delivery import Delivery, count_in, delivery_of
from meshtasks.amqp.queues import BatchLimits
from meshtasks.amqp.receiving import Message
from meshtasks.outcome import Dead

#: Deliveries after which the broker's count makes a message suspect.
_SUSPECT_DELIVERIES = 2
#: No batch has so many messages that this many failed attempts do not make it one.
_LARGEST_LEVEL = 9


class Adapted(NamedTuple):
    """A delivery, and why it is dead already if it is."""

    delivery: Delivery
    dead: Dead | None


def adapt(message: Message, queue: str, max_bytes: int, now: float) -> Adapted:
    """Take a message in.

    Args:
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


class ShrinkLevel(NamedTuple):
    """How carefully a message is batched: 0 with everything, then in batches
    ten times smaller for every failed attempt, at last alone.

    A message that fails its batch again and again is thus separated from its
    neighbours before its retries are used up.
    """

    level: int
    single: bool


def shrink_level_of(delivery: Delivery) -> ShrinkLevel:
    """The level of a delivery."""
    table = delivery.headers
    if not table:
        return ShrinkLevel(0, single=False)
    # of a message that was not delivered before, it is the sender's
    deliveries = count_in(table, "x-delivery-count") if delivery.redelivered else 0
    if deliveries >= _SUSPECT_DELIVERIES or table.get(headers.SINGLE):
        return ShrinkLevel(_LARGEST_LEVEL, single=True)
    return ShrinkLevel(min(delivery.attempt, _LARGEST_LEVEL), single=False)


class Buffer:
    """The open batch of one queue and level.

    Attributes:
        bytes: of its messages.
        count_limit: messages that make it full.
        due: its oldest message has reached the age limit.
        opened_at: when its first message was received, epoch seconds.
    """

    __slots__ = ("_deliveries", "_limits", "bytes", "count_limit", "due", "opened_at")

    def __init__(self, limits: BatchLimits, level: ShrinkLevel) -> None:
        self._limits = limits
        self.count_limit = (
            1 if level.single else max(1, limits.count // 10**level.level)
        )
        self._deliveries: list[Delivery] = []
        self.bytes = 0
        self.due = False
        self.opened_at = 0.0

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, delivery: Delivery) -> bool:
        """Add one; true when the batch is full and must be taken."""
        if not self._deliveries:
            self.opened_at = delivery.received_at
        self._deliveries.append(delivery)
        self.bytes += len(delivery.body)
        return (
            len(self._deliveries) >= self.count_limit
            or self.bytes >= self._limits.bytes
        )

    def take(self) -> list[Delivery]:
        """The batch; the buffer starts anew."""
        deliveries, self._deliveries = self._deliveries, []
        self.bytes = 0
        self.due = False
        return deliveries


class LeadingEdge:
    """How long a queue's batches gather messages.

    A message that meets an idle queue goes at once; one that comes within the age limit
    after a batch has started opens a batch that gathers. So a sparse message does not
    wait, and a stream is batched as if each batch waited.

    Args:
        age_seconds: the age limit.
        always: every batch gathers for so long after its first message.
    """

    def __init__(self, age_seconds: float, *, always: bool = False) -> None:
        self._age_seconds = age_seconds
        self._always = always
        self._running = 0
        self._started_at = float("-inf")

    def started(self, now: float) -> None:
        """A batch has started, monotonic seconds."""
        self._running += 1
        self._started_at = now

    def ended(self) -> None:
        """A batch has ended."""
        self._running -= 1

    def wait_seconds(self, now: float) -> float:
        """How long a batch that is opened now gathers, unless it is full before.

        It gathers for the whole age limit, not for what is left since the batch before
        it started: a steady stream then makes no more batches than without the edge.
        While that batch runs beyond the limit, this one ends when it does.
        """
        is_idle = not self._running and now - self._started_at >= self._age_seconds
        return 0.0 if is_idle and not self._always else self._age_seconds
