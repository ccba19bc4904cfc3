"""Unpacking programs of the tests, on a machine made of scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtasks.demo.packages import InstallFailed
from tests.support.unpacked import Unpacked

APT_CACHE = """
case "$2" in
  tool-v2) printf '%s:\\n  Installed: (none)\\n  Candidate: {new}\\n' "$2" ;;
  tool) printf '%s:\\n  Installed: (none)\\n  Candidate: {old}\\n' "$2" ;;
esac
"""
APT_GET = 'echo "$@" >> {log}; /bin/touch "${{3}}_9_amd64.deb"'
DPKG_DEB = '/bin/mkdir -p "$3/usr/bin"; : > "$3/usr/bin/tool"'


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was run, on a system whose programs are scripts."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    log = tmp_path / "log"
    log.touch()
    archive(tmp_path, new="2.40.3+ds1-0ubuntu1", old="1.29.2-3")
    write(tmp_path, "apt-get", APT_GET.format(log=log))
    write(tmp_path, "dpkg-deb", DPKG_DEB)
    return log


@pytest.fixture
def tool(tmp_path: Path) -> Unpacked:
    path = "usr/bin/tool"
    directory = tmp_path / "unpacked"
    return Unpacked("Tool", ("tool-v2", "tool"), (2, 0), path, directory=directory)


def write(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def archive(tmp_path: Path, new: str, old: str) -> None:
    """Versions in the system's own archive."""
    write(tmp_path, "apt-cache", APT_CACHE.format(new=new, old=old))


def test_a_package_is_unpacked_once(log: Path, tool: Unpacked) -> None:
    tool.ensure()
    tool.ensure()

    assert log.read_text().splitlines() == ["-q download tool-v2"]
    assert tool.program.is_file()
    assert tool.absent() is None


def test_another_version_is_unpacked_anew(
    log: Path, tool: Unpacked, tmp_path: Path
) -> None:
    tool.ensure()
    archive(tmp_path, new="1:3.0-1", old="1.29.2-3")
    tool.ensure()

    assert log.read_text().count("download") == 2


@pytest.mark.parametrize(
    ("new", "old", "package"),
    [("(none)", "2.26.1-4", "tool"), ("1.28", "2.0", "tool"), ("10", "2.1", "tool-v2")],
)
def test_the_first_package_that_is_new_enough_is_taken(
    log: Path, tool: Unpacked, tmp_path: Path, new: str, old: str, package: str
) -> None:
    archive(tmp_path, new=new, old=old)

    tool.ensure()

    assert log.read_text() == f"-q download {package}\n"


def test_without_a_package_that_is_new_enough_there_is_no_program(
    log: Path, tool: Unpacked, tmp_path: Path
) -> None:
    tool.ensure()
    archive(tmp_path, new="(none)", old="1.29.2-3")
    tool.ensure()

    assert log.read_text().count("download") == 1
    assert tool.absent() == "this release has no package of Tool 2.0 or newer"


@pytest.mark.usefixtures("log")
def test_a_failure_says_why_and_is_no_success_the_next_time(
    tool: Unpacked, tmp_path: Path
) -> None:
    write(tmp_path, "dpkg-deb", "echo broken archive; exit 2")

    for _ in range(2):
        with pytest.raises(InstallFailed, match=r"exit code 2\nbroken archive"):
            tool.ensure()
