"""The shipped topology on a real broker: every way a message can take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from amqp.exceptions import NotFound
from celery import Celery
from paho.mqtt import publish as mqtt

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare, task_queues
from meshtasks.amqp.drift import compare
from meshtasks.amqp.headers import BROKER_MANAGED
from meshtasks.amqp.management import read
from meshtasks.amqp.topology import Topology
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError
from tests.support.amqp import Delivery, drain, open_channel, publish_raw, take
from tests.support.topologies import ROUTES, shipped_document, shipped_topology

KEY = "sensors.temperature.attic"


@pytest.fixture
def url(every_amqp_url: str) -> str:
    """A virtual host that has the shipped topology."""
    with connected(every_amqp_url) as connection:
        declare(connection, shipped_topology())
    return every_amqp_url


@pytest.fixture
def quick_url(every_amqp_url: str) -> str:
    """A virtual host whose queues give up on a message after three deliveries."""
    document = shipped_document()
    document["defaults"]["queue"]["delivery_limit"] = 3
    with connected(every_amqp_url) as connection:
        declare(connection, Topology.model_validate(document))
    return every_amqp_url


def take_from_all(url: str) -> Iterator[tuple[str, Delivery]]:
    for queue in shipped_topology().all_queues:
        for delivery in drain(url, queue.name):
            yield queue.name, delivery


def deaths(delivery: Delivery) -> list[tuple[str, str, int]]:
    """What the broker says of a message's deaths: (queue, reason, count)."""
    return [
        (death["queue"], death["reason"], death["count"])
        for death in delivery.headers.get("x-death", [])
    ]


def test_the_broker_routes_as_the_model_does(url: str) -> None:
    for number, (exchange, routing_key, _) in enumerate(ROUTES):
        publish_raw(url, exchange, routing_key, b"%d" % number, mandatory=False)

    arrived: dict[int, set[str]] = {number: set() for number in range(len(ROUTES))}
    for queue, delivery in take_from_all(url):
        arrived[int(delivery.body)].add(queue)

    assert arrived == {number: queues for number, (_, _, queues) in enumerate(ROUTES)}


def test_a_rejected_message_is_a_dead_letter_with_its_own_routing_key(
    url: str,
) -> None:
    publish_raw(url, "sensors", KEY, b"bad")

    with open_channel(url) as channel:
        message = channel.basic_get("sensors.temperature")
        channel.basic_reject(message.delivery_tag, requeue=False)

    (letter,) = take(url, "dead.letter.queue", 1)
    assert letter.body == b"bad"
    assert deaths(letter) == [("sensors.temperature", "rejected", 1)]
    assert letter.headers["x-death"][0]["routing-keys"] == [KEY]


def test_a_message_that_is_never_settled_ends_as_a_dead_letter(quick_url: str) -> None:
    publish_raw(quick_url, "sensors", KEY, b"poison")

    deliveries = 0
    with open_channel(quick_url) as channel:
        while message := channel.basic_get("sensors.temperature"):
            deliveries += 1
            channel.basic_reject(message.delivery_tag, requeue=True)

    (letter,) = take(quick_url, "dead.letter.queue", 1)
    assert deliveries == 1 + 3  # the first, and as many again as the limit says
    assert deaths(letter) == [("sensors.temperature", "delivery_limit", 1)]


def test_reading_a_dead_letter_many_times_does_not_lose_it(url: str) -> None:
    publish_raw(url, "dead.letter", "#", b"letter")

    with open_channel(url) as channel:
        for _ in range(30):  # RabbitMQ 4 drops at 20, where no limit is given
            message = channel.basic_get("dead.letter.queue")
            channel.basic_reject(message.delivery_tag, requeue=True)

    assert [letter.body for letter in drain(url, "dead.letter.queue")] == [b"letter"]


def test_a_retry_comes_back_to_the_queue_it_names_alone_every_time(url: str) -> None:
    body, headers = b"again", {"x-mesh-attempt": 1}
    publish_raw(url, "retry.1", "alerts.critical", body, headers=headers)

    for _ in range(3):
        (returned,) = take(url, "alerts.critical", 1)
        assert returned.body == body
        # once, whatever broker: RabbitMQ 3 would count on from headers sent again
        assert deaths(returned) == [("retry.1", "expired", 1)]
        again = {
            name: value
            for name, value in returned.headers.items()
            if name not in BROKER_MANAGED
        }
        assert again == headers
        publish_raw(url, "retry.1", "alerts.critical", body, headers=again)

    take(url, "alerts.critical", 1)
    assert list(take_from_all(url)) == []


def test_an_mqtt_device_reaches_the_queue_of_its_sensor_unless_it_misspells_it(
    rabbitmq: RabbitMQ,
) -> None:
    rabbitmq.create_vhost("house")
    url = rabbitmq.amqp_url("house")
    with connected(url) as connection:
        declare(connection, shipped_topology())

    topics = ["sensors/temperature/living_room", "Sensors/temperature/attic"]
    mqtt.multiple(
        [(topic, b"21.5", 1, False) for topic in [*topics, "printer/status"]],
        hostname="127.0.0.1",
        port=rabbitmq.ports.mqtt,
        auth={
            "username": f"house:{rabbitmq.user}",  # the plugin's virtual host
            "password": rabbitmq.password,
        },
    )

    (reading,) = take(url, "sensors.temperature", 1)
    assert reading.body == b"21.5"
    assert reading.routing_key == "sensors.temperature.living_room"
    (misspelt,) = take(url, "dead.letter.queue", 1)
    assert misspelt.routing_key == "Sensors.temperature.attic"


def test_what_differs_on_the_broker_is_refused_by_name(amqp_url: str) -> None:
    with open_channel(amqp_url) as channel:
        channel.queue_declare("metrics.system", durable=True, auto_delete=False)

    with connected(amqp_url) as connection, pytest.raises(ConfigError) as caught:
        declare(connection, shipped_topology())

    assert caught.value.key == "queue metrics.system"
    assert "inequivalent arg 'x-dead-letter-exchange'" in caught.value.expected
    assert "empty and delete it" in caught.value.expected


def test_an_exchange_of_another_type_is_refused_by_name(amqp_url: str) -> None:
    with open_channel(amqp_url) as channel:
        channel.exchange_declare("alerts", "topic", durable=True, auto_delete=False)

    with connected(amqp_url) as connection, pytest.raises(ConfigError) as caught:
        declare(connection, shipped_topology())

    assert caught.value.key == "exchange alerts"


def test_an_account_without_the_right_to_declare_is_told_so(
    rabbitmq: RabbitMQ, vhost: str
) -> None:
    user = f"reader-of-{vhost}"
    rabbitmq.api("PUT", f"/users/{user}", {"password": "pw", "tags": ""})
    rights = {"configure": "^$", "write": "^$", "read": ".*"}
    rabbitmq.api("PUT", f"/permissions/{vhost}/{user}", rights)
    url = f"amqp://{user}:pw@127.0.0.1:{rabbitmq.ports.amqp}/{vhost}"

    with connected(url) as connection, pytest.raises(ConfigError) as caught:
        declare(connection, shipped_topology())

    assert caught.value.key == "queue dead.letter.queue"
    assert "may not be declared by this account" in caught.value.expected


class TestWithCelery:
    @pytest.fixture
    def app(self, mesh_url: str) -> Iterator[Celery]:
        app = Celery("test", broker=mesh_url, set_as_current=False)
        app.conf.update(
            task_queues=task_queues(shipped_topology()),
            task_create_missing_queues=False,
            task_default_queue="commands",
        )
        yield app
        app.close()

    def test_a_worker_consuming_every_queue_changes_nothing_on_the_broker(
        self, app: Celery, mesh_url: str, rabbitmq: RabbitMQ
    ) -> None:
        before = read(mesh_url, rabbitmq.management_url)

        with app.connection_for_read() as connection:
            consumer = app.amqp.TaskConsumer(connection.default_channel)
            consumer.consume()
            consumer.cancel()

        after = read(mesh_url, rabbitmq.management_url)
        assert after.bindings == before.bindings
        assert compare(shipped_topology(), after).differences == ()

    @pytest.mark.parametrize("queue", ["commands", "alerts.critical"])
    def test_a_task_that_is_sent_to_a_queue_gets_to_that_queue_alone(
        self, app: Celery, mesh_url: str, queue: str
    ) -> None:
        app.send_task("some.task", queue=queue, ignore_result=True)

        ((reached, delivery),) = take_from_all(mesh_url)
        assert reached == queue
        assert delivery.headers["task"] == "some.task"


def test_a_command_sent_before_its_queue_is_there_is_refused_and_not_lost(
    amqp_url: str,
) -> None:
    app = Celery("test", broker=amqp_url, set_as_current=False)
    app.conf.update(
        task_queues=task_queues(shipped_topology()), task_default_queue="commands"
    )

    with pytest.raises(NotFound, match="no queue 'commands'"):
        app.send_task("refused.task", ignore_result=True)
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    app.send_task("taken.task", ignore_result=True)
    app.close()

    (command,) = take(amqp_url, "commands", 1)
    assert command.headers["task"] == "taken.task"
