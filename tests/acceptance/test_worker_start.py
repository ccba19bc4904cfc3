"""A worker that cannot work says so in one sentence and ends with exit code 78."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import NotAllowed

from meshtasks.demo.process import Process
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.worker.consumer import MeshConsumer
from tests.support.accounts import PASSWORD, account
from tests.support.waiting import PATIENCE_SECONDS, wait_until
from tests.support.worker import CELERY, MESHTASKS, ROOT, Worker

MOTION = "sensors.motion"

#: Options, and what is said of them. The scripted application has handlers for some
#: queues; the others are as good as misspelt.
REFUSED: list[tuple[list[str], str]] = [
    (["-Q", "sensor.motion"], "-Q: there is no queue sensor.motion; did you mean"),
    (["-Q", "sensors.motion,dead.letter.queue"], "meshtasks dlq"),
    (["-Q", "metrics.application"], "metrics.application has no handler. For readings"),
    (["-Q", " , "], "-Q: leaves no queue"),
    (["-X", "sensors.motoin"], "-X: there is no queue sensors.motoin; did you mean"),
    (["-Q", MOTION, "-X", MOTION], "-Q: leaves no queue"),
    (["--autoscale", "4,1"], "--autoscale: is not supported"),
    (["--autoscale", "2,0"], "--autoscale: is not supported"),
    (["-P", "processes", "-B"], "-B: does nothing"),
    (["--pool-start-method", "spawn"], "--pool-start-method: expected fork"),
    (["--purge"], "--purge: would delete"),
    (["--time-limit", "5"], "time_limit_seconds"),
    (["--soft-time-limit", "5"], "time_limit_seconds"),
    (["-I", "no.such.module"], "-I: cannot be imported: No module named 'no'"),
]

_TRY_ALL = """
import contextlib, io, json, sys
from celery.bin.celery import celery
found = []
for options in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            celery.main(["-A", "tests.support.scripted", "worker", *options])
        except SystemExit as ended:
            code = ended.code
    found.append([code, said.getvalue()])
json.dump(found, sys.stdout)
"""


def test_options_that_would_not_do_what_they_say_are_refused(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TRY_ALL],
        input=json.dumps([options for options, _ in REFUSED]),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, **mesh_env, "PYTHONPATH": str(ROOT)},
    )

    for (options, expected), (code, said) in zip(
        REFUSED, json.loads(ended.stdout), strict=True
    ):
        assert expected in said, options
        assert said.count("\n") == 1, options
        assert code == 78, options


def test_stray_commas_repetitions_and_exclusions_are_understood(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    env = mesh_env
    queues = (MOTION, "", f" {MOTION} ", "alerts.notifications", "")
    arguments = ("-P", "solo", "-X", "alerts.notifications,devices")
    worker = Worker(
        tmp_path, env, *queues, arguments=arguments, app="tests.support.scripted"
    )
    worker.start()
    worker.stop()

    (shown,) = worker.log().split("[queues]")[1:]
    assert [line for line in shown.splitlines() if ".>" in line] == [
        line for line in shown.splitlines() if ".> sensors.motion " in line
    ]


def test_the_own_command_runs_the_same_worker(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["worker", "-Q", MOTION, "-P", "solo", "-l", "INFO"]
    worker = Process(
        "worker",
        [MESHTASKS, *arguments],
        log_path=tmp_path / "worker.log",
        env={**os.environ, **mesh_env},
        cwd=tmp_path,
    )
    worker.start()
    worker.wait_ready(lambda: " ready." in worker.output(), PATIENCE_SECONDS)

    assert ".> sensors.motion " in worker.output()
    assert worker.stop(PATIENCE_SECONDS) == 0


def test_the_own_command_does_not_detach(capfd: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.run([MESHTASKS, "worker", "-D"], check=False)

    assert ended.returncode == 78
    assert "celery -A meshtasks worker" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", ["password", "virtual host", "right"])
def test_what_the_broker_refuses_is_one_message_and_no_loop(
    wrong: str,
    mesh_env: dict[str, str],
    rabbitmq: RabbitMQ,
    mesh_vhost: str,
    tmp_path: Path,
) -> None:
    producer = account(rabbitmq, mesh_vhost, "producer")
    env = mesh_env
    url, said = {
        "password": (producer.replace(f":{PASSWORD}@", ":x@"), "refuses the user"),
        "virtual host": (producer + "-none", "refuses the virtual host"),
        "right": (producer, "ACCESS_REFUSED"),
    }[wrong]
    worker = Worker(
        tmp_path, {**env, "MESH_BROKER_URL": url}, MOTION, arguments=("-P", "solo")
    )

    worker.process.start()
    wait_until(lambda: not worker.process.running, 30, "the worker to stop")

    assert worker.stop() == 78
    assert worker.log().count(said) == 1
    assert "Traceback" not in worker.log()


def test_flower_and_celerys_questions_end_with_one_message_too(
    mesh_env: dict[str, str], tmp_path: Path
) -> None:
    url = mesh_env["MESH_BROKER_URL"] + "-none"
    ended = subprocess.run(
        [CELERY, "-A", "meshtasks", "flower"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
        env={
            **os.environ,
            **mesh_env,
            "MESH_BROKER_URL": url,
            "PYTHONPATH": str(ROOT),
        },
    )

    assert ended.returncode == 78
    assert "refuses the virtual host" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_broker_that_is_away_for_a_day_is_waited_for_in_a_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    attempts_of_a_day = 24 * 60 * 2
    broker = _Broker(attempts_of_a_day)
    consumer = MeshConsumer.__new__(MeshConsumer)
    consumer.first_connection_attempt = False

    assert consumer.ensure_connected(broker) is broker
    assert broker.max_retries is None
    assert len(caplog.records) < 40
    assert "Connected again" in caplog.messages[-1]


def test_a_broker_that_refuses_a_worker_it_knew_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshtasks.worker.consumer._CONNECT_EVERY_SECONDS", 0.0)
    broker = _Broker(0, refusals=3)
    consumer = MeshConsumer.__new__(MeshConsumer)
    consumer.first_connection_attempt = False

    assert consumer.ensure_connected(broker) is broker
    assert broker.refusals == 0


class _Broker(SimpleNamespace):
    """A connection that fails so often before it is made."""

    max_retries: object = "not asked"

    def __init__(self, failures: int, refusals: int = 0) -> None:
        super().__init__(hostname="broker", port=5672, userid="worker")
        self.failures, self.refusals = failures, refusals

    def as_uri(self) -> str:
        return "amqp://broker"

    def ensure_connection(self, errback: Any, **options: Any) -> None:
        self.max_retries = options["max_retries"]
        if self.refusals:
            self.refusals -= 1
            raise NotAllowed("vhost is being made")
        for _ in range(self.failures):
            errback(OSError("connection refused"), 30.0)

    def close(self) -> None:
        """Nothing was opened."""
