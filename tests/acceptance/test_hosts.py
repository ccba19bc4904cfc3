"""Workers of one queue on two hosts, which share a state in PostgreSQL; partitions keep
the readings of a sensor in order."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.config.settings import Settings
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.sinks import PUBLISHER, TIMESERIES
from tests.support.amqp import drain
from tests.support.archive import lines_in
from tests.support.handling import handle, message, opened, settings_of
from tests.support.meshes import declared, reconfigured
from tests.support.postgres import Postgres
from tests.support.topologies import shipped_document
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import Worker

QUEUES = "sensors.temperature", "archive.metrics"
SENSORS = [f"s{number}" for number in range(20)]
ROUNDS = 8
#: Readings of one sensor in one message.
READINGS = 50


class Host:
    """A host with one worker, which is killed and started again."""

    def __init__(self, directory: Path, env: dict[str, str], name: str) -> None:
        directory.mkdir()
        env = {**env, "MESH_STATE_DIR": str(directory / "state")}
        arguments = "-c", "2", "-n", f"climate@{name}"
        self.worker = Worker(directory, env, *QUEUES, arguments=arguments)

    def restart(self) -> None:
        """SIGKILL, and begin again."""
        self.worker.kill()
        self.worker.start()


@pytest.fixture
def database(postgres: Postgres, postgres_template: str) -> str:
    return postgres.new_database(postgres_template)


@pytest.fixture
def env(
    new_mesh_env: dict[str, str], postgres: Postgres, database: str, tmp_path: Path
) -> dict[str, str]:
    """Of both hosts; the archive does not wait for more, and readings are in four
    partitions."""
    text = (Path(new_mesh_env["MESH_CONFIG_DIR"]) / "queues.yaml").read_text()
    assert "30_000" in text
    queues = yaml.safe_load(text.replace("30_000", "200"))
    topology = shipped_document()
    for queue in topology["queues"]:
        if queue["name"] == QUEUES[0]:
            queue["partitions"] = 4
    files = {"queues": queues, "topology": topology}
    env = declared(reconfigured(new_mesh_env, tmp_path / "config", **files))
    return {**env, "MESH_STATE_URL": postgres.url(database)}


@contextmanager
def two_hosts(env: dict[str, str], tmp_path: Path) -> Iterator[list[Host]]:
    with ExitStack() as stack:
        hosts = [Host(tmp_path / name, env, name) for name in ("attic", "cellar")]
        for host in hosts:
            stack.callback(host.worker.kill)
            host.worker.start()
        yield hosts


def bodies_of(round_: int, start: float) -> dict[str, bytes]:
    """What each sensor has measured meanwhile: too hot every other time."""
    base = 60.0 if round_ % 2 else 20.0
    return {
        sensor: json.dumps(
            [
                {
                    "sensor_id": sensor,
                    "unit": "°C",
                    "value": base + (number * 7 + index) % 10,
                    "timestamp": start + round_ * READINGS + number,
                }
                for number in range(READINGS)
            ]
        ).encode()
        for index, sensor in enumerate(SENSORS)
    }


def messages_of(round_: int, bodies: dict[str, bytes]) -> list[Outgoing]:
    return [
        Outgoing(
            "sensors", f"{QUEUES[0]}.{sensor}", body, message_id=f"{sensor}-{round_}"
        )
        for sensor, body in bodies.items()
    ]


def alerts_of_one_worker(settings: Settings, rounds: list[dict[str, bytes]]) -> Any:
    """What a single worker that is given the same publishes, by message id."""

    class Recorder:
        def __init__(self) -> None:
            self.alerts: dict[str | None, bytes] = {}

        def publish(self, messages: Sequence[Outgoing]) -> None:
            for each in messages:
                if each.exchange == "alerts":
                    self.alerts[each.message_id] = each.body

        def write(self, lines: object) -> dict[int, str]:
            return {}

        def close(self) -> None:
            pass

    recorder: Any = Recorder()
    with opened(settings) as sinks:
        sinks[TIMESERIES] = sinks[PUBLISHER] = recorder
        for bodies in rounds:
            handle(
                sinks,
                *(
                    message(
                        QUEUES[0],
                        f"{QUEUES[0]}.{sensor}",
                        body,
                        received_at=time.time(),
                    )
                    for sensor, body in bodies.items()
                ),
            )
    return recorder.alerts


def sensors_up_to(postgres: Postgres, database: str, seen: float) -> int:
    """How many series the rules have followed so far."""
    query = (
        "SELECT count(*) FROM rule_states "
        "WHERE (nullif(state, '')::json->>'seen')::float >= %s"
    )
    with closing(postgres.connect(database)) as connection:
        row = connection.execute(query, (seen,)).fetchone()
    return int(row[0]) if row else 0


def archived(env: dict[str, str]) -> Counter[tuple[str, float]]:
    """How often each reading stands in the archive."""
    with closing(open_store(settings_of(env).env)) as store:
        return Counter(
            (line["record"]["sensor_id"], line["record"]["timestamp"])
            for line in lines_in(store)
        )


@pytest.mark.timeout(600)
def test_workers_of_two_hosts_killed_twice_each_do_what_one_does(
    env: dict[str, str],
    victoria: VictoriaMetrics,
    postgres: Postgres,
    database: str,
    tmp_path: Path,
) -> None:
    start = float(int(time.time()) - 3_600)
    rounds = [bodies_of(number, start) for number in range(ROUNDS)]
    with (
        two_hosts(env, tmp_path) as hosts,
        closing(Publisher(env["MESH_BROKER_URL"])) as publisher,
    ):
        for number, bodies in enumerate(rounds):
            publisher.publish(messages_of(number, bodies))
            if number in {2, 3, 5, 6}:
                # Not before it has some of this round in hand, or behind it.
                begun = partial(
                    sensors_up_to, postgres, database, start + number * READINGS
                )
                wait_until(begun, 60, f"round {number}")
                hosts[number % 2].restart()
        last = start + ROUNDS * READINGS - 1
        done = partial(sensors_up_to, postgres, database, last)
        wait_until(lambda: done() == len(SENSORS), 60, "the last readings")
        total = ROUNDS * READINGS * len(SENSORS)
        wait_until(lambda: sum(archived(env).values()) >= total, 90, "the archive")

    published = drain(env["MESH_BROKER_URL"], "alerts.critical")
    others = drain(env["MESH_BROKER_URL"], "alerts.notifications")
    alerts = {each.properties["message_id"]: each.body for each in published + others}
    single = settings_of({**env, "MESH_STATE_URL": ""}, state_dir=tmp_path / "one")
    expected = alerts_of_one_worker(single, rounds)
    assert total == 8_000
    assert count_samples(victoria) == total
    assert Counter(archived(env).values()) == {1: total}
    assert alerts == expected
    assert len(expected) >= 4 * len(SENSORS)


def test_without_its_database_a_queue_waits_and_goes_on_by_itself(
    env: dict[str, str],
    victoria: VictoriaMetrics,
    postgres: Postgres,
    database: str,
    tmp_path: Path,
) -> None:
    # The first hot reading ends a part of the deviation rule's window, so that each
    # sensor has both alerts.
    part_seconds = 300
    start = float(
        int(time.time() - 3_600) // part_seconds * part_seconds - READINGS - 1
    )
    rounds = [bodies_of(number, start) for number in range(2)]
    host = Host(tmp_path / "attic", env, "attic")
    host.worker.start()
    try:
        with closing(Publisher(env["MESH_BROKER_URL"])) as publisher:
            publisher.publish(messages_of(0, rounds[0]))
            first = partial(sensors_up_to, postgres, database, start + READINGS - 1)
            wait_until(lambda: first() == len(SENSORS), 60, "the first readings")
            postgres.stop()
            try:
                publisher.publish(messages_of(1, rounds[1]))
                wait_until(lambda: "rule_state" in host.worker.log(), 60, "a pause")
            finally:
                postgres.start()
        last = partial(sensors_up_to, postgres, database, start + 2 * READINGS - 1)
        wait_until(lambda: last() == len(SENSORS), 90, "the rest")
        points = 2 * READINGS * len(SENSORS)
        wait_until(lambda: count_samples(victoria) == points, 60, "their points")
    finally:
        host.worker.kill()

    url = env["MESH_BROKER_URL"]
    critical = drain(url, "alerts.critical")
    alerts = {each.properties["message_id"]: each.body for each in critical}
    single = settings_of({**env, "MESH_STATE_URL": ""}, state_dir=tmp_path / "one")
    assert alerts == alerts_of_one_worker(single, rounds)
    assert len(alerts) == 2 * len(SENSORS)
    assert count_samples(victoria) == points
    assert drain(url, "dead.letter.queue") == []
    assert postgres.password not in host.worker.log()
