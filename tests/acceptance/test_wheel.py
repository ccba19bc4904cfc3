"""An installed package brings its configuration along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MESHTASKS = Path(sys.executable).with_name("meshtasks")


def run(
    directory: Path, env: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MESHTASKS, *arguments],
        cwd=directory,
        env=env,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "command", [("config", "check"), ("topology", "show")], ids=" ".join
)
def test_commands_work_in_an_empty_directory(
    wheel_env: dict[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run(tmp_path, wheel_env, *command)

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_config_directory_stands_in_for_the_shipped_one(
    wheel_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "kinds.yaml").write_text("default_units: {temperature: °Q}")

    done = run(tmp_path, wheel_env, "config", "check")

    assert done.returncode == 78
    assert "config/kinds.yaml:1" in done.stdout + done.stderr


def test_a_config_directory_that_is_named_and_missing_stops_the_start(
    wheel_env: dict[str, str], tmp_path: Path
) -> None:
    env = {**wheel_env, "MESH_CONFIG_DIR": "nowhere"}

    done = run(tmp_path, env, "topology", "show")

    assert done.returncode == 78
    assert "MESH_CONFIG_DIR: expected a directory" in done.stderr


@pytest.mark.parametrize("option", ["--profile=ai", "--systemd"])
def test_init_writes_what_the_clone_has(
    wheel_env: dict[str, str], tmp_path: Path, option: str
) -> None:
    done = run(tmp_path, wheel_env, "init", option)
    checked = run(tmp_path, wheel_env, "config", "check")

    assert done.returncode == checked.returncode == 0, done.stderr + checked.stdout
    for path in ("config/rules.yaml", "config/rabbitmq/rabbitmq.conf"):
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
    compose = tmp_path / "docker-compose.yml"
    if option == "--systemd":
        groups = {path.name for path in (tmp_path / "systemd").glob("worker-*.env")}
        assert {"worker-climate.env", "worker-alerts.env"} <= groups
        assert not compose.exists()
    else:
        assert compose.read_bytes() == (ROOT / compose.name).read_bytes()


def test_only_our_own_name_is_taken_from_all_packages(
    wheel_env: dict[str, str],
) -> None:
    site = Path(wheel_env["PYTHONPATH"])
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"meshtasks"}
