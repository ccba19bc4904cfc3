"""Reading from the broker in bursts."""

from __future__ import annotations

import amqp
import pytest
from kombu import Connection

from tests.support.amqp import open_channel
from tests.support.waiting import wait_until

QUEUE = "readings"


def test_all_that_has_arrived_is_dispatched_and_nothing_waited_for(
    amqp_url: str,
) -> None:
    with open_channel(amqp_url) as channel:
        channel.queue_declare(QUEUE)
        bodies: list[bytes] = []
        channel.basic_consume(QUEUE, callback=lambda each: bodies.append(each.body))
        assert not channel.connection.read_arrived(10)

        for number in range(5):
            channel.basic_publish(amqp.Message(f"{number}"), routing_key=QUEUE)

        def all_came() -> bool:
            channel.connection.read_arrived(10)
            return len(bodies) == 5

        wait_until(all_came, 30.0, "five messages")
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]


def test_a_channel_that_the_broker_has_closed_is_told_of(amqp_url: str) -> None:
    with Connection(amqp_url) as connection:
        channel = connection.default_channel
        channel.basic_publish(amqp.Message("1"), exchange="nobody.declared")

        with pytest.raises(amqp.NotFound, match=r"nobody\.declared"):
            wait_until(lambda: channel.connection.read_arrived(10), 30.0, "a refusal")
