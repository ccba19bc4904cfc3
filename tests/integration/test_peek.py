"""Looking at a queue changes nothing that matters."""

from __future__ import annotations

from meshtasks.messaging.peek import peek
from meshtasks.messaging.publisher import Outgoing, Publisher
from tests.support.amqp import drain, publish_raw

QUEUE = "dead.letter.queue"


def fill(url: str, count: int) -> None:
    """Put messages on the dead-letter queue that say their number."""
    publisher = Publisher(url)
    publisher.publish(
        [
            Outgoing("dead.letter", "#", b"%d" % number, headers={"n": number})
            for number in range(count)
        ]
    )
    publisher.close()


def test_the_first_messages_are_seen_in_their_order(mesh_url: str) -> None:
    fill(mesh_url, 100)

    found = peek(mesh_url, QUEUE, limit=70)

    assert found.total == 100
    assert [each.headers["n"] for each in found.seen] == list(range(70))


def test_messages_keep_their_order_however_often_they_are_looked_at(
    mesh_url: str,
) -> None:
    fill(mesh_url, 200)
    for _ in range(25):  # other queues allow 20 deliveries
        peek(mesh_url, QUEUE, 200)
    assert [int(each.body) for each in drain(mesh_url, QUEUE)] == list(range(200))


def test_none_is_lost_if_not_all_are_looked_at(mesh_url: str) -> None:
    fill(mesh_url, 100)
    for limit in (30, 7, 99):
        peek(mesh_url, QUEUE, limit)
    left = sorted(int(each.body) for each in drain(mesh_url, QUEUE))
    assert left == list(range(100))


def test_any_bytes_may_be_in_a_message(mesh_url: str) -> None:
    publish_raw(mesh_url, "dead.letter", "#", b"\xff\x00")
    peek(mesh_url, QUEUE, limit=10)
    assert [each.body for each in drain(mesh_url, QUEUE)] == [b"\xff\x00"]


def test_an_empty_queue_holds_nothing(mesh_url: str) -> None:
    assert peek(mesh_url, QUEUE, limit=10) == (0, [])


def test_a_queue_that_is_not_there_holds_nothing(amqp_url: str) -> None:
    assert peek(amqp_url, "nobody", limit=10) == (0, [])
