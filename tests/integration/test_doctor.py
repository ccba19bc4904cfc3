"""``meshtasks doctor`` on real servers."""

from __future__ import annotations

import json
import re
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typing_extensions import override

from meshtasks.amqp.accounts import missing_rights
from meshtasks.amqp.topology import Topology
from meshtasks.cli.doctor import clock, examine
from meshtasks.config.loader import load_yaml
from meshtasks.config.settings import load_settings
from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.errors import SinkUnavailable
from meshtasks.flows.diagnosis import Check, Verdict, disk
from meshtasks.observation import broker_checks
from meshtasks.observation.collect import WorkerAnswer
from tests.support.amqp import queue_depth
from tests.support.command import Command, command
from tests.support.httpserver import Handler, HTTPServer
from tests.support.meshes import declared
from tests.support.receiver import Answer, Receiver


@pytest.fixture
def doctor(
    new_mesh_env: dict[str, str],
    rabbitmq: RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks doctor`` on a mesh of the test's own."""
    for name, value in new_mesh_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MESH_TRITON_URL", f"127.0.0.1:{loopback.free_port()}")
    run = command(load_settings().env, monkeypatch, capsys)
    url = rabbitmq.management_url
    return lambda *arguments: run(
        "doctor", "--management-url", url, "--within", "60", *arguments
    )


def found(text: str) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads(text)}


def test_a_mesh_that_is_well_has_nothing_failed(
    doctor: Command, new_mesh_env: dict[str, str]
) -> None:
    declared(new_mesh_env)

    result = doctor("--json")

    checked = found(result.stdout)
    failed = {name for name, each in checked.items() if each["state"] == "failed"}
    assert (result.exit_code, failed) == (0, set())
    assert re.match(r"RabbitMQ \d+\.\d+", checked["broker"]["text"])
    assert checked["permissions"]["state"] == "ok"
    assert checked["topology"]["state"] == "ok"
    assert "at least" in checked["consumer timeout"]["text"]  # it cannot be read
    assert checked["clock and broker"]["state"] == "ok"
    assert checked["time series"]["text"].startswith("a point was stored")
    assert checked["archive"]["text"] == "an object was stored, read and deleted"
    assert checked["triton"]["state"] == "warning"  # whoever has none needs none
    assert checked["receivers"]["state"] == "warning"
    assert checked["webhooks"]["state"] == "skipped"


def test_what_is_not_well_comes_with_a_remedy(
    doctor: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"127.0.0.1:{loopback.free_port()}"
    monkeypatch.setenv("MESH_INFLUX_URL", f"http://{nobody}")
    monkeypatch.setenv("MESH_RECEIVERS__PHONE", f"ntfy://{nobody}/house")

    result = doctor()

    lines = result.stdout.splitlines()
    failed = {line[9:].split("  ")[0] for line in lines if line.startswith("FAILED")}
    assert result.exit_code == 1
    assert failed == {"topology", "time series", "receivers"}
    assert "meshtasks topology apply" in result.stdout
    assert "correct MESH_RECEIVERS__<NAME>" in result.stdout


def test_a_broker_that_is_away_fails_only_what_needs_it(
    doctor: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = loopback.free_port()
    monkeypatch.setenv("MESH_BROKER_URL", f"amqp://a:b@127.0.0.1:{port}//")

    checked = found(doctor("--json").stdout)

    assert checked["broker"]["state"] == "failed"
    assert "cannot be reached" in checked["broker"]["text"]
    assert checked["time series"]["state"] == "ok"


def test_a_check_that_hangs_does_not_hold_up_the_others() -> None:
    hanging = Check("hanging", _hang)
    well = Check("well", lambda: Verdict("ok", "answers"))

    verdicts = examine([hanging, well], within_seconds=1)

    assert [verdict.state for verdict in verdicts.values()] == ["failed", "ok"]
    assert verdicts["hanging"].text == "no answer within 1 s"


def _hang() -> Verdict:
    threading.Event().wait()
    return Verdict("ok", "never")


def test_a_store_that_takes_no_points_is_not_well(
    doctor: Command, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    receiver.always = Answer(500, b'{"message": "no space left on device"}')
    url = f"http://127.0.0.1:{receiver.port}"
    monkeypatch.setenv("MESH_INFLUX_URL", url)

    checked = found(doctor("--json").stdout)["time series"]

    assert checked["state"] == "failed"
    assert "no space left on device" in checked["text"]


def test_one_cause_is_told_once() -> None:
    def refused() -> Verdict:
        message = "the broker refuses the password"
        raise SinkUnavailable("broker", message)

    checks = [
        Check("topology", refused, "broker"),
        Check("broker", refused),
        Check("disk", lambda: Verdict("ok", "enough"), "broker"),
    ]

    verdicts = examine(checks, within_seconds=60)

    assert "password" in verdicts["broker"].text
    assert verdicts["topology"].text == "not checked: broker has failed"
    assert verdicts["disk"].state == "ok"


def test_a_fault_is_told_in_its_own_words() -> None:
    def away() -> Verdict:
        raise SinkUnavailable("timeseries", "connection refused")

    verdicts = examine([Check("sink", away)], within_seconds=30)

    assert verdicts["sink"].text == "connection refused"
    assert verdicts["sink"].state == "failed"


def test_what_an_account_may_not_do_is_found_without_doing_it(
    mesh_env: dict[str, str], rabbitmq: RabbitMQ, mesh_vhost: str
) -> None:
    user = f"guarded-{mesh_vhost}"
    rabbitmq.api("PUT", f"/users/{user}", {"password": "p", "tags": ""})
    rights = {"configure": "", "write": "sensors", "read": ".*"}
    rabbitmq.api("PUT", f"/permissions/{mesh_vhost}/{user}", rights)
    topology = load_yaml(Path(mesh_env["MESH_CONFIG_DIR"]) / "topology.yaml", Topology)
    url = urlsplit(mesh_env["MESH_BROKER_URL"])
    guarded = url._replace(netloc=f"{user}:p@{url.hostname}:{url.port}").geturl()

    lines = missing_rights(guarded, topology)

    rabbitmq.api("DELETE", f"/users/{user}")
    assert "declare exchange sensors" in lines
    assert "publish to exchange metrics" in lines
    assert "publish to exchange sensors" not in lines
    assert queue_depth(mesh_env["MESH_BROKER_URL"], topology.dead_letter_queue) == 0


class Yesterday(Handler):
    """A server whose clock is a day slow."""

    @override
    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() - 86_400, usegmt=True)

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        self.answer(404, b"", {})


@pytest.mark.parametrize(
    ("answers", "state", "words"),
    [
        ([], "skipped", "no worker answers"),
        ([WorkerAnswer("w", ("q",), (), {})], "ok", "closed in 1 workers"),
        (
            [WorkerAnswer("w", (), ("q",), {"objects": "507"}, ("objects",))],
            "failed",
            "objects: circuit half-open (w): 507; q paused",
        ),
    ],
)
def test_what_the_workers_found_of_their_sinks_is_told(
    answers: list[WorkerAnswer],
    state: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_checks, "ask_workers", lambda _url: answers)

    verdict = broker_checks.circuits("amqp://")

    assert (verdict.state, verdict.text) == (state, words)


def test_a_clock_that_differs_is_a_fault_whatever_else_the_server_answers() -> None:
    with HTTPServer(Yesterday) as server:
        verdict = clock(server.url)

    assert verdict.state == "failed"
    assert "differs by -86" in verdict.text
    assert "NTP" in verdict.remedy


def test_a_directory_that_is_not_there_yet_is_judged_by_what_it_would_be_in(
    tmp_path: Path,
) -> None:
    verdict = disk(tmp_path / "state" / "deep")

    assert verdict.state in {"ok", "warning"}
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("members", "online", "state", "text"),
    [
        (3, 3, "ok", "3 of each queue, on 3 nodes"),
        (3, 2, "ok", "3 of each queue, on 3 nodes"),
        (3, 1, "failed", "1 of 3 members run, which is no majority"),
        (2, 1, "failed", "1 of 2 members run, which is no majority"),
        (2, 2, "warning", "2 of 3 members"),
        (2, 0, "warning", "2 of 3 members"),  # it does not say which run
    ],
)
def test_a_queue_of_whose_members_too_few_run_is_named(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    members: int,
    online: int,
    state: str,
    text: str,
) -> None:
    names = [f"rabbit@{number}" for number in range(3)]
    queue = {
        "name": "sensors.temperature",
        "durable": True,
        "auto_delete": False,
        "arguments": {},
        "members": names[:members],
        "online": names[:online],
    }
    for path, answer in {
        "/api/nodes": [{"name": name} for name in names],
        "/api/queues/mesh": [queue],
        "/api/exchanges/mesh": [],
        "/api/bindings/mesh": [],
    }.items():
        receiver.by_path[path] = Answer(200, json.dumps(answer).encode())
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://mesh:secret@127.0.0.1/mesh")

    verdict = broker_checks.members(load_settings(), receiver.url)

    assert (verdict.state, text in verdict.text) == (state, True), verdict


def test_a_broker_that_cannot_measure_its_disk_is_not_said_to_be_full(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"name": "rabbit@attic", "running": True, "disk_free": 0}
    receiver.by_path["/api/nodes"] = Answer(200, json.dumps([node]).encode())
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://mesh:secret@127.0.0.1/mesh")

    verdict = broker_checks.alarms(load_settings(), receiver.url)

    assert verdict.state == "warning"
    assert verdict.text == "none; rabbit@attic cannot measure its free disk space"
