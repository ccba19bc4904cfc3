"""Dead letters as workers write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.dead_letters import FailedMessage, dead_message
from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.receiving import Message
from meshtasks.outcome import Dead
from tests.support.amqp import open_channel
from tests.support.waiting import wait_until

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


@contextmanager
def dying_again(url: str, queue: str) -> Iterator[None]:
    """What is in a queue becomes a dead letter, as if by a worker."""
    stopping = threading.Event()

    def work() -> None:
        with connected(url) as connection, closing(Publisher(url)) as publisher:

            def bury(message: Message) -> None:
                delivery = delivery_of(message, time.time())
                failed = FailedMessage(delivery, queue, delivery.body)
                dead = Dead("still no number", "SchemaMismatch", "")
                letter = dead_message(
                    failed, dead, task_id="t", worker="w", now=time.time()
                )
                publisher.publish([letter])

            connection.channel().basic_consume(queue, no_ack=True, callback=bury)
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: consumers(url, queue) == 1, 60, "the consumer")
        yield
    finally:
        stopping.set()
        worker.join()


def consumers(url: str, queue: str) -> int:
    """How many consume a queue."""
    with open_channel(url) as channel:
        return int(channel.queue_declare(queue, passive=True).consumer_count)
