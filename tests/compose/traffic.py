"""Readings sent all the while, and what became of each: stored or dead-lettered."""

from __future__ import annotations

import csv
import http.client
import io
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Self
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import amqp

from tests.compose import engine
from tests.compose.stack import Stack
from tests.support import rawmqtt
from tests.support.waiting import wait_until

HOST = "127.0.0.1"
AMQP_PORT, MQTT_PORT = 5672, 1883
GATEWAY = f"http://{HOST}:8780"
INFLUX_PORT, VICTORIA_PORT = 8086, 8428

#: A reading: sensor and epoch milliseconds. No two are alike.
Reading = tuple[str, int]

#: Between two messages of a sender; three send.
_PAUSE_SECONDS = 0.1
#: Until what was not confirmed is sent again.
_AGAIN_SECONDS = 0.5
#: Every so many messages by AMQP is one that no handler takes.
_BAD_EVERY = 10
_AWAY = (OSError, amqp.exceptions.AMQPError, http.client.HTTPException)
_BALANCED_SECONDS = 600.0

_number = itertools.count(1)


class Traffic:
    """Sends readings by AMQP, by MQTT and to the gateway until it is left.

    What a service that is away did not confirm is sent again until it is, so that
    everything counted here was confirmed.

    Attributes:
        good: readings that are to be stored.
        bad: readings that are to be dead-lettered.
    """

    def __init__(self, stack: Stack, *, gateway: bool = True) -> None:
        self.good: set[Reading] = set()
        self.bad: set[Reading] = set()
        self._stack = stack
        self._prefix = f"traffic-{next(_number)}-"
        # Milliseconds that no other sender of this run has.
        self._clock = itertools.count(time.time_ns() // 1_000_000)
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._given_up: list[str] = []
        self._connection: amqp.Connection | None = None
        senders = [self._by_amqp, self._by_mqtt, *[self._by_http][: int(gateway)]]
        self._threads = [
            threading.Thread(target=self._send, args=(sender,)) for sender in senders
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        if self._connection:
            self._connection.close()

    def at_least(self, count: int) -> None:
        """Wait until so many more readings are confirmed than at the call."""
        target = len(self.good) + count
        wait_until(
            lambda: len(self.good) >= target, _BALANCED_SECONDS, f"{count} readings"
        )

    def assert_balanced(self) -> None:
        """Wait until everything sent is stored or a dead letter, and nothing else.

        Raises:
            AssertionError: something is missing, or is where it should not be.
        """

        assert not self._given_up, f"nobody takes what is sent by {self._given_up}"

        def missing() -> tuple[set[Reading], set[Reading]]:
            stored = stored_readings(self._stack, self._prefix)
            dead = dead_readings(self._stack, self._prefix)
            return self.good ^ stored, self.bad ^ dead

        try:
            wait_until(lambda: missing() == (set(), set()), _BALANCED_SECONDS, "it")
        except AssertionError as error:
            stored, dead = missing()
            failure = (
                f"{len(self.good)} good and {len(self.bad)} bad readings were sent; "
                f"stored or not: {sorted(stored)[:5]} of {len(stored)}, "
                f"dead letters or not: {sorted(dead)[:5]} of {len(dead)}\n"
                f"{self._stack.troubles()}"
            )
            raise AssertionError(failure) from error

    def _send(self, sender: Callable[[str, int, bool], bool]) -> None:
        kind = sender.__name__.rpartition("_")[2]
        for number in itertools.count(1):
            if self._ends.is_set():
                return
            with self._lock:
                stamp = next(self._clock)
            bad = sender == self._by_amqp and number % _BAD_EVERY == 0
            sensor = f"{self._prefix}{kind}-{number % 5}"
            deadline = time.monotonic() + _BALANCED_SECONDS
            # It may have been taken all the same: sent again, it is no other reading.
            while not self._confirmed(sender, sensor, stamp, bad):
                if time.monotonic() > deadline:
                    self._given_up.append(kind)
                    return
                time.sleep(_AGAIN_SECONDS)
            (self.bad if bad else self.good).add((sensor, stamp))
            self._ends.wait(_PAUSE_SECONDS)

    def _confirmed(
        self,
        sender: Callable[[str, int, bool], bool],
        sensor: str,
        stamp: int,
        bad: bool,
    ) -> bool:
        try:
            return sender(sensor, stamp, bad)
        except _AWAY:
            return False

    def _by_amqp(self, sensor: str, stamp: int, bad: bool) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connected()
            message = amqp.Message(
                _body(sensor, stamp, bad),
                delivery_mode=2,
                content_type="application/json",
            )
            self._connection.channel(1).basic_publish(
                message, "sensors", "sensors.temperature.traffic", mandatory=True
            )
        except _AWAY:
            if self._connection is not None:
                self._connection.collect()
                self._connection = None
            raise
        return True

    def _connected(self) -> amqp.Connection:
        connection = amqp.Connection(
            f"{HOST}:{AMQP_PORT}",
            userid="producer",
            password=self._stack.variables()["MESH_BROKER_PASSWORD_PRODUCER"],
            virtual_host="mesh",
            confirm_publish=True,
            connect_timeout=30,
            read_timeout=60,
            write_timeout=60,
        )
        try:
            connection.connect()
        except _AWAY:
            connection.collect()
            raise
        return connection

    def _by_mqtt(self, sensor: str, stamp: int, bad: bool) -> bool:
        account = (
            "mesh:devices",
            self._stack.variables()["MESH_BROKER_PASSWORD_DEVICES"],
        )
        topic, body = b"sensors/temperature/traffic", _body(sensor, stamp, bad).encode()
        try:
            return rawmqtt.publish((HOST, MQTT_PORT), account, topic, body)
        except AssertionError:  # it did not let us in
            return False

    def _by_http(self, sensor: str, stamp: int, bad: bool) -> bool:
        token = publishing_token(self._stack.variables())
        request = Request(
            f"{GATEWAY}/v1/events/sensors/sensors.temperature.traffic",
            _body(sensor, stamp, bad).encode(),
            {"Authorization": f"Bearer {token}"},
        )
        with urlopen(request, timeout=30) as answer:
            return bool(answer.status == 202)


def publishing_token(variables: dict[str, str]) -> str:
    """A token of the gateway that may publish."""
    for entry in variables["MESH_API_TOKENS"].replace(",", "\n").splitlines():
        _, scopes, token = entry.strip().split(":", 2)
        if "publish" in scopes.split("+"):
            return token
    raise AssertionError("no token of MESH_API_TOKENS may publish")


def stored_readings(stack: Stack, prefix: str) -> set[Reading]:
    """Readings of temperature that the stack's time-series store has, of sensors whose
    names begin so."""
    services = stack.services()
    store = services.get("influxdb")
    if store is None:
        return _exported(f"http://{HOST}:{VICTORIA_PORT}", {}, prefix)
    headers = {"Authorization": f"Token {stack.variables()['INFLUX_ADMIN_TOKEN']}"}
    url = f"http://{HOST}:{INFLUX_PORT}"
    if engine.stand_in(store["image"]):  # it has no Flux
        return _exported(url, headers, prefix)
    return _selected(url, headers, prefix)


def dead_readings(stack: Stack, prefix: str) -> set[Reading]:
    """Readings among the dead letters, of sensors whose names begin so."""
    letters = stack.directory / "letters.jsonl"
    letters.unlink(missing_ok=True)
    stack.run(".venv/bin/meshtasks dlq export letters.jsonl --all")
    found = set()
    for line in letters.read_text("utf-8").splitlines() if letters.exists() else ():
        body = json.loads(json.loads(line)["body"])
        if isinstance(body, dict) and str(body.get("sensor_id")).startswith(prefix):
            found.add((body["sensor_id"], body["timestamp"]))
    return found


def waiting(stack: Stack) -> dict[str, int]:
    """Messages in each queue of the mesh but that of dead letters."""
    listing = stack.compose(
        *("exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", "list_queues"),
        *("--vhost", "mesh", "--no-table-headers", "name", "messages"),
    )
    queues = dict(line.split("\t") for line in listing.splitlines() if "\t" in line)
    return {
        name: int(count)
        for name, count in queues.items()
        if name != "dead.letter.queue"
    }


def come_back_from_the_archive(stack: Stack) -> None:
    """What VictoriaMetrics had not on disk when it was killed (docs/delivery.md) is
    made again from the archive; InfluxDB has lost nothing."""
    store = stack.services().get("influxdb")
    if store and not engine.stand_in(store["image"]):
        return
    # It archives what it holds before it ends. (Its queues are never empty, since the
    # machine is measured all the while.)
    stack.compose("restart", "worker-archive")
    replay = ("archive", "replay", "--from", "1d", "--domain", "sensors")
    stack.compose("run", "--rm", "-T", "tools", *replay)


def _body(sensor: str, stamp: int, bad: bool) -> str:
    unit = "parsec" if bad else "C"
    reading = {"sensor_id": sensor, "value": 21.5, "unit": unit, "timestamp": stamp}
    return json.dumps(reading)


def _exported(url: str, headers: dict[str, str], prefix: str) -> set[Reading]:
    """From VictoriaMetrics."""
    selector = f'temperature_celsius{{sensor_id=~"{prefix}.*"}}'
    query = urlencode({"match[]": selector, "start": "0"})
    with urlopen(Request(f"{url}/api/v1/export?{query}", headers=headers)) as answer:
        series = [json.loads(line) for line in answer.read().splitlines()]
    return {
        (each["metric"]["sensor_id"], stamp)
        for each in series
        for stamp in each["timestamps"]
    }


def _selected(url: str, headers: dict[str, str], prefix: str) -> set[Reading]:
    """From InfluxDB 2."""
    flux = f"""from(bucket: "mesh") |> range(start: 0)
        |> filter(fn: (r) => r._measurement == "temperature" and r._field == "celsius")
        |> filter(fn: (r) => strings.hasPrefix(v: r.sensor_id, prefix: "{prefix}"))
        |> map(fn: (r) => ({{sensor_id: r.sensor_id, at: int(v: r._time)}}))
        |> group()"""
    kind = {"Content-Type": "application/vnd.flux", "Accept": "application/csv"}
    body = f'import "strings"\n{flux}'.encode()
    asked = Request(f"{url}/api/v2/query?org=home", body, {**headers, **kind})
    with urlopen(asked) as answer:
        rows = csv.DictReader(io.StringIO(answer.read().decode()))
        return {
            (row["sensor_id"], int(row["at"]) // 1_000_000)
            for row in rows
            if row.get("sensor_id")
        }
