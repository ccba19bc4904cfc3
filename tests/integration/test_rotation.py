"""``meshtasks secrets`` on a stack that runs: a real broker, and stand-ins for
InfluxDB's and Grafana's own APIs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from amqp.exceptions import AccessRefused
from dotenv import dotenv_values

from meshtasks.config.environment import Environment
from meshtasks.demo import loopback
from meshtasks.demo.rabbitmq import RabbitMQ
from tests.conftest import ROOT
from tests.support.amqp import open_channel
from tests.support.command import Command, Result, command
from tests.support.influx_owner import InfluxOwner
from tests.support.receiver import Answer, Receiver
from tests.support.worker import MESHTASKS

WRITTEN = """\
# of the attic
MESH_RECEIVERS__PHONE='ntfy://ntfy/attic#1'
export MESH_HASS_URL=http://hass:8123

"""
COMPOSE = """\
x-worker: &worker
  environment:
    MESH_BROKER_URL: amqp://worker:${MESH_BROKER_PASSWORD_WORKER:?run make secrets}@b/v
services:
  worker-climate: {<<: *worker}
  grafana: {environment: {PASSWORD: "${GRAFANA_ADMIN_PASSWORD:?x}"}}
"""


class Stack(NamedTuple):
    """A directory with .env, and the broker that has loaded its accounts."""

    run: Command
    directory: Path
    broker: RabbitMQ

    def secrets(self, *arguments: str, url: str | None = None) -> Result:
        """Run the command."""
        address = ("--management-url", url or self.broker.management_url)
        return self.run("secrets", *address, *arguments)

    @property
    def values(self) -> dict[str, str | None]:
        """The variables of .env."""
        return dotenv_values(self.directory / ".env")

    def password(self, role: str) -> str:
        """Of an account, as .env has it."""
        return str(self.values[f"MESH_BROKER_PASSWORD_{role.upper()}"])

    def url(self, role: str, password: str | None = None) -> str:
        """AMQP URL of an account."""
        address = f"{loopback.HOST}:{self.broker.ports.amqp}"
        return f"amqp://{role}:{password or self.password(role)}@{address}/mesh"

    def lets_in(self, role: str, password: str | None = None) -> bool:
        """Whether the broker takes the account's password."""
        try:
            with open_channel(self.url(role, password)):
                return True
        except AccessRefused:
            return False


@pytest.fixture(scope="module")
def written(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A directory where the command ran for the first time."""
    directory = tmp_path_factory.mktemp("written")
    env_file = directory / ".env"
    env_file.write_text(WRITTEN)
    (directory / "docker-compose.yml").write_text(COMPOSE)
    env = {**os.environ, "MESH_CONFIG_DIR": str(ROOT / "config")}
    subprocess.run([MESHTASKS, "secrets"], cwd=directory, env=env, check=True)
    here = f"@{loopback.HOST}:{rabbitmq.ports.amqp}/"
    env_file.write_text(env_file.read_text().replace("@127.0.0.1:5672/", here))
    yield directory
    rabbitmq.delete_vhost("mesh")


@pytest.fixture
def stack(
    rabbitmq: RabbitMQ,
    written: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Stack]:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = command(Environment(config_dir=ROOT / "config"), monkeypatch, capsys)
    monkeypatch.delenv("MESH_BROKER_URL")
    definitions = json.loads((tmp_path / ".mesh/compose/rabbitmq.json").read_text())
    rabbitmq.api("POST", "/definitions", definitions)  # as it does when it starts
    yield Stack(run, tmp_path, rabbitmq)
    for user in definitions["users"]:
        rabbitmq.api("DELETE", f"/users/{user['name']}")


def test_a_new_password_is_everywhere_and_ends_no_connection(stack: Stack) -> None:
    before, old = stack.values, stack.password("worker")
    with open_channel(stack.url("worker")) as channel:
        done = stack.secrets("--rotate", "MESH_BROKER_PASSWORD_WORKER")
        channel.queue_declare("sensors.temperature", passive=True)

    assert done.exit_code == 0
    assert "worker-climate. Devices" in done.stdout
    assert stack.lets_in("worker")
    assert not stack.lets_in("worker", old)
    changed = {name for name, value in stack.values.items() if before[name] != value}
    assert changed == {"MESH_BROKER_PASSWORD_WORKER"}
    assert (stack.directory / ".env").read_text().startswith(WRITTEN)
    for text in (*before.values(), *stack.values.values()):
        assert len(str(text)) < 20 or str(text) not in done.stdout


def test_the_operators_url_and_the_administrators_password_go_along(
    stack: Stack,
) -> None:
    for role in ("operator", "admin"):
        variable = f"MESH_BROKER_PASSWORD_{role.upper()}"
        assert stack.secrets("--rotate", variable).exit_code == 0

    assert stack.lets_in("operator")
    assert f":{stack.password('operator')}@" in str(stack.values["MESH_BROKER_URL"])
    assert "it has the accounts" in stack.secrets().stdout


def test_a_device_is_let_in_at_once_and_locked_out_at_once(stack: Stack) -> None:
    assert stack.secrets("--device", "attic").exit_code == 0
    assert stack.lets_in("device_attic")
    password = stack.password("device_attic")

    env_file = stack.directory / ".env"
    kept = re.sub(r"(?m)^.*DEVICE_ATTIC=.*\n", "", env_file.read_text())
    env_file.write_text(kept)
    assert stack.secrets().exit_code == 0

    assert not stack.lets_in("device_attic", password)


def test_another_broker_is_told_apart_and_nothing_changes(stack: Stack) -> None:
    stack.broker.api("PUT", "/users/admin", {"password": "other", "tags": ""})
    before = stack.values

    done = stack.secrets("--rotate", "MESH_BROKER_PASSWORD_WORKER")

    assert done.exit_code == 78
    assert "docker compose restart rabbitmq" in done.stderr
    assert stack.values == before
    assert stack.lets_in("worker")


def test_a_broker_that_does_not_run_takes_the_accounts_when_it_starts(
    stack: Stack,
) -> None:
    nowhere = f"http://{loopback.HOST}:{loopback.free_port()}"

    done = stack.secrets("--rotate", "MESH_BROKER_PASSWORD_WORKER", url=nowhere)

    assert done.exit_code == 0
    assert "when it starts" in done.stdout
    assert not stack.lets_in("worker")
    file = stack.directory / ".mesh/compose/rabbitmq.json"
    stack.broker.api("POST", "/definitions", json.loads(file.read_text()))
    assert stack.lets_in("worker")


@pytest.mark.parametrize("variable", ["N8N_ENCRYPTION_KEY", "MESH_HASS_URL", "X"])
def test_what_cannot_be_had_anew_is_refused(stack: Stack, variable: str) -> None:
    before = stack.values
    assert stack.secrets("--rotate", variable).exit_code == 2
    assert stack.values == before


def test_all_passwords_are_changed_also_where_a_service_keeps_its_own(
    stack: Stack, receiver: Receiver
) -> None:
    before = stack.values
    token = str(before["INFLUX_ADMIN_TOKEN"])
    receiver.always = Answer(200, b'{"message":"User password changed"}')
    with InfluxOwner(token) as influx:
        services = ("--influx-url", influx.url, "--grafana-url", receiver.url)
        done = stack.secrets("--rotate", "all", *services)
        tokens = [each["token"] for each in influx.authorizations.values()]

    assert done.exit_code == 0, done.stderr
    after = stack.values
    same = {name for name, value in after.items() if before[name] == value}
    assert same == {
        *("MESH_RECEIVERS__PHONE", "MESH_HASS_URL", "MESH_FLOWER_USER"),
        *("N8N_ENCRYPTION_KEY", "COMPOSE_PROFILES", "MESH_PULL_POLICY"),
        "MESH_MQTT_ADDRESS",
    }
    (request,) = receiver.requests
    assert (request.method, request.path) == ("PUT", "/api/user/password")
    assert json.loads(request.body)["newPassword"] == after["GRAFANA_ADMIN_PASSWORD"]
    assert influx.password == after["INFLUX_ADMIN_PASSWORD"]
    assert tokens == [after["INFLUX_ADMIN_TOKEN"]]
    callers = re.findall(r"[^:,]+:[^:,]+:", str(after["MESH_API_TOKENS"]))
    assert callers == ["n8n:publish+trigger:", "owner:operate:"]
    assert stack.lets_in("worker")
    assert stack.lets_in("admin")


def test_a_service_that_does_not_answer_keeps_its_password(stack: Stack) -> None:
    before = stack.values
    nowhere = f"http://{loopback.HOST}:{loopback.free_port()}"

    done = stack.secrets("--rotate", "GRAFANA_ADMIN_PASSWORD", "--grafana-url", nowhere)

    assert done.exit_code == 69
    assert "Grafana does not answer" in done.stderr
    assert stack.values == before
