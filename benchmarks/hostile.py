"""Hostile bytes in every place of a message, beside good readings, by AMQP and by MQTT.

Every good reading is stored, and neither the worker nor sensornet ends, starts again or
loses its connection. The hostile messages are drawn from a seed, so that a run can be
repeated. They are written to the socket by hand, since no client would write them.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Protocol

import amqp
import kombu

from benchmarks import ROOT
from benchmarks.drain import Say
from benchmarks.services import Services, Space
from meshtasks.amqp.accounts import permissions, rights_of, topic_permissions
from meshtasks.demo import loopback
from meshtasks.demo.process import Process

_QUEUES = ("sensors.temperature", "sensors.humidity", "sensors.motion")
_LAST_SECONDS = 90.0
_SENSORS = 50
_SLICE_SECONDS = 0.1
#: What a process writes that loses its connection, or ends.
_TROUBLE = ("Reconnecting to the broker", "Connection to broker lost", "Traceback")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what.

    Attributes:
        seconds: length of the stream.
        good_per_second: half of them by AMQP, half by MQTT through sensornet.
        hostile_per_second: likewise.
        seed: of what is drawn.
    """

    seconds: float = 60.0
    good_per_second: int = 200
    hostile_per_second: int = 500
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of them.

    Attributes:
        good: good readings published.
        stored: of those, in the store.
        hostile: hostile messages written.
        hung_up: times that the broker hung up on who wrote them.
        dead: messages in the dead-letter queue.
        troubles: what the worker and sensornet suffered.
    """

    good: int
    stored: int
    hostile: int
    hung_up: int
    dead: int
    troubles: tuple[str, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not be; empty if nothing was."""
        lost = self.good - self.stored
        losses = [f"{lost:,} good readings are not stored"] if lost else []
        return (*losses, *self.troubles)


def measure(services: Services, plan: Plan, say: Say) -> Outcome:
    """Publish both kinds to a real worker and a real sensornet."""
    with services.space() as space:
        worker = _process(space, "worker", _worker())
        sensornet = _process(space, "sensornet", _sensornet())
        worker.start()
        sensornet.start()
        worker.wait_ready(lambda: _is_consumed(space, _QUEUES[0]), _LAST_SECONDS)
        sensornet.wait_ready(lambda: _is_consumed(space, "devices"), _LAST_SECONDS)
        before = _pids(worker, sensornet)
        good, hostile, hung_up = _publish(services, space, plan, say)
        say(f"{good:,} good and {hostile:,} hostile messages are published")
        stored = _settled(space, good)
        troubles = [] if before == _pids(worker, sensornet) else ["a process was lost"]
        for process in (worker, sensornet):
            text = process.output()
            troubles += [
                f"{process.name}: {word} ({text.count(word)} times)"
                for word in _TROUBLE
                if word in text
            ]
            if not process.running:
                troubles.append(f"{process.name} has ended")
        dead = space.ready(space.topology.dead_letter_queue)
        for process in (sensornet, worker):
            process.stop(within_seconds=30.0)
        return Outcome(good, stored, hostile, hung_up, dead, tuple(troubles))


def _publish(
    services: Services, space: Space, plan: Plan, say: Say
) -> tuple[int, int, int]:
    """Publish slice by slice: good ones written, hostile ones written, hung up on."""
    draw = random.Random(plan.seed)
    vhost = space.amqp_url.rpartition("/")[2]
    account = _device_account(services, vhost)
    port = services.broker.ports.mqtt
    good = _Sender(lambda: _Mqtt(port, *account))
    by_mqtt = _Sender(lambda: _Mqtt(port, *account))
    by_amqp = _Sender(lambda: _Amqp(space.amqp_url))
    slices = round(plan.seconds / _SLICE_SECONDS)
    good_each = round(plan.good_per_second * _SLICE_SECONDS / 2)
    hostile_each = round(plan.hostile_per_second * _SLICE_SECONDS / 2)
    numbers, began = count(), time.monotonic()
    with kombu.Connection(space.amqp_url) as connection:
        channel = connection.channel()
        for place in range(slices):
            for number in islice(numbers, good_each):
                _publish_good(channel, good, number)
            for _ in range(hostile_each):
                by_mqtt.send(hostile_mqtt(draw))
                by_amqp.send(hostile_amqp(draw))
            due = began + (place + 1) * _SLICE_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
    if good.hung_up:
        say(f"the broker hung up {good.hung_up} times on who wrote good messages")
    sent, hung_up = by_mqtt.sent + by_amqp.sent, by_mqtt.hung_up + by_amqp.hung_up
    for sender in (good, by_mqtt, by_amqp):
        sender.close()
    return 2 * slices * good_each, sent, hung_up


def _publish_good(channel: Any, mqtt: _Sender, number: int) -> None:
    """Publish one reading by AMQP, and one by MQTT."""
    name, value = f"good-{number % _SENSORS}", 20 + number % 1000 / 1000
    stamp = time.time()
    body = json.dumps({"value": value, "timestamp": stamp})
    message = amqp.Message(body, delivery_mode=2)
    channel.basic_publish(message, "sensors", f"sensors.temperature.amqp-{name}")
    seen = {"temperature": value, "last_seen": round(stamp * 1000)}
    topic = f"zigbee2mqtt/mqtt-{name}".encode()
    mqtt.send(mqtt_publish(topic, json.dumps(seen).encode()))


def _device_account(services: Services, vhost: str) -> tuple[str, str]:
    """User and password of an MQTT device; the broker refuses it topics that nobody
    could read, as it does those that `make secrets` makes."""
    name, password = f"devices-{vhost}", secrets.token_hex(8)
    may = rights_of(services.topology)["devices"]
    broker = services.broker
    broker.api("PUT", f"/users/{name}", {"password": password, "tags": may.tags})
    broker.api("PUT", f"/permissions/{vhost}/{name}", permissions(may))
    limits = topic_permissions(may)
    broker.api("PUT", f"/topic-permissions/{vhost}/{name}", limits)
    return f"{vhost}:{name}", password


def _settled(space: Space, good: int) -> int:
    """Wait until all good readings are stored; how many are."""
    deadline = time.monotonic() + _LAST_SECONDS
    while (stored := _stored(space)) < good and time.monotonic() < deadline:
        time.sleep(0.5)
    return stored


def _stored(space: Space) -> int:
    """Points of the good sensors."""
    space.flush()
    path = "/api/v1/export?match[]=temperature_celsius"
    lines = loopback.request("GET", space.store.port, path).splitlines()
    return sum(
        len(series["values"])
        for series in map(json.loads, lines)
        if "good-" in series["metric"].get("sensor_id", "")
    )


def _pids(*processes: Process) -> list[int | None]:
    return [each.pid for each in processes]


def _is_consumed(space: Space, queue: str) -> bool:
    with kombu.Connection(space.amqp_url) as connection:
        found = connection.channel().queue_declare(queue, passive=True)
    return bool(found.consumer_count)


def _process(space: Space, name: str, command: list[str]) -> Process:
    environment = space.environment()
    log = space.directory / f"{name}.log"
    return Process(name, command, log_path=log, env=environment, cwd=ROOT)


def _worker() -> list[str]:
    queues = ",".join(_QUEUES)
    program = [sys.executable, "-m", "celery", "-A", "meshtasks", "worker"]
    return [*program, "-c", "1", "-Q", queues, "-l", "WARNING", "-n", "hostile@bench"]


def _sensornet() -> list[str]:
    return [sys.executable, "-m", "meshtasks.producers", "sensornet"]


# --- who writes -------------------------------------------------------------------


class _Connection(Protocol):
    def write(self, packet: bytes) -> None:
        """Write it as it is."""

    def close(self) -> None:
        """Hang up."""


class _Sender:
    """Writes, and connects again when it was hung up on."""

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self.sent = self.hung_up = 0
        self._connect = connect
        self._connection: _Connection | None = None

    def send(self, packet: bytes) -> None:
        for _ in range(3):
            try:
                self._connection = self._connection or self._connect()
                self._connection.write(packet)
            except (OSError, amqp.AMQPError):
                self.hung_up += 1
                self.close()
            else:
                self.sent += 1
                return

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError, amqp.AMQPError):
                self._connection.close()
        self._connection = None


class _Mqtt:
    """MQTT 3.1.1 without a client that would look at topics."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._socket = socket.create_connection((loopback.HOST, port), timeout=30)
        texts = (f"bench-{random.random()}", user, password)
        clean_with_account = b"\x04\xc2\x00\x00"
        content = _mqtt_text(b"MQTT") + clean_with_account
        content += b"".join(_mqtt_text(text.encode()) for text in texts)
        self._socket.sendall(_mqtt_packet(0x10, content))
        if self._socket.recv(4)[3:] != b"\0":
            reason = "the broker refuses the MQTT account"
            raise ConnectionRefusedError(reason)

    def write(self, packet: bytes) -> None:
        self._socket.sendall(packet)

    def close(self) -> None:
        self._socket.close()


class _Amqp:
    """A channel whose frames are written by hand."""

    def __init__(self, url: str) -> None:
        self._connection = kombu.Connection(url, heartbeat=0)
        self._connection.connect()
        self._transport = self._connection.channel().connection.transport

    def write(self, packet: bytes) -> None:
        self._transport.write(packet)
        with contextlib.suppress(TimeoutError):  # if the broker says that it hangs up
            self._connection.drain_events(timeout=0)

    def close(self) -> None:
        self._connection.collect()


# --- what is written --------------------------------------------------------------


def mqtt_publish(topic: bytes, payload: bytes) -> bytes:
    """A packet that publishes, with the lowest quality of service (section 3.3)."""
    return _mqtt_packet(0x30, _mqtt_text(topic) + payload)


def hostile_mqtt(draw: random.Random) -> bytes:
    """A packet with odd bytes in topic and payload."""
    start = draw.choice([b"zigbee2mqtt/", b"sensors/temperature/", b"tele/", b""])
    end = draw.choice([b"", b"/SENSOR", b"/events/rpc", b"/status/switch:0"])
    size = draw.choice([1, 5, 40, 300])
    return mqtt_publish(start + _odd_bytes(draw, size) + end, _body(draw))


def hostile_amqp(draw: random.Random) -> bytes:
    """The frames of a message with odd bytes in routing key, properties and body."""
    key = draw.choice([b"sensors.temperature.", b"sensors.motion.", b"nowhere."])
    key = (key + _odd_bytes(draw, draw.choice([0, 1, 30, 300])))[:255]
    method = struct.pack(">HHH", 60, 40, 0) + _short(b"sensors") + _short(key) + b"\0"
    body = _body(draw)
    flags = draw.getrandbits(14) << 2
    if draw.randrange(100):  # the broker itself looks at user id and expiration
        flags &= ~0x0110
    properties = struct.pack(">H", flags)
    for place in range(14):
        if flags & 0x8000 >> place:
            properties += _property(draw, place)
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties
    frames = _frame(1, method) + _frame(2, header)
    return frames + (_frame(3, body) if body else b"")


def _property(draw: random.Random, place: int) -> bytes:
    match place:
        case 2:
            return _table(draw, depth=0)
        case 3:
            return bytes([draw.choice([1, 2])])
        case 4:
            return bytes([draw.getrandbits(8)])
        case 9:
            return struct.pack(">Q", draw.choice([0, 10**12, 2**63, 2**64 - 5]))
        case _:
            return _short(_odd_bytes(draw, draw.choice([0, 3, 255])))


def _table(draw: random.Random, depth: int) -> bytes:
    fields = b""
    for _ in range(draw.choice([0, 1, 3])):
        names = [b"x-mesh-attempt", b"x-mesh-received-at", b"task", b"id", b"eta"]
        name = draw.choice([*names, _odd_bytes(draw, 5)])
        fields += _short(name) + _field(draw, depth)
    return struct.pack(">I", len(fields)) + fields


def _field(draw: random.Random, depth: int) -> bytes:
    kind = draw.choice("SIltTdF" if depth < 40 else "Sl")
    match kind:
        case "S":
            text = _odd_bytes(draw, draw.choice([0, 5, 500]))
            value = struct.pack(">I", len(text)) + text
        case "F":
            value = _table(draw, depth + draw.choice([1, 20]))
        case "I":
            value = draw.randbytes(4)
        case "t":
            value = bytes([draw.getrandbits(1)])
        case "d":  # the broker itself refuses what is no number
            value = struct.pack(">d", draw.choice([1e300, -0.0, 5e-324]))
        case _:
            value = draw.randbytes(8)
    return kind.encode() + value


def _body(draw: random.Random) -> bytes:
    bodies = (
        lambda: draw.randbytes(draw.choice([0, 1, 100])),
        lambda: b"[" * draw.choice([10, 300, 20_000]),
        lambda: b'{"value": 1' + b"0" * draw.choice([50, 400, 5_000]) + b"}",
        lambda: b'{"temperature": nan, "humidity": "\\ud800", "a": [[[{}]]]}',
        lambda: b'[{"value": "x"}, 5, null, {"value": 1e999}]',
        lambda: b"[[], {}, {}]",
        lambda: b'{"value": 21, "unit": "' + _odd_bytes(draw, 9) + b'"}',
        lambda: b'{"value": 21, "timestamp": ' + draw.randbytes(6) + b"}",
    )
    return draw.choice(bodies)()


def _odd_bytes(draw: random.Random, size: int) -> bytes:
    kinds = [b"\xff\xfe", b"\x1b[2J", "süd 🌡".encode(), b"\xed\xa0\x80", b"a"]
    return (draw.choice(kinds) * size)[:size]


def _short(text: bytes) -> bytes:
    return bytes([len(text[:255])]) + text[:255]


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


def _mqtt_text(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _mqtt_packet(kind: int, content: bytes) -> bytes:
    """A packet with its length in sevens of bits (section 2.2.3)."""
    length, left = b"", len(content)
    while True:
        left, digit = divmod(left, 128)[0], left % 128
        length += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([kind]) + length + content
