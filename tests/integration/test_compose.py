"""docker-compose.yml, as far as it can be tested without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from tests.support.compose import read_services
from tests.support.unpacked import COMPOSE
from tests.support.worker import CELERY

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
PROFILES = ("ai", "demo", "homeassistant")
#: What a user may set and need not.
OPTIONAL = {
    "HOSTNAME",
    "MESH_HASS_TOKEN",
    "MESH_HASS_URL",
    "MESH_RECEIVERS__MAIL",
    "MESH_RECEIVERS__PHONE",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what compose reads, with its secrets made."""
    directory = tmp_path_factory.mktemp("compose")
    shutil.copy(ROOT / "docker-compose.yml", directory)
    shutil.copytree(ROOT / "config", directory / "config")
    subprocess.run(
        [CELERY.with_name("meshtasks"), "secrets"],
        cwd=directory,
        check=True,
        timeout=60,
    )
    return directory


def compose(
    project: Path, *profiles: str, command: tuple[str, ...] = ("config", "-q")
) -> subprocess.CompletedProcess[str]:
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    return subprocess.run(
        [COMPOSE.program, *chosen, *command],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(project)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def services(project: Path) -> dict[str, Any]:
    """All services, as we read the file."""
    return read_services(project)


@pytest.mark.usefixtures("docker_compose")
def test_docker_compose_reads_the_file_as_we_do(
    project: Path, services: dict[str, Any]
) -> None:
    answer = compose(project, *PROFILES, command=("config", "--format", "json"))
    assert answer.returncode == 0, answer.stderr
    theirs: dict[str, Any] = json.loads(answer.stdout)["services"]

    assert services.keys() == theirs.keys()
    for name, ours in services.items():
        for key in ("ports", "volumes"):
            seen = theirs[name].get(key, [])
            for mine, other in zip(ours.get(key, []), seen, strict=True):
                assert mine.items() <= other.items(), name
        for key in ("command", "image", "restart", "environment"):
            assert ours.get(key) == theirs[name].get(key), name


@pytest.mark.usefixtures("docker_compose")
@pytest.mark.parametrize("profiles", [(), *((each,) for each in PROFILES), PROFILES])
def test_the_file_is_valid_with_every_profile(
    project: Path, profiles: tuple[str, ...]
) -> None:
    answer = compose(project, *profiles)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.usefixtures("docker_compose")
def test_without_secrets_it_says_how_to_make_them(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)

    answer = compose(tmp_path)

    assert answer.returncode != 0
    assert "run make secrets" in answer.stderr


def test_every_variable_is_made_by_make_secrets_or_optional(project: Path) -> None:
    made = {
        line.partition("=")[0] for line in (project / ".env").read_text().splitlines()
    }
    assert set(re.findall(r"\$\{(\w+)", TEXT)) <= made | OPTIONAL


def test_the_file_holds_no_password() -> None:
    secret = re.compile(r"(PASSWORD|TOKEN|KEY|AUTH)\w*: (?!\$\{)\S")
    assert not [line for line in TEXT.splitlines() if secret.search(line)]


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    missing = [
        volume["source"]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind" and not Path(volume["source"]).exists()
    ]
    assert not missing


def test_no_two_services_want_the_same_port(services: dict[str, Any]) -> None:
    ports = Counter(
        port["published"]
        for service in services.values()
        for port in service.get("ports", ())
    )
    assert [port for port, count in ports.items() if count > 1] == []


def test_only_mqtt_is_open_to_other_machines(services: dict[str, Any]) -> None:
    opened = {
        port["published"]
        for service in services.values()
        for port in service.get("ports", ())
        if port.get("host_ip") != "127.0.0.1"
    }
    assert opened == {"1883"}


def test_every_queue_has_its_worker(services: dict[str, Any]) -> None:
    consumed = Counter(
        queue
        for service in services.values()
        if "worker" in (command := service.get("command") or [])
        for queue in command[command.index("-Q") + 1].split(",")
    )
    settings = Settings(Environment(config_dir=ROOT / "config"))
    queues = {queue.name for queue in settings.read(TOPOLOGY).queues}
    assert consumed == Counter(queues - {"dead.letter.queue", "devices"})


def test_images_are_pinned_and_memory_is_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r".+:(?!latest).+", service["image"]), name
        assert service["deploy"]["resources"]["limits"]["memory"], name


def test_what_stays_up_is_watched_and_started_again(services: dict[str, Any]) -> None:
    once = {name for name, each in services.items() if each["restart"] == "no"}
    producers = {
        name
        for name, each in services.items()
        if "meshtasks.producers" in (each.get("command") or [])
    }
    watched = {name for name, each in services.items() if "healthcheck" in each}
    assert once == {"bucket"}
    assert watched == set(services) - once - producers
