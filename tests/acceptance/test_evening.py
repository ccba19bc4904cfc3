"""An evening of eight troubles and some more: each is named by one command."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.cli import main
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from tests.conftest import ROOT
from tests.support.dead_letters import consumers
from tests.support.meshes import declared
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until
from tests.support.worker import Worker

QUEUES = (
    "sensors.temperature",
    "pending.timeseries",
    "alerts.critical",
    "alerts.notifications",
)


@dataclass(frozen=True)
class Evening:
    """A mesh with a worker whose way to the broker can be cut."""

    env: dict[str, str]
    worker: Worker
    network: Proxy
    store: VictoriaMetrics

    def send(self, sensor: str, *bodies: object, key: str = "") -> None:
        """Publish readings, each a message."""
        routing_key = key or f"sensors.temperature.{sensor}"
        messages = [
            Outgoing(
                "sensors",
                routing_key,
                body if isinstance(body, bytes) else json.dumps(body).encode(),
            )
            for body in bodies
        ]
        with closing(Publisher(self.env["MESH_BROKER_URL"])) as publisher:
            publisher.publish(messages)

    def why(self, *arguments: str) -> dict[str, Any]:
        """What the command says."""
        code, text = self.run("why", *arguments, "--json")
        answer: dict[str, Any] = json.loads(text)
        return {**answer, "exit_code": code}

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the console script, in this process."""
        said = io.StringIO()
        with (
            patch.dict(os.environ, self.env),
            patch.object(sys, "argv", ["meshtasks", *arguments]),
            redirect_stdout(said),
            redirect_stderr(said),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.getvalue()

    def history(self) -> History:
        """What was noted."""
        directory = Path(self.env["MESH_STATE_DIR"])
        return History(StateLocation.in_directory(directory))

    def wait_noted(self, what: str, is_noted: Callable[[History], object]) -> None:
        """Wait until something is noted."""
        with closing(self.history()) as history:
            wait_until(lambda: is_noted(history), 60, what)

    def wait_trouble(self, sensor: str, number: int = 1) -> None:
        """Wait until something wrong with readings of a sensor is noted."""
        self.wait_noted(
            f"{number} bad readings of {sensor}",
            lambda history: any(
                each.sensor_id == sensor and each.number >= number
                for each in history.incidents(0.0)
            ),
        )

    def wait_seen(self, sensor: str, number: int = 1) -> None:
        """Wait until readings of a sensor are noted."""
        self.wait_noted(
            f"{number} readings of {sensor}",
            lambda history: any(
                each.sensor_id == sensor and each.number >= number
                for each in history.sensors()
            ),
        )


@pytest.fixture(scope="module")
def evening(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evening]:
    rabbitmq.create_vhost("evening")
    directory = tmp_path_factory.mktemp("evening")
    store = VictoriaMetrics(directory / "victoria")
    store.start()
    url = rabbitmq.amqp_url("evening")
    env = declared(
        {
            "MESH_BROKER_URL": url,
            "MESH_CONFIG_DIR": str(ROOT / "config"),
            "MESH_STATE_DIR": str(directory / "state"),
            "MESH_INFLUX_URL": store.url,
            "MESH_ARCHIVE_URL": f"file://{directory / 'archive'}",
        }
    )
    with Proxy(rabbitmq.ports.amqp) as network:
        worker = Worker(
            directory, {**env, "MESH_BROKER_URL": network.url(url)}, *QUEUES
        )
        worker.start()
        yield Evening(env, worker, network, store)
        worker.stop()
        sys.stderr.write(worker.log())
    store.stop()


def test_all_is_well(evening: Evening) -> None:
    evening.send("hall", {"value": 21.5})
    evening.wait_seen("hall")

    answer = evening.why("sensors.temperature.hall")

    assert (answer["state"], answer["exit_code"]) == ("well", 0)
    assert "its last reading, 21.5 °C, is of" in answer["headline"]


REFUSED: dict[str, tuple[object, str, str]] = {
    "unit": ({"value": 21, "unit": "°X"}, "bad unit", "is not a temperature unit"),
    "text": ({"value": "21,5"}, "text value", 'got the text "21,5"'),
    "limits": ({"value": -400}, "out of limits", "absolute zero"),
    "json": (b'{"value": 21', "invalid JSON", "not JSON"),
    "large": ({"value": 1, "x": "x" * 2_000_000}, "too large", "max_message_bytes"),
    "ahead": ({"value": 1, "timestamp": 2_900_000_000}, "clock ahead", "clock"),
    "old": ({"value": 1, "timestamp": 1_000_000_000}, "clock behind", "clock"),
}


def test_refused_readings(evening: Evening) -> None:
    for sensor, (body, _, _) in REFUSED.items():
        evening.send(sensor, body, body)
    for sensor, (_, cause, words) in REFUSED.items():
        evening.wait_trouble(sensor, 2)
        answer = evening.why(f"sensors.temperature.{sensor}")

        assert (answer["cause"], answer["exit_code"]) == (cause, 1)
        assert answer["causes"][0]["sentence"].startswith("2 readings were refused ")
        assert words in answer["causes"][0]["sentence"]
        assert "meshtasks dlq list" in answer["causes"][0]["next_step"]


def test_a_clock_that_is_behind(evening: Evening) -> None:
    for number in range(3):
        stamp = time.time() - 7200 + number
        evening.send("behind", {"value": 21, "timestamp": stamp})
    evening.wait_trouble("behind", 3)

    (cause, *_) = evening.why("behind")["causes"]

    assert cause["cause"] == "clock behind"
    assert "The device's clock is 2 h behind" in cause["sentence"]


def test_an_id_that_two_devices_use(evening: Evening) -> None:
    for key in ("study", "loft"):
        body = {"sensor_id": "twin", "value": 21}
        evening.send("", body, key=f"sensors.temperature.{key}")
    evening.wait_noted(
        "both",
        lambda history: [s.sensor_id for s in history.sensors()].count("twin") == 2,
    )
    (cause, *_) = evening.why("sensors.temperature.loft")["causes"]

    assert (
        "come as sensors.temperature.loft and as sensors.temperature.study"
        in (cause["sentence"])
    )


def test_two_values_of_one_time(evening: Evening) -> None:
    stamp = time.time()
    for value in (21, 3):
        evening.send("double", {"value": value, "timestamp": stamp})

    evening.wait_trouble("double")
    assert evening.why("double")["cause"] == "duplicate id"


def test_a_message_that_comes_twice(evening: Evening) -> None:
    body = {"value": 21, "timestamp": time.time()}
    for number, each in enumerate((body, {"value": 22}, body), 1):
        evening.send("twice", each)
        evening.wait_seen("twice", number)

    evening.wait_trouble("twice")

    assert evening.why("twice")["cause"] == "duplicate"


def test_a_silent_device(evening: Evening) -> None:
    now = time.time()
    for number, begins in (20, now - 1200), (40, now - 300):
        readings = [{"value": 21, "timestamp": begins + 10 * n} for n in range(20)]
        evening.send("silent", readings)
        evening.wait_seen("silent", number)

    answer = evening.why("silent")
    assert answer["cause"] == "device silent"
    assert "is silent: its last reading" in answer["headline"]

    earlier = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now - 600))
    answer = evening.why("silent", "--at", earlier)
    assert answer["cause"] == "device silent"
    assert answer["hole"]["ends_at"] == pytest.approx(now - 300, abs=1)
    assert "it usually sends every 10 s" in answer["causes"][0]["sentence"]


def test_a_rule_that_is_silenced(evening: Evening) -> None:
    code, text = evening.run(
        "alerts", "silence", "sensor_id=oven", "--for", "1h", "--comment", "baking"
    )
    assert code == 0, text
    evening.send("oven", {"value": 80})
    evening.wait_seen("oven")
    sentence = ""

    def is_told() -> bool:
        nonlocal sentence
        answer = evening.why("oven")
        sentence = answer["causes"][0]["sentence"] if answer["causes"] else ""
        return 'The alert "oven is overheating" goes on' in sentence

    wait_until(is_told, 60, "the alert")

    assert evening.why("oven")["cause"] == "rule silenced"
    assert "baking" in sentence


def test_the_store_that_is_away(evening: Evening) -> None:
    evening.store.stop()
    evening.send("store", {"value": 21})
    evening.wait_noted(
        "the outage", lambda h: [s for s in h.spans(0.0) if s.kind == "sink"]
    )
    evening.wait_seen("store")
    began = time.time()
    (cause, *_) = evening.why("store")["causes"]
    assert cause["cause"] == "store away"
    assert "is away since" in cause["sentence"]
    assert cause["ends_at"] is None

    evening.store.start()
    evening.wait_noted(
        "the end",
        lambda history: all(
            span.ends_at for span in history.spans(0.0) if span.kind == "sink"
        ),
    )
    clock = time.strftime("%H:%M:%S", time.localtime(began))
    answer = evening.why("store", "--at", clock)
    assert answer["cause"] == "store away"
    assert "was away from" in answer["causes"][0]["sentence"]


def test_the_broker_that_is_away(evening: Evening) -> None:
    evening.send("broker", {"value": 21})
    evening.wait_seen("broker")
    began = time.time()
    evening.network.close_door()
    evening.network.cut()
    evening.wait_noted(
        "the outage",
        lambda history: [s for s in history.spans(began) if s.kind == "broker"],
    )
    evening.network.open_door()
    evening.wait_noted(
        "the end",
        lambda history: [
            s for s in history.spans(began) if s.kind == "broker" and s.ends_at
        ],
    )
    evening.send("broker", {"value": 22})
    evening.wait_seen("broker", 2)  # the worker consumes again

    answer = evening.why("broker")

    assert answer["cause"] == "broker away"
    assert "The broker was away from" in answer["causes"][0]["sentence"]


def test_a_queue_that_nobody_consumes(evening: Evening) -> None:
    evening.send("", {"value": 50}, key="sensors.humidity.bath")

    answer = evening.why("sensors.humidity.bath")

    assert (answer["state"], answer["exit_code"]) == ("no such", 4)
    assert answer["cause"] == "no consumer"
    assert "1 message waits in it" in answer["causes"][0]["sentence"]


def test_names_that_nobody_knows(evening: Evening) -> None:
    evening.send("cellar", {"value": 21})
    evening.wait_seen("cellar")

    answer = evening.why("sensors.temprature.cellar")
    assert answer["exit_code"] == 4
    assert "No queue takes messages with the routing key" in answer["headline"]
    assert "sensors.temperature.cellar" in answer["also"]

    assert "cellar" in evening.why("celar")["also"]
    assert evening.why("sensors/temperature/cellar")["sensor"]["sensor_id"] == "cellar"


def test_times_of_which_nothing_is_known(evening: Evening) -> None:
    evening.send("attic", {"value": 21})
    evening.wait_seen("attic")

    assert evening.why("attic", "--at", "3d")["exit_code"] == 3
    code, text = evening.run("why", "attic", "--at", "2099-01-01")
    assert (code, "is in the future" in text) == (2, True)


def test_a_worker_that_does_not_run(evening: Evening) -> None:
    evening.send("alone", {"value": 21})
    evening.wait_seen("alone")
    evening.worker.stop()
    evening.send("alone", {"value": 22})
    url = evening.env["MESH_BROKER_URL"]
    wait_until(lambda: not consumers(url, QUEUES[0]), 60, "the consumer's end")

    answer = evening.why("alone")

    assert answer["cause"] == "no worker"
    evening.worker.start()
