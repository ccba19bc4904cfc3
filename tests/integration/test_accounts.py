"""The accounts of docker-compose.yml on a real broker: what each role may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import pytest
from amqp.exceptions import AccessRefused
from paho.mqtt import publish as mqtt

from meshtasks.domain.accounts import rights_of
from meshtasks.embedded import loopback
from meshtasks.embedded.rabbitmq import MANAGEMENT, MQTT, RabbitMQ
from meshtasks.environment import Environment
from meshtasks.messaging.accounts import definitions_with_accounts
from meshtasks.settings import Settings
from tests.support.amqp import open_channel, publish_raw, queue_depth
from tests.support.waiting import wait_until
from tests.support.worker import Worker

ROOT = Path(__file__).parents[2]
TOPOLOGY = Settings(Environment(config_dir=ROOT / "config")).topology
ROLES = sorted(rights_of(TOPOLOGY))
VHOST = "mesh"
READING = b'{"value": 21.5, "sensor_id": "attic"}'

Url = Callable[[str], str]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A node that has loaded the definitions, as compose's does."""
    passwords = {role: f"secret of {role}" for role in ROLES}
    node = RabbitMQ(
        tmp_path_factory.mktemp("accounts"),
        plugins=(MANAGEMENT, MQTT),
        definitions=definitions_with_accounts(TOPOLOGY, VHOST, passwords),
    )
    node.start()
    yield node
    node.kill()


@pytest.fixture
def url(broker: RabbitMQ) -> Url:
    """AMQP URL of a role."""

    def of_role(role: str) -> str:
        address = f"{loopback.HOST}:{broker.ports.amqp}"
        return f"amqp://{role}:secret%20of%20{role}@{address}/{VHOST}"

    return of_role


def refused(url: str, act: Callable[[amqp.Channel], object]) -> bool:
    """Whether the broker forbids something."""
    try:
        with open_channel(url) as channel:
            act(channel)
    except AccessRefused:
        return True
    return False


@pytest.mark.parametrize("role", ROLES)
def test_every_role_can_log_in(url: Url, role: str) -> None:
    assert not refused(url(role), lambda channel: channel.flow(active=True))


@pytest.mark.parametrize("role", [role for role in ROLES if role != "worker"])
def test_only_workers_declare_what_the_mesh_consists_of(url: Url, role: str) -> None:
    assert refused(
        url(role), lambda channel: channel.exchange_delete("sensors", if_unused=True)
    )
    assert refused(
        url(role), lambda channel: channel.queue_declare("foreign", durable=True)
    )


@pytest.mark.parametrize("role", ["producer", "devices", "gateway", "normaliser"])
def test_who_publishes_reads_no_queue_of_the_mesh(url: Url, role: str) -> None:
    assert refused(url(role), lambda channel: channel.basic_get("sensors.temperature"))


def test_a_producer_publishes_to_domains_and_nowhere_else(url: Url) -> None:
    publish_raw(url("producer"), "sensors", "sensors.humidity.attic", b"50")

    for exchange in ("archive", "dead.letter", "commands", ""):
        with pytest.raises(AccessRefused):
            publish_raw(url("producer"), exchange, "commands", READING)


def test_a_device_publishes_by_mqtt_and_its_reading_is_in_the_mesh(
    broker: RabbitMQ, url: Url
) -> None:
    before = queue_depth(url("operator"), "sensors.motion")

    mqtt.single(
        "sensors/motion/hall",
        '{"motion": true}',
        qos=1,
        hostname=loopback.HOST,
        port=broker.ports.mqtt,
        auth={"username": f"{VHOST}:devices", "password": "secret of devices"},
    )

    wait_until(
        lambda: queue_depth(url("operator"), "sensors.motion") == before + 1,
        30,
        "the reading",
    )


def test_a_worker_declares_consumes_and_dead_letters(url: Url, tmp_path: Path) -> None:
    env = {
        "MESH_BROKER_URL": url("worker"),
        "MESH_CONFIG_DIR": str(ROOT / "config"),
        "MESH_STATE_DIR": str(tmp_path / "state"),
        "MESH_ARCHIVE_URL": f"file://{tmp_path / 'archive'}",
    }
    worker = Worker(
        tmp_path, env, "sensors.motion", "commands", arguments=("-P", "solo")
    )
    worker.start()
    try:
        publish_raw(url("operator"), "sensors", "sensors.motion.hall", b"not JSON")
        wait_until(
            lambda: queue_depth(url("operator"), "dead.letter.queue") == 1,
            60,
            "the dead letter",
        )
    finally:
        worker.stop()
    assert "ACCESS_REFUSED" not in worker.log()
