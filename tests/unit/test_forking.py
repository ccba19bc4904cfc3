"""The tests' own processes (``make test``)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CONFTEST = """\
import os
from pathlib import Path

import pytest

from tests.support.forking import Forking


def pytest_configure(config):
    forking = Forking(2, lambda nodeid: nodeid.partition("::")[0])
    config.pluginmanager.register(forking)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    yield os.getpid()
    Path("ended").open("a").write(f"{os.getpid()}\\n")
"""
TESTS = """\
import os
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", range(3))
def test_that_passes(server, number):
    assert server == os.getpid()
    Path("ran").open("a").write(f"{__name__} {os.getpid()}\\n")


def test_that_fails(server, tmp_path):
    print(f"it ran in {tmp_path}")
    assert server == 0, "as it should"


def test_that_is_skipped():
    pytest.skip("for a reason")
"""


def run(directory: Path, **files: str) -> str:
    """What pytest prints."""
    for name, text in {"conftest": CONFTEST, **files}.items():
        (directory / f"{name}.py").write_text(text)
    (directory / "pytest.ini").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:hypothesispytest"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_a_file_runs_in_one_process_and_each_outcome_is_reported(
    tmp_path: Path,
) -> None:
    files = {"test_a": TESTS, "test_b": TESTS, "test_c": TESTS}
    output = run(tmp_path, **files)

    assert "3 failed, 9 passed, 3 skipped" in output
    assert output.count("for a reason") == len(files)
    assert "AssertionError: as it should" in output
    assert output.count("it ran in /") == len(files)
    ran = (tmp_path / "ran").read_text().splitlines()
    assert {line.split()[0] for line in ran} == files.keys()
    assert len(set(ran)) == len(files)
    ended = (tmp_path / "ended").read_text().split()
    assert sorted(ended) == sorted({line.split()[1] for line in ran})


def test_the_test_that_a_process_ends_in_has_failed_and_the_others_run(
    tmp_path: Path,
) -> None:
    crash = TESTS.replace("assert server == 0", "os.kill(server, 9)")
    output = run(tmp_path, test_a=crash, test_b=TESTS)

    assert "2 failed, 6 passed, 2 skipped" in output
    assert "test_a.py::test_that_fails - its process ended with -9" in output
