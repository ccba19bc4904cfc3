"""The accounts of docker-compose.yml on a real broker: what each role may do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from http import HTTPStatus
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import amqp
import paho.mqtt.client as paho
import pytest
from amqp.exceptions import AccessRefused
from dotenv import dotenv_values
from paho.mqtt import publish as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import SecretStr

from meshtasks.amqp.accounts import definitions_with_accounts, rights_of
from meshtasks.amqp.entities import Queue
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.certificates import AUTHORITY, SHARED, make_certificates
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import MANAGEMENT, MQTT, SERVER, RabbitMQ
from tests.support import rawmqtt
from tests.support.amqp import open_channel, publish_raw, queue_depth
from tests.support.command import command
from tests.support.flower import Flower
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

ROOT = Path(__file__).parents[2]
SHIPPED = Settings(Environment(config_dir=ROOT / "config")).read(TOPOLOGY)
DEVICES = ("attic",)
ROLES = sorted(rights_of(SHIPPED, DEVICES))
VHOST = "mesh"
#: An address of this machine that no certificate is for.
ELSEWHERE = "127.0.0.2"
READING = b'{"value": 21.5, "sensor_id": "attic"}'

#: A topic of one device, by its client id.
WAITING = "waiting/{}"

Url = Callable[[str], str]
RoleEnv = Callable[[str], dict[str, str]]


class TLS(NamedTuple):
    """Ports of the node's listeners."""

    amqp: int
    mqtt: int


@pytest.fixture(scope="module")
def tls() -> TLS:
    """Ports for TLS."""
    return TLS(loopback.free_port(), loopback.free_port())


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, tls: TLS) -> Iterator[RabbitMQ]:
    """A node with the definitions and the configuration of compose's."""
    passwords = {role: f"secret of {role}" for role in ROLES}
    directory = tmp_path_factory.mktemp("accounts")
    (directory / "conf.d").mkdir()
    with chdir(directory):
        make_certificates()
    own = (ROOT / "config/rabbitmq/rabbitmq.conf").read_text(encoding="utf-8")
    for theirs, ours in (
        ("/etc/rabbitmq/definitions.json", f"{directory}/definitions.json"),
        ("/etc/rabbitmq/certificates", f"{directory}/{SHARED}"),
        ("ssl.default = 5671", f"ssl.1 = {loopback.HOST}:{tls.amqp}"),
        ("mqtt.listeners.ssl.default = 8883", f"mqtt.listeners.ssl.1 = {tls.mqtt}"),
    ):
        assert theirs in own
        own = own.replace(theirs, ours)
    # The certificate is not for this address.
    own += f"listeners.ssl.2 = {ELSEWHERE}:{tls.amqp}\n"
    (directory / "conf.d/20-mesh.conf").write_text(own, encoding="utf-8")
    node = RabbitMQ(
        directory,
        plugins=(MANAGEMENT, MQTT),
        definitions=definitions_with_accounts(SHIPPED, VHOST, passwords, DEVICES),
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


@pytest.fixture
def tls_env(broker: RabbitMQ, tls: TLS, tmp_path: Path) -> RoleEnv:
    """Variables of a process of a role that talks to the broker by TLS."""

    def of_role(role: str) -> dict[str, str]:
        address = f"localhost:{tls.amqp}"
        return {
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(tmp_path / "state"),
            "MESH_ARCHIVE_URL": f"file://{tmp_path / 'archive'}",
            "MESH_CA_FILE": str(broker.directory / AUTHORITY),
            "MESH_BROKER_URL": f"amqps://{role}:secret%20of%20{role}@{address}/{VHOST}",
        }

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


def test_the_gateway_neither_takes_nor_deletes_commands(url: Url) -> None:
    assert refused(url("gateway"), lambda channel: channel.basic_get("commands"))
    assert refused(url("gateway"), lambda channel: channel.queue_delete("commands"))


@pytest.mark.parametrize("role", [role for role in ROLES if role != "worker"])
def test_only_workers_declare_what_the_mesh_consists_of(url: Url, role: str) -> None:
    assert refused(
        url(role), lambda channel: channel.exchange_delete("sensors", if_unused=True)
    )
    assert refused(
        url(role), lambda channel: channel.queue_declare("foreign", durable=True)
    )


@pytest.mark.parametrize(
    "role", ["producer", "devices", "device_attic", "gateway", "normaliser", "monitor"]
)
def test_who_does_not_work_on_queues_neither_reads_nor_empties_them(
    url: Url, role: str
) -> None:
    for queue in ("sensors.temperature", "dead.letter.queue", "retry.5", "commands"):
        assert refused(url(role), lambda channel: channel.basic_get(queue))  # noqa: B023 - called at once
        assert refused(url(role), lambda channel: channel.queue_purge(queue))  # noqa: B023 - likewise


def test_the_monitor_puts_messages_into_no_queue(url: Url) -> None:
    with pytest.raises(AccessRefused):
        publish_raw(url("monitor"), "", "sensors.temperature", READING)


def test_the_monitor_takes_no_orders_meant_for_a_worker(url: Url) -> None:
    mailbox = "celery@host.celery.pidbox"
    with open_channel(url("worker")) as channel:
        channel.queue_declare(mailbox, exclusive=False, auto_delete=False)
    assert refused(url("monitor"), lambda channel: channel.basic_get(mailbox))


@pytest.mark.parametrize("kinds", [0, 20, 500])
def test_a_worker_has_the_rights_to_whatever_the_mesh_is_made_of(kinds: int) -> None:
    """RabbitMQ 4.3 refuses longer patterns, and to say whether something is there to
    who has no right to its name: that of partitions which a queue may have had, too."""
    queues = [Queue(name=f"sensors.of_kind_{number}") for number in range(kinds)]
    topology = SHIPPED.model_copy(update={"queues": (*SHIPPED.queues, *queues)})
    names = {each.name for each in (*topology.all_exchanges, *topology.all_queues)}
    for name in [*names]:
        names |= {f"partitions.{name}", f"{name}.part-3"}

    for may in rights_of(topology).values():
        assert max(map(len, (may.configure, may.write, may.read))) <= 1_024
    worker = re.compile(rights_of(topology)["worker"].configure)

    assert [name for name in names if not worker.fullmatch(name)] == []
    for foreign in ("foreign", "sensor", "sensorsx", "amq.topic", "partitions.", ""):
        assert not worker.fullmatch(foreign)


def test_a_producer_publishes_to_domains_and_nowhere_else(url: Url) -> None:
    publish_raw(url("producer"), "sensors", "sensors.humidity.attic", b"50")

    for exchange in ("archive", "dead.letter", "commands", ""):
        with pytest.raises(AccessRefused):
            publish_raw(url("producer"), exchange, "commands", READING)


def test_telegraf_may_use_the_exchange_as_it_is_and_not_declare_it(url: Url) -> None:
    """As docs/telegraf.md says of exchange_passive."""

    def declare(channel: amqp.Channel, *, passive: bool) -> None:
        channel.exchange_declare(
            "metrics", "topic", passive=passive, durable=True, auto_delete=False
        )

    assert refused(url("producer"), partial(declare, passive=False))
    with open_channel(url("producer")) as channel:
        declare(channel, passive=True)
    line = b"swap,host=vm free=0i 1795829640000000000"
    publish_raw(url("producer"), "metrics", "metrics.system.telegraf", line)

    assert queue_depth(url("worker"), "metrics.system") == 1


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


def test_a_device_publishes_by_tls_to_a_broker_whose_authority_it_has(
    broker: RabbitMQ, url: Url, tls: TLS
) -> None:
    before = queue_depth(url("operator"), "sensors.motion")

    mqtt.single(
        "sensors/motion/attic",
        '{"motion": true}',
        qos=1,
        hostname="localhost",
        port=tls.mqtt,
        auth={
            "username": f"{VHOST}:device_attic",
            "password": "secret of device_attic",
        },
        tls={"ca_certs": str(broker.directory / AUTHORITY)},
    )

    wait_until(
        lambda: queue_depth(url("operator"), "sensors.motion") == before + 1,
        30,
        "the reading",
    )


@pytest.mark.parametrize(
    ("host", "authority", "said"),
    [
        ("localhost", "another", "MESH_CA_FILE is to name the authority's file"),
        (ELSEWHERE, "ours", "meshtasks certificates --name HOST"),
    ],
)
def test_a_certificate_that_is_not_believed_is_one_plain_message(
    tls_env: RoleEnv, tmp_path: Path, host: str, authority: str, said: str
) -> None:
    env = tls_env("producer")
    env["MESH_BROKER_URL"] = env["MESH_BROKER_URL"].replace("localhost", host)
    if authority == "another":
        with chdir(tmp_path):
            make_certificates()
        env["MESH_CA_FILE"] = str(tmp_path / AUTHORITY)
    message = ("sensors", "sensors.motion.hall", '{"motion": true}')

    done = subprocess.run(
        [Path(sys.executable).with_name("meshtasks"), "publish", *message],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 69
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


READABLE = [b"plain", "küche/🌡".encode(), "日本/~ $".encode(), b"x" * 249]
UNREADABLE = [
    *(b"bad\xff\xffname", "küche".encode("latin-1"), b"\xc0\xaf", b"\xed\xa0\x80"),
    *(b"\xf4\x90\x80\x80", b"cut\xf0\x9f\x8c", b"bell\x07", b"line\n", b"\xc2\x85"),
    *(b"x" * 250, b"x" * 65_000, "ü".encode() * 125),
]


@pytest.mark.parametrize("account", ["devices", "device_attic"])
def test_a_device_publishes_on_topics_that_everybody_can_read_and_on_no_others(
    broker: RabbitMQ, account: str
) -> None:
    mqtt_port = (loopback.HOST, broker.ports.mqtt)
    login = (f"{VHOST}:{account}", f"secret of {account}")
    with open_channel(broker.amqp_url(VHOST)) as channel:
        seen = channel.queue_declare("", exclusive=True).queue
        channel.queue_bind(seen, "amq.topic", "probe.#")

        taken = [
            topic
            for topic in READABLE + UNREADABLE
            if rawmqtt.publish(mqtt_port, login, b"probe/" + topic, b"1")
        ]
        for topic in UNREADABLE:
            rawmqtt.leave_a_will(mqtt_port, login, b"probe/" + topic, b"1")
        rawmqtt.leave_a_will(mqtt_port, login, b"probe/will", b"1")
        wait_until(
            lambda: (
                channel.queue_declare(seen, passive=True).message_count
                >= len(READABLE) + 1
            ),
            30,
            "the readable topics",
        )
        count = channel.queue_declare(seen, passive=True).message_count

    assert taken == READABLE
    assert count == len(READABLE) + 1


def received(
    broker: RabbitMQ,
    account: str,
    client_id: str,
    clean_session: bool = True,
    messages: int = 0,
) -> list[bytes] | None:
    """The first so many messages that an account gets under a client id; None if the
    broker refuses the connection or the subscription."""
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=clean_session,
        reconnect_on_failure=False,
    )
    client.username_pw_set(f"{VHOST}:{account}", f"secret of {account}")
    happened: SimpleQueue[bytes | bool] = SimpleQueue()

    def connected(*arguments: Any) -> None:
        if not arguments[3].is_failure:
            client.subscribe(WAITING.format(client_id), qos=1)

    def subscribed(*arguments: Any) -> None:
        # RabbitMQ 3 hangs up without an answer, RabbitMQ 4 answers first
        happened.put(not any(code.is_failure for code in arguments[3]))

    client.on_connect = connected
    client.on_subscribe = subscribed
    client.on_message = lambda _, __, message: happened.put(bytes(message.payload))
    client.on_disconnect = lambda *_: happened.put(False)
    client.connect(loopback.HOST, broker.ports.mqtt)
    client.loop_start()
    granted = False
    bodies: list[bytes] = []
    try:
        while not granted or len(bodies) < messages:
            match happened.get(timeout=300):
                case bytes() as body:
                    bodies.append(body)
                case False:
                    return None
                case True:
                    granted = True
    finally:
        client.disconnect()
        client.loop_stop()
    return bodies


@pytest.mark.parametrize(
    ("account", "client_id", "may"),
    [
        ("device_attic", "device_attic", True),
        ("device_attic", "device_attic-window", True),
        ("device_attic", "device_attic_1", False),
        ("device_attic", "DVES_1A2B3C", False),
        ("devices", "DVES_1A2B3C", True),
        ("devices", "device_attic", False),
        ("devices", "device_attic-window", False),
    ],
)
def test_an_account_subscribes_under_the_client_ids_that_are_its_own(
    broker: RabbitMQ, account: str, client_id: str, may: bool
) -> None:
    assert (received(broker, account, client_id) is not None) == may


@pytest.mark.parametrize(
    ("owner", "client_id", "other"),
    [
        ("device_attic", "device_attic-door", "devices"),
        ("devices", "DVES_4D5E6F", "device_attic"),
    ],
)
def test_nobody_gets_what_waits_for_a_device_by_taking_its_client_id(
    broker: RabbitMQ, owner: str, client_id: str, other: str
) -> None:
    received(broker, owner, client_id, clean_session=False)
    mqtt.single(
        WAITING.format(client_id),
        "for its owner",
        qos=1,
        hostname=loopback.HOST,
        port=broker.ports.mqtt,
        auth={"username": f"{VHOST}:devices", "password": "secret of devices"},
    )

    others = [received(broker, other, client_id, clean) for clean in (False, True)]
    own = received(broker, owner, client_id, clean_session=False, messages=1)

    assert others == [None, None]
    assert own == [b"for its owner"]


def rabbitmqctl(broker: RabbitMQ, *arguments: str) -> str:
    """What RabbitMQ's own tool says of the node."""
    tool = SERVER.with_name("rabbitmqctl")
    done = subprocess.run(
        [tool, *arguments],
        env=broker.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def test_the_broker_has_bounds_of_its_own_whatever_the_machine_has(
    broker: RabbitMQ,
) -> None:
    # the node notes its figures every five seconds, and shows none before
    wait_until(
        lambda: "mem_limit" in broker.api("GET", "/nodes")[0], 60, "the node's figures"
    )
    (node,) = broker.api("GET", "/nodes")
    assert node["mem_limit"] == 320 * 1024**2
    assert node["disk_free_limit"] == 512 * 10**6
    assert "wal_max_size_bytes,16000000" in rabbitmqctl(broker, "environment")


def test_a_device_has_a_bound_number_of_connections(broker: RabbitMQ) -> None:
    limits = {each["user"]: each["value"] for each in broker.api("GET", "/user-limits")}

    assert limits["device_attic"] == {"max-connections": 50, "max-channels": 200}


def test_what_waits_for_a_device_that_is_away_has_a_bound(broker: RabbitMQ) -> None:
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id="away", clean_session=False
    )
    client.username_pw_set(f"{VHOST}:devices", "secret of devices")
    subscribed = threading.Event()

    def subscribe(*_: object) -> None:
        client.subscribe("sensors/#", qos=1)

    client.on_connect = subscribe
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(loopback.HOST, broker.ports.mqtt)
    client.loop_start()
    assert subscribed.wait(300)
    client.disconnect()
    client.loop_stop()

    def bounds() -> set[str]:
        queue = broker.api("GET", f"/queues/{VHOST}/mqtt-subscription-awayqos1")
        return set(queue.get("effective_policy_definition", ()))

    wanted = {"max-length", "max-length-bytes", "expires"}
    wait_until(lambda: wanted <= bounds(), 30, "the bounds")


@pytest.fixture
def worker(tls_env: RoleEnv, tmp_path: Path) -> Iterator[Worker]:
    """A worker with the worker's account, as compose runs it, by TLS."""
    queues = ("sensors.motion", "commands")
    worker = Worker(tmp_path, tls_env("worker"), *queues, arguments=("-P", "solo"))
    with running(worker):
        yield worker


def test_who_works_watches_and_looks_after_the_mesh_may_do_that(
    broker: RabbitMQ,
    url: Url,
    tls_env: RoleEnv,
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # a worker declares, consumes and dead-letters
    publish_raw(url("producer"), "sensors", "sensors.motion.hall", b"not JSON")
    wait_until(
        lambda: queue_depth(url("operator"), "dead.letter.queue") == 1,
        60,
        "the dead letter",
    )

    # Flower, as the monitor, hears events, asks workers and calls commands
    flower = Flower(tmp_path, tls_env("monitor"))
    try:
        flower.start()
        workers = flower.request("GET", "workers", params={"refresh": "1"}).json()
        flower.call("send-task", "silence_alerts", queue="commands")
        wait_until(lambda: "silence_alerts" in worker.log(), 30, "the command")
    finally:
        flower.process.kill()
    assert [each["active_queues"] for each in workers.values()]

    # the gateway publishes, calls commands, and hears what became of them
    gateway = Gateway(tmp_path, tls_env("gateway"))
    gateway.start()
    try:
        reading = "/v1/events/sensors/sensors.humidity.attic"
        assert gateway.post(reading, {"value": 50}).status_code == HTTPStatus.ACCEPTED
        silence = {"matchers": ["location=attic"], "lasts": "2h"}
        task = gateway.post(
            "/v1/tasks/silence_alerts", silence, caller="operator"
        ).json()["id"]

        def state() -> str:
            return str(
                gateway.get(f"/v1/tasks/{task}", caller="operator").json()["state"]
            )

        wait_until(lambda: state() == "success", 30, "the outcome of the command")
    finally:
        gateway.stop()

    # the operator sees the whole status, the dead letters and the topology
    operator = Environment(
        config_dir=ROOT / "config", broker_url=SecretStr(url("operator"))
    )
    run = command(operator, monkeypatch, capsys)
    address = ("--management-url", broker.management_url)
    status = run("status", "--json", *address)
    said = json.loads(status.stdout)
    assert [each["name"].split("@")[0] for each in said["workers"]] == ["celery"]
    assert [each["count"] for each in said["dead_letters"]] == [1]
    assert all("nobody consumes it" in line for line in said["attention"])
    assert run("topology", "check", *address).exit_code == 0
    assert "1 " in run("dlq", "list").stdout
    assert "ACCESS_REFUSED" not in worker.log()

    # whoever looks from another machine sees until when the certificate is good
    for name, value in tls_env("worker").items():
        monkeypatch.setenv(name, value)
    looked = json.loads(run("doctor", "--json", *address).stdout)
    found = {each["check"]: each for each in looked}
    assert found["certificate"]["state"] == found["permissions"]["state"] == "ok"
    monkeypatch.setenv("MESH_BROKER_URL", url("operator"))
    looked = json.loads(run("doctor", "--json", *address).stdout)
    found = {each["check"]: each for each in looked}
    assert found["permissions"]["state"] == "skipped"


def test_a_device_gets_an_account_of_its_own_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command(Environment(config_dir=ROOT / "config"), monkeypatch, capsys)
    file, definitions = tmp_path / "passwords", tmp_path / "definitions.json"
    nobody = f"http://{loopback.HOST}:{loopback.free_port()}"
    files = ("--env-file", file, "--definitions", definitions)
    secrets = ("secrets", *files, "--management-url", nobody)

    assert run(*secrets, "--device", "attic_1").exit_code == 0
    before = dotenv_values(file)
    assert run(*secrets).exit_code == 0
    assert run(*secrets, "--device", "no/name").exit_code == 2

    users = [each["name"] for each in json.loads(definitions.read_text())["users"]]
    assert "device_attic_1" in users
    assert dotenv_values(file) == before
    assert before["MESH_BROKER_PASSWORD_DEVICE_ATTIC_1"]
