"""A broker that is short of memory blocks those who publish; nothing is sent twice."""

from __future__ import annotations

import pytest

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import PublishUnconfirmed
from tests.support.alarm import memory_alarm
from tests.support.amqp import drain

QUEUE = "sensors.motion"


def test_what_was_sent_into_an_alarm_arrives_once(
    mesh_url: str, rabbitmq: RabbitMQ
) -> None:
    publisher = Publisher(mesh_url, confirm_timeout_seconds=1.0)
    # more than fits into the buffers of the sockets in between
    batch = [
        Outgoing("", QUEUE, b"x" * 30_000, message_id=str(number))
        for number in range(450)
    ]
    with memory_alarm(rabbitmq):
        for _ in range(3):
            with pytest.raises(PublishUnconfirmed, match="short of memory"):
                publisher.publish(batch)

    publisher.publish(batch)

    ids = [each.properties["message_id"] for each in drain(mesh_url, QUEUE)]
    assert ids == [str(number) for number in range(450)]
    with memory_alarm(rabbitmq):
        with pytest.raises(PublishUnconfirmed):
            publisher.publish(batch[:1])
        publisher.close()  # does not wait for an answer
