"""The units of ``meshtasks init --systemd``: systemd takes them, and they run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtasks.amqp.accounts import rights_of
from meshtasks.cli.units import processes, variable_text
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import publish_raw
from tests.support.systemd import Unit, variables
from tests.support.topologies import shipped_topology
from tests.support.victoria import count_samples
from tests.support.waiting import wait_until
from tests.support.worker import MESHTASKS

#: A directory as nobody should call it, and an account's password.
ODD = 'mäsh 5% $HOME "q" \'s'
ODD_PASSWORD = 'p%41 $x #1 \\n"ü'

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed here"
)


def initialised(directory: Path, *options: str) -> Path:
    directory.mkdir(exist_ok=True)
    subprocess.run(
        [MESHTASKS, "init", directory, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=300,
    )
    return directory / "systemd"


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def instances(units: Path) -> list[Path]:
    """Every service as it is started; a template's file is copied for its instances."""
    template = units / "meshtasks-worker@.service"
    for process in processes():
        if process.is_worker:
            shutil.copy(template, units / process.unit)
    return [units / process.unit for process in processes()]


@needs_systemd
@pytest.mark.parametrize("mode", ["--systemd", "--user"])
def test_systemd_finds_nothing_to_say_of_the_units(tmp_path: Path, mode: str) -> None:
    units = initialised(tmp_path / ODD, mode, "--archive-url", "file:///srv/my 5% $a")

    found = analyze("verify", *instances(units), units / "meshtasks.target")

    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@needs_systemd
def test_the_units_are_hardened(tmp_path: Path) -> None:
    units = initialised(tmp_path, "--systemd")

    # Tenths of systemd's own measure; 10 is a service with all rights of root.
    for unit in instances(units):
        most = 40 if unit.name == "meshtasks-system.service" else 20
        found = analyze("security", "--offline=true", f"--threshold={most}", unit)
        assert found.returncode == 0, found.stdout + found.stderr


@pytest.fixture
def mesh(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """The session's node, which gets the accounts of a mesh, and loses them."""
    yield rabbitmq
    rabbitmq.delete_vhost("mesh")
    for role in rights_of(shipped_topology()):
        rabbitmq.api("DELETE", f"/users/{role}")


def test_a_unit_runs_with_its_own_account(
    mesh: RabbitMQ, victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    directory = tmp_path / ODD
    directory.mkdir()
    broker = f"127.0.0.1:{mesh.ports.amqp}/mesh"
    (directory / ".env").write_text(
        f"MESH_BROKER_URL=amqp://operator:word@{broker}\n"
        f"MESH_BROKER_PASSWORD_OPERATOR=word\n"
        f"MESH_BROKER_PASSWORD_WORKER='{ODD_PASSWORD}'\n"
        f"MESH_STATE_DIR='{tmp_path / 'my state'}'  # on the other disk\n",
        encoding="utf-8",
    )
    units = initialised(directory, "--systemd", "--influx-url", victoria.url)
    definitions = directory / ".mesh/compose/rabbitmq.json"
    mesh.api("POST", "/definitions", json.loads(definitions.read_text()))
    worker = Unit(units / "meshtasks-worker@.service", "climate")

    process = worker.process(tmp_path / "worker.log")
    process.start()
    try:
        publish_raw(
            f"amqp://operator:word@{broker}",
            "sensors",
            "sensors.temperature.attic",
            b'{"value": 21.5}',
        )
        wait_until(lambda: count_samples(victoria) == 1, 60, "the reading to be stored")
    finally:
        ended = process.stop(within_seconds=60)

    assert ended == 0, process.output()
    assert "amqp://worker:**@" in process.output()
    assert ODD_PASSWORD not in process.output()
    assert (tmp_path / "my state").is_dir()


@pytest.mark.parametrize(
    "value", ["a b", "#x", "50%", "$HOME `x`", 'it\'s "q"', "\\n \\", "é", ""]
)
def test_a_value_is_read_as_it_was_written(value: str) -> None:
    assert variables(f"# ours\nA={variable_text(value)}\n") == {"A": value}
