"""Dead letters as workers write them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.failed import FailedMessage, dead_message
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.outcome import Dead

QUEUE = "dead.letter.queue"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


def dead_letter(
    number: int,
    reason: str = 'value: expected a number, got the text "n/a"',
    *,
    kind: str = "SchemaMismatch",
    queue: str = "sensors.temperature",
    failed_at: float = NOON,
    body: bytes | None = None,
    traceback: str = "",
) -> Outgoing:
    """A dead letter; its message id is the number."""
    delivery = Delivery(
        tag=number,
        body=body or b'{"sensor_id": "attic", "value": "n/a", "n": %d}' % number,
        exchange=queue.partition(".")[0],
        routing_key=f"{queue}.attic",
        properties={"message_id": str(number), "content_type": "application/json"},
        redelivered=False,
        received_at=failed_at - 1,
    )
    return dead_message(
        FailedMessage(delivery, queue, delivery.body),
        Dead(reason, kind, traceback),
        task_id=f"task-{number}",
        worker="celery@rack",
        now=failed_at,
    )


def add_dead_letters(url: str, letters: Iterable[Outgoing]) -> None:
    """Put dead letters into their queue."""
    publisher = Publisher(url)
    publisher.publish(list(letters))
    publisher.close()
