"""The producer sensornet: real MQTT clients, a real broker, its queues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import ConfigError
from meshtasks.producers.sensornet.announcements import AnnouncementsFile
from meshtasks.producers.sensornet.normaliser import Normaliser
from meshtasks.producers.sensornet.service import DeviceService
from tests.support import hostile
from tests.support.accounts import PASSWORD, account
from tests.support.amqp import (
    Delivery,
    drain,
    open_channel,
    publish_raw,
    queue_depth,
    take,
)
from tests.support.devices import example, shipped
from tests.support.hostile import PROPERTIES, Hostile
from tests.support.proxy import Proxy
from tests.support.topologies import shipped_topology
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 60.0

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the normaliser on a broker; what it leaves running is killed."""
    with ExitStack() as processes:

        def begin(url: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "meshtasks.producers.sensornet"],
                env={
                    **os.environ,
                    "MESH_BROKER_URL": url,
                    "MESH_STATE_DIR": str(tmp_path / "state"),
                },
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.callback(process.communicate)
            processes.callback(process.kill)
            return process

        yield begin


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End it in order; the line it prints."""
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=_PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    summary: dict[str, Any] = json.loads(output)
    return summary


@contextmanager
def house(node: RabbitMQ, name: str) -> Iterator[str]:
    """URL of a virtual host of the test's own, with the mesh's topology."""
    node.create_vhost(name)
    url = node.amqp_url(name)
    with connected(url) as connection:
        declare(connection, shipped_topology())
    yield url
    node.delete_vhost(name)


@contextmanager
def device(node: RabbitMQ, vhost: str) -> Iterator[Client]:
    """A connected MQTT client that may do what devices may."""
    account(node, vhost, "devices")
    client = Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set(f"{vhost}:devices-{vhost}", PASSWORD)
    client.max_inflight_messages_set(1_000)
    client.connect("127.0.0.1", node.ports.mqtt)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def from_data(vendor: str, name: str, qos: int) -> dict[str, Any]:
    topic, body = example(vendor, name)
    return {"topic": topic, "payload": body, "qos": qos}


def said(deliveries: list[Delivery]) -> dict[str, Any]:
    """Routing key → the value of the reading."""
    bodies = {each.routing_key: json.loads(each.body) for each in deliveries}
    return {
        key: body["value"] if isinstance(body, dict) else body
        for key, body in bodies.items()
    }


def test_devices_of_every_vendor_reach_their_queues_and_the_counts_add_up(
    rabbitmq: RabbitMQ, start: Start
) -> None:
    with (
        house(rabbitmq, "vendors") as url,
        device(rabbitmq, "vendors") as mqtt,
    ):
        process = start(account(rabbitmq, "vendors", "normaliser"))
        for message in (
            from_data("esphome", "garage_temperature", qos=1) | {"retain": True},
            from_data("zigbee2mqtt", "climate", qos=0) | {"retain": True},
            from_data("zigbee2mqtt", "hue_motion", qos=1),
            from_data("tasmota", "probes", qos=0),
            from_data("shelly", "plus_ht", qos=1),
            {"topic": "tele/boiler/LWT", "payload": "Online", "retain": True},
            {"topic": "shellies/shellyht-3C/sensor/humidity", "payload": "48.5"},
            {"topic": "garagedoor1/sensor/garage_temperature/state", "payload": "12.5"},
            {"topic": "zigbee2mqtt/Küche oben", "payload": '{"temperature": "21,5"}'},
            {"topic": "zigbee2mqtt/hall", "payload": b"\xff\xfe", "qos": 1},
            {"topic": "sensors/temperature/living_room", "payload": "20.5", "qos": 1},
        ):
            mqtt.publish(**message)

        temperatures = said(
            take(url, "sensors.temperature", 7, within_seconds=_PATIENCE_SECONDS)
        )
        humidities = said(take(url, "sensors.humidity", 3))
        (motion,) = take(url, "sensors.motion", 1)
        metrics = take(url, "metrics.system", 2)
        dead_letters = take(url, "dead.letter.queue", 2)
        summary = summary_of(process)

        assert temperatures == {
            "sensors.temperature.friendly_name": 27.34,
            "sensors.temperature.hue_motion_bad": 21.51,
            "sensors.temperature.boiler.04173329beff": 17.2,
            "sensors.temperature.boiler.041752d93bff": 24.3,
            "sensors.temperature.shellyplusht-b8d61a8b17cc": 19.8,
            "sensors.temperature.garagedoor1.garage_temperature": 12.5,
            "sensors.temperature.living_room": 20.5,  # past the normaliser
        }
        assert humidities == {
            "sensors.humidity.friendly_name": 44.72,
            "sensors.humidity.shellyplusht-b8d61a8b17cc": 42.2,
            "sensors.humidity.shellyht-3c": 48.5,
        }
        assert json.loads(motion.body)["motion"] is True
        assert {each.routing_key for each in metrics} == {
            "metrics.system.hue_motion_bad.device",
            "metrics.system.shellyplusht-b8d61a8b17cc.device",
        }
        reasons = {each.body: each.headers["x-mesh-reason"] for each in dead_letters}
        assert {
            (each.headers["x-mesh-routing-key"], each.headers["x-mesh-queue"])
            for each in dead_letters
        } == {("zigbee2mqtt.Küche oben", "devices"), ("zigbee2mqtt.hall", "devices")}
        assert "not UTF-8" in reasons[b"\xff\xfe"]
        assert 'the text "21,5"' in reasons[b'{"temperature": "21,5"}']
        assert summary["received"] == 10
        assert summary["published"] == 6
        assert summary["dead"] == len(dead_letters)
        assert summary["passed_over"] == 2  # the announcement, the availability
        assert summary["messages"] == {"sensors": 10, "metrics": 2}
        assert queue_depth(url, "devices") == 0


def test_odd_bytes_stop_nothing(rabbitmq: RabbitMQ, start: Start) -> None:
    """Nor does what comes beside them, from a device whose topic is no UTF-8, say."""
    keys = (b"zigbee2mqtt.bad\xff\xffname", b"zigbee2mqtt." + b"\xfc" * 240, b"\xff")
    body = b'{"temperature": 21.5}'
    odd = [Hostile(key, body) for key in keys]
    odd += [Hostile(b"zigbee2mqtt.odd", body, each) for each in PROPERTIES.values()]
    good = [Hostile(b"zigbee2mqtt.good%d" % number, body) for number in range(len(odd))]
    with house(rabbitmq, "hostile") as url:
        process = start(account(rabbitmq, "hostile", "normaliser"))
        messages = chain(*zip(good, odd, strict=True))
        hostile.publish(url, "amq.topic", messages)

        readings = take(
            url,
            "sensors.temperature",
            2 * len(good) - 1,  # one of no vendor
            within_seconds=_PATIENCE_SECONDS,
        )
        summary = summary_of(process)

    found = {each.routing_key for each in readings}
    assert {f"sensors.temperature.good{n}" for n in range(len(good))} <= found
    assert len([each for each in readings if "good" in each.routing_key]) == len(good)
    assert summary["received"] == 2 * len(good) - 1


def test_nothing_is_lost_when_it_is_killed(rabbitmq: RabbitMQ, start: Start) -> None:
    count = 2_000
    with house(rabbitmq, "killed") as url, device(rabbitmq, "killed") as mqtt:
        for number in range(count):
            mqtt.publish(
                "zigbee2mqtt/hall", json.dumps({"temperature": number / 100}), qos=1
            )
        wait_until(
            lambda: queue_depth(url, "devices") == count,
            _PATIENCE_SECONDS,
            "all that was published",
        )
        process = start(url)
        wait_until(
            lambda: queue_depth(url, "sensors.temperature") > 0,
            _PATIENCE_SECONDS,
            "the first readings",
        )
        process.kill()
        process.wait(_PATIENCE_SECONDS)
        found: set[float] = set()

        def all_there() -> bool:
            found.update(
                json.loads(each.body)["value"]
                for each in drain(url, "sensors.temperature")
            )
            return len(found) == count

        start(url)

        wait_until(all_there, _PATIENCE_SECONDS, f"{count} readings")
        assert queue_depth(url, "dead.letter.queue") == 0


@contextmanager
def serving(url: str, directory: Path) -> Iterator[DeviceService]:
    """The normaliser in a thread."""
    stop = threading.Event()
    memory = AnnouncementsFile(directory / "discovery.json")
    normaliser = Normaliser(shipped(), memory)
    seen = directory / "seen"
    service = DeviceService(url, "devices", normaliser, memory, stop, seen=seen)
    thread = threading.Thread(target=service.run)
    thread.start()
    yield service
    stop.set()
    thread.join(_PATIENCE_SECONDS)
    assert not thread.is_alive()


@pytest.fixture
def service(amqp_url: str, proxy: Proxy, tmp_path: Path) -> Iterator[DeviceService]:
    """The normaliser behind the proxy; its virtual host is empty to begin with."""
    with serving(proxy.url(amqp_url), tmp_path) as service:
        yield service


def test_it_waits_for_its_queue_to_be_declared(
    service: DeviceService,
    amqp_url: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    wait_until(
        lambda: "run `meshtasks topology apply`" in caplog.text,
        _PATIENCE_SECONDS,
        "a warning that says what to do",
    )
    assert not (tmp_path / "seen").exists()  # it is not ready
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    publish_raw(amqp_url, "amq.topic", "zigbee2mqtt.hall", b'{"temperature": 21}')

    take(amqp_url, "sensors.temperature", 1, within_seconds=_PATIENCE_SECONDS)
    assert (tmp_path / "seen").exists()


def test_it_goes_on_at_another_node(
    amqp_url: str, proxy: Proxy, tmp_path: Path
) -> None:
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    with serving(f"{proxy.url(amqp_url)};{amqp_url}", tmp_path):
        for celsius in (20, 21):
            body = b'{"temperature": %d}' % celsius
            publish_raw(amqp_url, "amq.topic", "zigbee2mqtt.hall", body)
            take(amqp_url, "sensors.temperature", 1, within_seconds=_PATIENCE_SECONDS)
            proxy.close_door()


def test_it_goes_on_after_every_lost_connection(
    service: DeviceService, amqp_url: str, proxy: Proxy
) -> None:
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    found: set[float] = set()

    def arrived(celsius: int) -> bool:
        readings = drain(amqp_url, "sensors.temperature")
        found.update(json.loads(each.body)["value"] for each in readings)
        return celsius in found

    for celsius in range(3):
        body = b'{"temperature": %d}' % celsius
        publish_raw(amqp_url, "amq.topic", "zigbee2mqtt.hall", body)
        wait_until(partial(arrived, celsius), _PATIENCE_SECONDS, f"{celsius} °C")
        proxy.cut()


def test_a_reading_without_any_queue_is_a_dead_letter_of_its_message(
    service: DeviceService, amqp_url: str
) -> None:
    body = b'{"temperature": 21, "battery": 5}'
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    with open_channel(amqp_url) as channel:
        channel.queue_delete("metrics.system")
        channel.exchange_delete("unrouted")
    publish_raw(amqp_url, "amq.topic", "zigbee2mqtt.hall", body)

    (letter,) = take(amqp_url, "dead.letter.queue", 1, within_seconds=_PATIENCE_SECONDS)
    assert letter.body == body
    assert "no queue is bound for exchange 'metrics'" in letter.headers["x-mesh-reason"]
    take(amqp_url, "sensors.temperature", 1)


def test_the_brokers_note_of_the_time_is_believed_if_it_can_be_true(
    service: DeviceService, amqp_url: str
) -> None:
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    now = time.time()
    for noted in (round((now - 3_600) * 1000), 10**17, "soon"):
        publish_raw(
            *(amqp_url, "amq.topic", "zigbee2mqtt.hall", b'{"temperature": 21}'),
            headers={"timestamp_in_ms": noted},
        )

    found = take(amqp_url, "sensors.temperature", 3, within_seconds=_PATIENCE_SECONDS)
    times = [json.loads(each.body)["timestamp"] for each in found]
    assert times[0] == pytest.approx(now - 3_600, abs=0.01)
    assert all(each >= now - 1 for each in times[1:])


def test_what_is_passed_over_is_a_metric_by_reason_and_name(
    service: DeviceService, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtasks.producers.sensornet.service._REPORT_SECONDS", 0.0)
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    body = b'{"temperature": 21, "humidity": null, "linkquality": 90}'
    publish_raw(amqp_url, "amq.topic", "zigbee2mqtt.hall", body)

    found = take(amqp_url, "metrics.application", 3, within_seconds=_PATIENCE_SECONDS)
    metrics = [json.loads(each.body) for each in found]
    (counts,) = (each["fields"] for each in metrics if each["name"] == "sensornet")
    assert counts == {"received": 1, "published": 1, "dead": 0, "passed_over": 0}
    assert {
        (each["tags"]["reason"], each["tags"]["value"]): each["fields"]["count"]
        for each in metrics
        if each["name"] == "sensornet_passed_over"
    } == {("unavailable", "humidity"): 1, ("kind link_quality", "linkquality"): 1}


def test_an_account_that_may_not_read_the_queue_ends_it(
    rabbitmq: RabbitMQ, mesh_vhost: str, tmp_path: Path
) -> None:
    memory = AnnouncementsFile(tmp_path / "discovery.json")
    normaliser = Normaliser(shipped(), memory)
    url = account(rabbitmq, mesh_vhost, "producer")

    with pytest.raises(ConfigError) as caught:
        DeviceService(url, "devices", normaliser, memory, threading.Event()).run()

    assert caught.value.key == "queue devices"
    assert "not allowed to read it" in caught.value.expected


def test_what_devices_announce_is_remembered(
    service: DeviceService, amqp_url: str, tmp_path: Path
) -> None:
    with connected(amqp_url) as connection:
        declare(connection, shipped_topology())
    topic, body = example("esphome", "garage_temperature")
    publish_raw(amqp_url, "amq.topic", topic.replace("/", "."), body)
    path = tmp_path / "discovery.json"
    wait_until(path.exists, _PATIENCE_SECONDS, "the file")

    (known,) = AnnouncementsFile(path).at("garagedoor1.sensor.garage_temperature.state")
    assert known.device == "GarageDoor1"
