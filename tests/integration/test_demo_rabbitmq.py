"""The private RabbitMQ node."""

from __future__ import annotations

import hashlib
import socket
import stat
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import amqp
import pytest
from paho.mqtt import publish as mqtt

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.topology import Topology
from meshtasks.demo import loopback
from meshtasks.demo.process import ProcessFailed
from meshtasks.demo.rabbitmq import Ports, RabbitMQ
from meshtasks.errors import ConfigError
from tests.support.amqp import has_registered, open_channel, publish_raw, take
from tests.support.processes import processes_of
from tests.support.topologies import small_document
from tests.support.waiting import wait_until

_SALT = b"salt"
_DIGEST = hashlib.sha256(_SALT + b"only-reads").digest()
READER = {
    "name": "reader",
    "password_hash": b64encode(_SALT + _DIGEST).decode(),
    "hashing_algorithm": "rabbit_password_hashing_sha256",
    "tags": "",
}
RIGHTS = {"configure": "", "write": "", "read": ".*"}
DEFINITIONS = {
    "users": [READER],
    "vhosts": [{"name": "house"}],
    "permissions": [{"user": "reader", "vhost": "house", **RIGHTS}],
}
BODIES = [b"%d" % number for number in range(20)]


def declare_quorum_queue(url: str, name: str) -> None:
    with open_channel(url) as channel:
        arguments = {"x-queue-type": "quorum"}
        channel.queue_declare(
            name, durable=True, auto_delete=False, arguments=arguments
        )


@pytest.fixture(scope="module")
def stopped_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node without plugins, the quickest to start, to stop and to kill."""
    directory = tmp_path_factory.mktemp("plain-rabbitmq")
    node = RabbitMQ(directory, plugins=(), definitions=DEFINITIONS)
    yield node
    node.kill()


@pytest.fixture
def plain_node(stopped_node: RabbitMQ) -> RabbitMQ:
    """That node, running; it is the test's own, but not its queues."""
    if not stopped_node.process.running:
        stopped_node.start()
    return stopped_node


def test_the_administrator_may_use_a_new_virtual_host(amqp_url: str) -> None:
    declare_quorum_queue(amqp_url, "kitchen")
    publish_raw(amqp_url, "", "kitchen", *BODIES)

    assert [one.body for one in take(amqp_url, "kitchen", 20)] == BODIES


def test_there_is_no_guest(rabbitmq: RabbitMQ) -> None:
    users = {user["name"] for user in rabbitmq.api("GET", "/users")}
    assert rabbitmq.user in users
    assert "guest" not in users


def test_a_deleted_virtual_host_is_gone(rabbitmq: RabbitMQ) -> None:
    rabbitmq.create_vhost("a house/with a slash")
    rabbitmq.delete_vhost("a house/with a slash")

    with pytest.raises(loopback.HTTPFailed, match="404"):
        rabbitmq.delete_vhost("a house/with a slash")


def test_it_listens_on_loopback_alone(rabbitmq: RabbitMQ) -> None:
    """127.0.0.2 reaches those who listen on every address, not on 127.0.0.1."""
    listening = [port for port in astuple(rabbitmq.ports) if accepts(port)]

    assert len(listening) == len(astuple(rabbitmq.ports))
    assert not [port for port in listening if accepts(port, "127.0.0.2")]


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


def test_an_mqtt_device_publishes_to_amq_topic(rabbitmq: RabbitMQ) -> None:
    url = rabbitmq.amqp_url()
    declare_quorum_queue(url, "observer")
    with open_channel(url) as channel:
        channel.queue_bind("observer", "amq.topic", "sensors.#")

    mqtt.single(
        "sensors/temperature/living_room",
        "21.5",
        qos=1,
        hostname=loopback.HOST,
        port=rabbitmq.ports.mqtt,
        auth={"username": rabbitmq.user, "password": rabbitmq.password},
    )

    (delivery,) = take(url, "observer", 1)
    assert delivery.routing_key == "sensors.temperature.living_room"
    assert delivery.body == b"21.5"


@pytest.mark.parametrize("end", [RabbitMQ.stop, RabbitMQ.kill])
def test_it_leaves_nothing_running_and_confirmed_messages_are_there_when_it_is_back(
    plain_node: RabbitMQ, end: Callable[[RabbitMQ], None]
) -> None:
    url, queue = plain_node.amqp_url(), f"before {end.__name__}"
    declare_quorum_queue(url, queue)
    publish_raw(url, "", queue, *BODIES)
    wait_until(lambda: has_registered(plain_node, queue), 10.0, "the queue to be kept")
    assert len(processes_of(plain_node.directory)) > 1

    end(plain_node)

    assert processes_of(plain_node.directory) == []
    plain_node.start()
    assert [one.body for one in take(url, queue, 20)] == BODIES


def test_a_node_that_cannot_start_says_why_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    node = RabbitMQ(tmp_path, plugins=())
    with (
        closing(socket.create_server((loopback.HOST, node.ports.amqp))),
        pytest.raises(ProcessFailed, match=r"(?s)rabbitmq ended while.*eaddrinuse"),
    ):
        node.start()

    assert processes_of(tmp_path) == []


def test_a_path_that_rabbitmq_would_hang_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="apostrophe"):
        RabbitMQ(tmp_path / "Anna's house").start()


def test_a_second_node_on_the_same_directory_is_refused(plain_node: RabbitMQ) -> None:
    with pytest.raises(ProcessFailed, match="running already"):
        RabbitMQ(plain_node.directory).start()

    declare_quorum_queue(plain_node.amqp_url(), "still there")


def test_definitions_are_imported_at_start(plain_node: RabbitMQ) -> None:
    declare_quorum_queue(plain_node.amqp_url("house"), "kitchen")
    url = f"amqp://reader:only-reads@{loopback.HOST}:{plain_node.ports.amqp}/house"

    with open_channel(url) as channel:
        assert channel.basic_get("kitchen") is None
        with pytest.raises(amqp.exceptions.AccessRefused):
            channel.queue_declare("garden")


def test_partitions_on_a_node_without_their_plugin_are_refused_with_the_remedy(
    plain_node: RabbitMQ,
) -> None:
    document = small_document()
    document["queues"][0]["partitions"] = 4
    with (
        connected(plain_node.amqp_url()) as connection,
        pytest.raises(ConfigError, match="rabbitmq-plugins enable rabbitmq_consistent"),
    ):
        declare(connection, Topology.model_validate(document))


def test_the_administrator_of_a_directory_stays_the_same(tmp_path: Path) -> None:
    assert RabbitMQ(tmp_path).password == RabbitMQ(tmp_path).password


def test_the_password_is_its_owner_s_alone(tmp_path: Path) -> None:
    password = RabbitMQ(tmp_path).password

    holders = [path for path in tmp_path.iterdir() if password in path.read_text()]

    assert [stat.S_IMODE(path.stat().st_mode) for path in holders] == [0o400]


def test_preferred_ports_are_used_when_they_are_free() -> None:
    with closing(socket.create_server((loopback.HOST, 0))) as occupied:
        taken = occupied.getsockname()[1]
        with closing(socket.create_server((loopback.HOST, 0))) as other:
            free = other.getsockname()[1]

        ports = Ports.free(amqp=free, mqtt=taken)

    assert ports.amqp == free
    assert ports.mqtt != taken


def test_a_port_is_not_given_twice_before_a_server_listens_on_it() -> None:
    with closing(socket.create_server((loopback.HOST, 0))) as other:
        free = other.getsockname()[1]

    assert loopback.free_port(free) == free
    assert loopback.free_port(free) != free
