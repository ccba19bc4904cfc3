"""An installed package brings its configuration along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=60,
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
