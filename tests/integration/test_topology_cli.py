"""`meshtasks topology apply`, `check` and `export` against a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.support.amqp import open_channel
from tests.support.command import Command, Result, script
from tests.support.httpserver import Handler, HTTPServer
from tests.support.topologies import SHIPPED
from tests.support.waiting import wait_until

TOPOLOGY = load_yaml(SHIPPED, Topology)


class RouterPage(Handler):
    """A web server that is no RabbitMQ."""

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        self.answer(200, b"<html>your router</html>", {})


@pytest.fixture
def topology(
    amqp_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks topology …`` on the test's virtual host."""
    monkeypatch.setenv("MESH_CONFIG_DIR", str(SHIPPED.parent))
    monkeypatch.setenv("MESH_BROKER_URL", amqp_url)
    return script(monkeypatch, capsys, "topology")


@pytest.fixture
def check(topology: Command, rabbitmq: RabbitMQ) -> Command:
    """Runs ``meshtasks topology check``."""
    return lambda: topology("check", "--management-url", rabbitmq.management_url)


def test_nothing_differs_after_apply(topology: Command, check: Command) -> None:
    applied = topology("apply")
    checked = check()

    assert applied.exit_code == 0
    assert f"{len(TOPOLOGY.all_queues)} queues" in applied.stdout
    assert checked == Result(0, "no difference\n", "")


def test_apply_may_run_again(topology: Command, check: Command) -> None:
    topology("apply")

    assert topology("apply").exit_code == 0
    assert check().exit_code == 0


def test_check_on_an_empty_virtual_host_names_everything(check: Command) -> None:
    result = check()

    assert result.exit_code == 1
    everything = TOPOLOGY.all_exchanges, TOPOLOGY.all_queues, TOPOLOGY.all_bindings
    assert len(result.stdout.splitlines()) == sum(map(len, everything))
    assert "queue sensors.temperature: missing" in result.stdout
    assert "meshtasks topology apply" in result.stderr


def test_check_names_what_was_deleted_and_apply_brings_it_back(
    topology: Command, check: Command, amqp_url: str
) -> None:
    topology("apply")
    with open_channel(amqp_url) as channel:
        channel.queue_delete("sensors.humidity")
        channel.exchange_unbind("sensors", "amq.topic", "sensors.#")

    result = check()

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "queue sensors.humidity: missing",
        "binding sensors → queue sensors.humidity ('sensors.humidity.#'): missing",
        "binding amq.topic → exchange sensors ('sensors.#'): missing",
    ]
    topology("apply")
    assert check().exit_code == 0


def test_check_names_what_was_altered_or_added(
    topology: Command, check: Command, amqp_url: str
) -> None:
    topology("apply")
    with open_channel(amqp_url) as channel:
        channel.queue_delete("commands")
        channel.queue_declare("commands", durable=True, auto_delete=False)
        channel.queue_bind("commands", "commands", "commands")
        channel.exchange_delete("unrouted")
        channel.exchange_declare("unrouted", "topic", durable=True, auto_delete=False)
        channel.queue_bind("dead.letter.queue", "unrouted", "")
        channel.queue_bind("sensors.motion", "sensors", "#.motion.#")

    result = check()

    assert result.exit_code == 1
    found = result.stdout.splitlines()
    assert "exchange unrouted: type is 'topic', should be 'fanout'" in found
    assert "queue commands: x-delivery-limit is absent, should be 20" in found
    assert (
        "binding sensors → queue sensors.motion ('#.motion.#'): not in topology.yaml"
        in found
    )


def test_check_notes_a_copy_that_somebody_takes_without_complaint(
    topology: Command, check: Command, amqp_url: str
) -> None:
    topology("apply")
    with open_channel(amqp_url) as channel:
        channel.queue_declare("n8n", durable=True, auto_delete=False)
        channel.queue_bind("n8n", "sensors", "sensors.motion.#")

    result = check()

    assert result.exit_code == 0
    assert "note: binding sensors → queue n8n ('sensors.motion.#')" in result.stdout


def test_check_notes_a_policy_on_the_meshs_queues(
    topology: Command, check: Command, rabbitmq: RabbitMQ, vhost: str
) -> None:
    topology("apply")
    policy = {"pattern": "^sensors", "definition": {"max-length": 10}}
    rabbitmq.api("PUT", f"/policies/{vhost}/short", policy)

    # RabbitMQ tells it with the queue's statistics, every five seconds.
    note = "note: queue sensors.motion: a policy adds max-length=10\n"
    wait_until(lambda: note in check().stdout, 30, "the note")
    assert check().exit_code == 0


def test_check_finds_a_policy_that_would_lose_dead_letters(
    topology: Command, check: Command, rabbitmq: RabbitMQ, vhost: str
) -> None:
    topology("apply")
    policy = {"pattern": "", "definition": {"max-length": 100}, "apply-to": "queues"}
    rabbitmq.api("PUT", f"/operator-policies/{vhost}/tidy", policy)

    line = "queue dead.letter.queue: operator policy 'tidy' sets max-length=100, and"
    wait_until(lambda: line in check().stdout, 30, "the difference")
    assert check().exit_code == 1


def test_a_broker_that_imported_the_export_does_not_differ(
    topology: Command, check: Command, rabbitmq: RabbitMQ
) -> None:
    exported = json.loads(topology("export").stdout)

    rabbitmq.api("POST", "/definitions", exported)

    assert check() == Result(0, "no difference\n", "")


@pytest.mark.parametrize("command", ["apply", "check"])
def test_a_broker_that_is_away_is_one_plain_message(
    topology: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MESH_BROKER_URL", "amqp://mesh:secret@127.0.0.1:1/house")
    monkeypatch.setenv("MESH_MANAGEMENT_URL", "http://127.0.0.1:1")

    result = topology(command)

    assert result.exit_code == 69
    assert "cannot be reached" in result.stderr
    assert "secret" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_password_is_named(
    topology: Command, monkeypatch: pytest.MonkeyPatch, rabbitmq: RabbitMQ
) -> None:
    url = f"amqp://mesh:wrong@127.0.0.1:{rabbitmq.ports.amqp}/"
    monkeypatch.setenv("MESH_BROKER_URL", url)

    result = topology("apply")

    assert result.exit_code == 78
    assert "refuses the user 'mesh' or the password" in result.stderr


def test_a_virtual_host_that_does_not_exist_is_named(
    topology: Command, monkeypatch: pytest.MonkeyPatch, rabbitmq: RabbitMQ
) -> None:
    monkeypatch.setenv("MESH_BROKER_URL", rabbitmq.amqp_url("nowhere"))

    applied = topology("apply")
    checked = topology("check", "--management-url", rabbitmq.management_url)

    assert (applied.exit_code, checked.exit_code) == (78, 78)
    assert "vhost nowhere not found" in applied.stderr
    assert "has no such virtual host" in checked.stderr


def test_an_account_that_may_not_see_the_management_api_is_told_what_it_lacks(
    topology: Command,
    monkeypatch: pytest.MonkeyPatch,
    rabbitmq: RabbitMQ,
) -> None:
    rabbitmq.api("PUT", "/users/plain", {"password": "pw", "tags": ""})
    url = f"amqp://plain:pw@127.0.0.1:{rabbitmq.ports.amqp}/"
    monkeypatch.setenv("MESH_BROKER_URL", url)

    result = topology("check", "--management-url", rabbitmq.management_url)

    assert result.exit_code == 78
    assert "needs the tag 'management'" in result.stderr


def test_a_place_that_is_no_management_api_is_named(topology: Command) -> None:
    with HTTPServer(RouterPage) as router:
        result = topology("check", "--management-url", router.url)

    assert result.exit_code == 78
    assert router.url in result.stderr
    assert "does not answer as RabbitMQ's management API does" in result.stderr


def test_a_contradictory_file_is_refused_with_file_key_and_reason(
    topology: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    mistyped = text.replace("queue: sensors.motion", "queue: sensors.moton")
    (tmp_path / "topology.yaml").write_text(mistyped, encoding="utf-8")
    monkeypatch.setenv("MESH_CONFIG_DIR", str(tmp_path))

    result = topology("apply")

    line = mistyped[: mistyped.index("sensors.moton")].count("\n") + 1
    assert result.exit_code == 78
    assert result.stderr == (
        f"meshtasks: {tmp_path}/topology.yaml:{line}: bindings.4.queue: "
        "no queue 'sensors.moton' is declared\n"
    )
