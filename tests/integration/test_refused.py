"""One message that cannot be published does not hold up the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing

import pytest
from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.republisher import PublishRequest, Republisher
from meshtasks.errors import PublishRefused, PublishUnconfirmed, Unroutable
from meshtasks.producers.base import Producer
from tests.support.amqp import drain
from tests.support.waiting import wait_until

QUEUE = "sensors.motion"
UNENCODABLE = Outgoing("", "k" * 300, b"{}")
NO_EXCHANGE = Outgoing("of.nobody", "k", b"{}")
NO_QUEUE = Outgoing("", "nobody", b"{}")


def good(number: int) -> Outgoing:
    return Outgoing("", QUEUE, b"{}", message_id=str(number))


def arrived(url: str) -> list[str]:
    return [str(each.properties["message_id"]) for each in drain(url, QUEUE)]


def test_those_that_cannot_be_published_are_named_and_the_others_arrive(
    mesh_url: str,
) -> None:
    batch = [good(0), UNENCODABLE, good(1), NO_EXCHANGE, NO_QUEUE, good(2)]
    with closing(Publisher(mesh_url)) as publisher:
        for _ in range(2):  # the second time is about what is left
            with pytest.raises(PublishRefused) as caught:
                publisher.publish(batch)

    assert caught.value.refused == (UNENCODABLE, NO_EXCHANGE)
    assert caught.value.misfits == (UNENCODABLE,)
    assert caught.value.routes == {("", "nobody")}
    assert set(arrived(mesh_url)) == {"0", "1", "2"}


def test_headers_that_fill_a_frame_are_left_out(mesh_url: str) -> None:
    table: dict[str, object] = {f"user-{number}": "x" * 60_000 for number in range(3)}
    with closing(Publisher(mesh_url)) as publisher:
        publisher.publish([good(0)._replace(headers=table), good(1)])

    first, second = drain(mesh_url, QUEUE)
    assert "user-2 (60," in first.headers["x-mesh-omitted-headers"]
    assert second.properties["message_id"] == "1"


class Faulty(Publisher):
    """Meets a fault that nobody foresaw, at every message that says so."""

    @override
    def publish(self, messages: Sequence[Outgoing]) -> None:
        if any(each.body == b"fault" for each in messages):
            raise ZeroDivisionError
        super().publish(messages)


def test_a_request_that_is_refused_ends_and_the_others_go_on(mesh_url: str) -> None:
    delivered: list[int] = []
    refused: list[int] = []
    republisher = Republisher(Faulty(mesh_url))

    def request(number: int, message: Outgoing) -> PublishRequest:
        return PublishRequest(
            [message],
            lambda error: (refused if error else delivered).append(number),
            is_wanted=lambda: True,
        )

    bad = [UNENCODABLE, NO_EXCHANGE, NO_QUEUE, Outgoing("", QUEUE, b"fault")]
    for number, message in enumerate([good(0), *bad, good(5)]):
        republisher.send(request(number, message))
    republisher.start()
    wait_until(lambda: len(delivered) + len(refused) == 6, 20, "all requests")
    republisher.send(request(6, good(6)))
    wait_until(lambda: 6 in delivered, 20, "one more")
    republisher.stop(5)

    assert sorted(delivered) == [0, 5, 6]
    assert sorted(refused) == [1, 2, 3, 4]


def test_the_gateway_tells_each_caller_of_its_own(mesh_url: str) -> None:
    republisher = Republisher(Publisher(mesh_url), max_waiting=10)
    outcomes: dict[int, str] = {}

    def hand_in(number: int, message: Outgoing) -> None:
        try:
            republisher.publish(message)
        except (PublishRefused, Unroutable) as error:
            outcomes[number] = type(error).__name__
        else:
            outcomes[number] = "confirmed"

    handed = [good(0), UNENCODABLE, NO_EXCHANGE, NO_QUEUE, good(4)]
    threads = [
        threading.Thread(target=hand_in, args=each) for each in enumerate(handed)
    ]
    for each in threads:
        each.start()
    republisher.start()
    for each in threads:
        each.join(300)
    republisher.stop()

    refused, unroutable = "PublishRefused", "Unroutable"
    assert [outcomes[number] for number in range(5)] == [
        "confirmed",
        refused,
        refused,
        unroutable,
        "confirmed",
    ]


def test_a_request_that_is_tried_once_ends_while_the_broker_is_away() -> None:
    republisher = Republisher(Publisher("amqp://guest:guest@127.0.0.1:1//"))
    republisher.start()
    with pytest.raises(PublishUnconfirmed):
        republisher.publish(good(0))
    republisher.stop()


def test_a_caller_is_refused_when_too_many_wait(mesh_url: str) -> None:
    republisher = Republisher(Publisher(mesh_url), max_waiting=1)
    republisher.send(PublishRequest([good(0)], lambda _: None))
    with pytest.raises(PublishUnconfirmed, match="1 messages wait already"):
        republisher.publish(good(1))


def test_a_producer_counts_one_and_goes_on(mesh_url: str) -> None:
    producer = Producer(Publisher(mesh_url))
    producer.submit_message(good(0))
    producer.submit_message(Outgoing("e" * 300, "k", b"{}"))
    producer.submit_message(good(1))
    producer.start()
    producer.stop(20)

    assert (producer.counts().confirmed, producer.counts().dropped) == (2, 1)
    assert arrived(mesh_url) == ["0", "1"]
