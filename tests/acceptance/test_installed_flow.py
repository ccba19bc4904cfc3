"""``meshtasks flow new``: the package is built, installed and run as it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshtasks.demo.servers import VictoriaMetrics
from tests.support.amqp import publish_raw, queue_depth, take
from tests.support.docs import DOCS, ROOT, snippets, with_snippets
from tests.support.meshes import declared, reconfigured
from tests.support.victoria import export
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

PAGE = DOCS / "add-a-flow.md"
KEY = "tides.records.harbour"

#: ``meshtasks``, for any interpreter.
MESHTASKS = ("-c", "from meshtasks.cli import main; main()")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``meshtasks flow new tides`` writes."""
    directory = tmp_path_factory.mktemp("package")
    run(directory, sys.executable, *MESHTASKS, "flow", "new", "tides")
    return directory / "mesh-tides"


@pytest.fixture(scope="module")
def python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the package, which also sees all that is
    installed here: nothing is downloaded."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    interpreter = directory / "bin" / "python"
    (site,) = directory.glob("lib/python*/site-packages")
    here = sysconfig.get_path("purelib")
    (site / "_mesh.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    pip = (sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet")
    own = ("--no-index", "--no-deps", "--no-build-isolation")
    run(directory, *pip, *own, "--disable-pip-version-check", package)
    return interpreter


@pytest.fixture
def env(new_mesh_env: dict[str, str], package: Path, tmp_path: Path) -> dict[str, str]:
    """A mesh with the lines of the package's README."""
    files = with_snippets(package / "README.md", ROOT / "config")
    return declared(reconfigured(new_mesh_env, tmp_path / "config", **files))


def run(
    directory: Path, *arguments: object, env: Mapping[str, str] | None = None
) -> str:
    """Run a program that must succeed; what it printed."""
    ended = subprocess.run(
        [*map(str, arguments)],
        cwd=directory,
        env={**os.environ, **(env or {}), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_it_stores_records_and_dead_letters_bad_ones(
    env: dict[str, str], python: Path, victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    url = env["MESH_BROKER_URL"]
    good = {"place": "harbour", "value": 1.5, "timestamp": "2026-11-23T13:00:00Z"}
    bad = {"place": "harbour", "value": 120}
    program = (python, "-m", "celery", "-A", "meshtasks", "worker")
    worker = Worker(tmp_path, env, "tides.records", program=program)
    with running(worker):
        publish_raw(url, "tides", KEY, *(json.dumps(r).encode() for r in (good, bad)))
        (letter,) = take(url, "dead.letter.queue", 1)
        wait_until(lambda: export(victoria), 30, "a point")

    (series,) = export(victoria)
    assert (series.name, series.labels) == ("tides_value", {"place": "harbour"})
    assert list(series.samples.values()) == [1.5]
    assert json.loads(letter.body) == bad
    assert letter.headers["x-mesh-reason"] == (
        "value: 120 cannot be: tides.yaml allows 0 to 100"
    )
    assert letter.headers["x-mesh-queue"] == "tides.records"
    assert queue_depth(url, "tides.records") == 0


def test_commands_know_it(env: dict[str, str], python: Path, tmp_path: Path) -> None:
    meshtasks = (python, *MESHTASKS)
    listed = run(tmp_path, *meshtasks, "flow", "list", env=env)
    check = ("config", "check", "--explain", KEY)
    explained = run(tmp_path, *meshtasks, *check, env=env)

    assert "tides        mesh-tides 0.1.0" in listed
    assert "handler   mesh_tides.handler.store_records: Store the values." in explained


def test_a_worker_does_not_start_with_a_flow_that_cannot_be_loaded(
    env: dict[str, str], tmp_path: Path
) -> None:
    metadata = tmp_path / "mesh_tides-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: mesh-tides\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[meshtasks.flows]\ntides = broken:X\n")
    (tmp_path / "broken.py").write_text("open('/nowhere/tide-table')\n")

    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "meshtasks", "worker"],
        cwd=tmp_path,
        env={**os.environ, **env, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 78
    assert ended.stderr == (
        "meshtasks: package mesh-tides 0.1.0: flow tides: broken:X cannot be loaded: "
        "FileNotFoundError: [Errno 2] No such file or directory: "
        "'/nowhere/tide-table' (broken.py, line 1)\n"
    )


def test_its_own_tests_pass(python: Path, package: Path) -> None:
    run(package, python, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_the_page_shows_what_is_written(package: Path) -> None:
    shown = [each for each in snippets(PAGE) if each.language in {"python", "toml"}]

    assert shown
    for snippet in shown:
        name, _, text = snippet.text.partition("\n")
        path = package / name.removeprefix("# mesh-tides/")
        assert text.strip() in path.read_text(encoding="utf-8"), name
