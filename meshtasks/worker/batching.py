"""Takes in AMQP messages, and collects them in batches bounded by count, bytes and age.

Celery drops a message without Celery headers, runs whatever task a ``task`` header
names, and acknowledges a body that it cannot decode. Here the queue alone determines
the task, and the body stays bytes. No function that takes in a message raises: an
exception in the consumer's callback would end the worker, and the broker would deliver
the message to the next one.
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

#: Number of deliveries, as counted by the broker, from which a message runs alone.
_SUSPECT_DELIVERIES = 2
#: Maximum number of messages to hold while their size is unknown.
_FIRST_MESSAGES = 64
#: Number of failed attempts after which any batch has shrunk to one message.
_LARGEST_LEVEL = 9


class Adapted(NamedTuple):
    """A delivery, and the reason if it is already dead."""

    delivery: Delivery
    dead: Dead | None


def adapt(message: Message, queue: str, max_bytes: int, now: float) -> Adapted:
    """Take in a message.

    Args:
        queue: queue from which it was consumed; also the name of its task.
        max_bytes: maximum size of a body; a larger one is dead without being read.
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
    """Return the records of ``send_task(queue, args=[records])`` as a plain message."""
    try:
        args, kwargs, _embed = json.loads(delivery.body)
        records = args[0] if args else kwargs["records"]
        # a lone surrogate, which JSON has and UTF-8 has not, is kept as its escape
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
    """Return the id of a Celery call, if it is valid as a message id."""
    match table.get("id"):
        case str() as text:
            return short_text(text.encode(errors="backslashreplace")) or None
        case _:
            return None


class ShrinkLevel(NamedTuple):
    """How much smaller than usual the batch of a message is: at level 0 of full size,
    then ten times smaller for each failed attempt, at last the message alone.

    So a message that fails its batch repeatedly is separated from the others before its
    retries are used up.
    """

    level: int
    single: bool


#: The shrink level of a message that has not failed.
FULL_SIZE = ShrinkLevel(0, single=False)


def shrink_level_of(delivery: Delivery) -> ShrinkLevel:
    """Return the shrink level of a delivery."""
    table = delivery.headers
    if not table:
        return FULL_SIZE
    # for a message that was not delivered before, the header was set by the sender
    deliveries = count_in(table, "x-delivery-count") if delivery.redelivered else 0
    if deliveries >= _SUSPECT_DELIVERIES or table.get(headers.SINGLE):
        return ShrinkLevel(_LARGEST_LEVEL, single=True)
    return ShrinkLevel(min(delivery.attempt, _LARGEST_LEVEL), single=False)


class Buffer:
    """The open batch of one queue and level.

    Attributes:
        bytes: size of its messages.
        count_limit: number of messages at which it is full.
        due: whether it is to run although it is not full.
        opened_at: time at which its first message was received, epoch seconds.
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
        """Add a delivery; return whether the batch is full and must be taken."""
        if not self._deliveries:
            self.opened_at = delivery.received_at
        self._deliveries.append(delivery)
        self.bytes += len(delivery.body)
        return (
            len(self._deliveries) >= self.count_limit
            or self.bytes >= self._limits.bytes
        )

    def take(self) -> list[Delivery]:
        """Return the batch, and empty the buffer."""
        deliveries, self._deliveries = self._deliveries, []
        self.bytes = 0
        self.due = False
        return deliveries


class Capacity:
    """The number of messages of a queue that may be held. It depends on their size, so
    that large messages do not fill the memory.

    Args:
        most: maximum number.
        limits: limits of a batch.
        is_fixed: whether the number is always the maximum.

    Attributes:
        messages: the present number.
        message_bytes: size of the messages, an upper estimate; 0 while it is unknown.
    """

    def __init__(self, most: int, limits: BatchLimits, *, is_fixed: bool) -> None:
        self.messages = most if is_fixed else min(most, _FIRST_MESSAGES)
        self.message_bytes = 0.0
        self._most = most
        self._is_fixed = is_fixed
        self._least = max(1, most // limits.count)
        self._most_bytes = 2 * self._least * limits.bytes

    def adapt(self, buffer: Buffer) -> bool:
        """Note the size of a batch. Return whether the number has changed; it does if
        it should be half or twice as large."""
        self.message_bytes = max(buffer.bytes / len(buffer), 0.9 * self.message_bytes)
        fitting = int(self._most_bytes / (self.message_bytes or 1))
        fitting = min(self._most, max(self._least, fitting))
        if self._is_fixed or self.messages / 2 <= fitting < 2 * self.messages:
            return False
        self.messages = fitting
        return True


class LeadingEdge:
    """Decides how long the batches of a queue collect messages.

    A message that arrives at an idle queue runs at once. A message that arrives within
    the age limit after a batch has started opens a batch that collects messages. So a
    sparse message does not wait, and a stream is batched as if each batch waited.

    Args:
        age_seconds: the age limit.
        always: whether every batch waits for the age limit after its first message.

    Attributes:
        running: number of batches that have started and not ended.
    """

    def __init__(self, age_seconds: float, *, always: bool = False) -> None:
        self._age_seconds = age_seconds
        self._always = always
        self.running = 0
        self._started_at = float("-inf")

    def started(self, now: float) -> None:
        """Note that a batch has started; ``now`` is monotonic seconds."""
        self.running += 1
        self._started_at = now

    def ended(self) -> None:
        """Note that a batch has ended."""
        self.running -= 1

    def wait_seconds(self, now: float) -> float:
        """Return how long a batch that is opened now collects, unless it is full.

        It collects for the whole age limit, not for the rest of it since the previous
        batch started. So a steady stream makes no more batches than without this class.
        If the previous batch runs longer than the age limit, this batch is due when the
        previous one ends.
        """
        is_idle = not self.running and now - self._started_at >= self._age_seconds
        return 0.0 if is_idle and not self._always else self._age_seconds
