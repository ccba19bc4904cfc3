"""The ledger of metrics: messages in = stored + dead, whatever the store does."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import drain, queue_depth, take
from tests.support.meshes import reconfigured
from tests.support.receiver import Answer, Receiver
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import IMPATIENT, Worker, running

QUEUES = ("metrics.system", "metrics.application")
START_MS = 1_795_000_000_000


@pytest.fixture
def env(mesh_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A mesh with small batches, so that there are many."""
    queues = {"defaults": {"batch": {"count": 100, "age_ms": 50}}}
    return reconfigured(mesh_env, tmp_path / "config", queues=queues)


def metric(number: int, **changes: Any) -> Outgoing:
    """The metric of that number, its own point, to one queue or the other."""
    kind = ("system", "application")[number % 2]
    content = {
        "name": kind,
        "fields": {"load": number / 8, "ok": True},
        "tags": {"host": f"h{number % 20}"},
        "timestamp": START_MS + number,
        **changes,
    }
    body = json.dumps(content).encode()
    return Outgoing("metrics", f"metrics.{kind}.h", body, message_id=f"m{number}")


#: Messages of Telegraf by their format: a good metric, a bad one, and a good one.
AGENTS = {
    "influx": (
        b"kernel,host=vm boot_time=1795826698i 1795000000000000000",
        b"kernel,host=vm boot_time=soon 1795000000000000000",
        b'system,host=vm uptime_format=" 0:49" 1795000000000000000',
    ),
    "json": (
        b'{"fields":{"free":0},"name":"swap","tags":{"host":"a"},"timestamp":1795000000}',
        b'{"fields":{"free":',
        b'{"fields":{"free":1},"name":"swap","tags":{"host":"b"},"timestamp":1795000000}',
    ),
    "json batch": (
        b'{"fields":{"load1":2.58},"name":"load","timestamp":1795000000000000}',
        b'{"fields":{"load1":{}},"name":"load","timestamp":1795000000000000}',
        b'{"fields":{"load1":2.6},"name":"load","timestamp":1795000001000000000}',
    ),
}


def agent(form: str, *members: bytes) -> Outgoing:
    """A message as Telegraf makes it."""
    body = b"".join(each + b"\n" for each in members)
    if form == "json batch":
        body = b'{"metrics":[' + b",".join(members) + b"]}"
    return Outgoing("metrics", "metrics.system.telegraf", body, message_id=form)


def publish(env: dict[str, str], messages: list[Outgoing]) -> None:
    with closing(Publisher(env["MESH_BROKER_URL"])) as publisher:
        publisher.publish(messages)


def assert_empty(env: dict[str, str]) -> None:
    url = env["MESH_BROKER_URL"]
    assert [queue_depth(url, queue) for queue in QUEUES] == [0, 0]
    assert drain(url, "dead.letter.queue") == []


def test_good_metrics_are_stored_and_bad_ones_are_dead_with_a_reason(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    faults: list[tuple[str, dict[str, Any]]] = [
        ("expected at least one value", {"fields": {}}),
        ("got an object", {"fields": {"load": {"1m": 1}}}),
        ("name: is empty", {"name": ""}),
        ("not JSON", {"fields": {"load": float("nan")}}),
        ("after it was received", {"timestamp": START_MS * 2}),
    ]
    good = [metric(number) for number in range(2_000)]
    bad = {
        f"m{number}": (words, metric(number, **changes))
        for number, (words, changes) in enumerate(faults * 20, 2_000)
    }

    agents = {form: agent(form, *lines) for form, lines in AGENTS.items()}

    with running(Worker(tmp_path, env, *QUEUES)):
        publish(
            env,
            [
                *good[:1_000],
                *(each for _, each in bad.values()),
                *agents.values(),
                *good[1_000:],
            ],
        )
        points = 2 * len(good) + 2 * len(agents)
        wait_until(lambda: count_samples(victoria) >= points, 30, "all points")
        letters = take(
            env["MESH_BROKER_URL"], "dead.letter.queue", len(bad) + len(agents)
        )

    assert count_samples(victoria) == points
    assert len(letters) == len(bad) + len(agents)
    for letter in letters:
        if lines := AGENTS.get(letter.properties["message_id"]):
            assert letter.body == lines[1]
            assert letter.headers[headers.RECORD_INDEX] == 1
            continue
        words, original = bad[letter.properties["message_id"]]
        assert words in letter.headers[headers.REASON]
        assert letter.body == original.body
    assert_empty(env)


def test_nothing_is_dead_after_the_store_was_down(
    env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    with running(Worker(tmp_path, env, *QUEUES)) as worker:
        publish(env, [metric(number) for number in range(500)])
        wait_until(lambda: count_samples(victoria) == 1_000, 30, "points before")
        victoria.stop()
        publish(env, [metric(number) for number in range(500, 1_500)])
        paused = "Paused pending.timeseries"
        wait_until(lambda: paused in worker.log(), 20, "points that wait")
        victoria.start()
        wait_until(lambda: count_samples(victoria) >= 3_000, 60, "points after")

    assert count_samples(victoria) == 3_000
    assert_empty(env)


def test_nothing_is_lost_on_a_store_that_is_slow_and_answers_errors(
    env: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    receiver.always = Answer(204)
    receiver.script(
        Answer(204, delay_seconds=0.5),
        Answer(503),
        Answer(429, headers={"Retry-After": "1"}),
        Answer(204, delay_seconds=0.5),
        Answer(500, b"out of memory"),
    )
    env = {**env, "MESH_INFLUX_URL": receiver.url}

    def stored() -> set[bytes]:
        return {line for each in receiver.accepted for line in each.body.splitlines()}

    with running(Worker(tmp_path, env, *QUEUES, app=IMPATIENT)):
        publish(env, [metric(number) for number in range(1_000)])
        wait_until(lambda: len(stored()) == 1_000, 60, "every line")

    assert len(receiver.requests) > len(receiver.accepted)
    assert_empty(env)
