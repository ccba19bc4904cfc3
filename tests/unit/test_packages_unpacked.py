"""Unpacking programs of a newer Debian, on a machine made of scripts."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from meshtasks.demo import packages
from meshtasks.demo.packages import InstallFailed, ensure_unpacked

APT_GET = """
echo "$@" >> {log}
case "$*" in
  indextargets*) printf '%s\\n' http://mirror/debian-security/ http://mirror/debian/ ;;
  *update) sed -n 's/^URIs: //p' "${{APT_CONFIG%/*}}"/sources/*.sources >> {log} ;;
  *download*) /bin/touch ntfy_2_amd64.deb ;;
esac
"""
DPKG_DEB = '/bin/mkdir -p "$3/usr/bin"; : > "$3/usr/bin/ntfy"'


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was run, on a Debian whose programs are scripts."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    log = tmp_path / "log"
    write(tmp_path, "apt-get", APT_GET.format(log=log))
    write(tmp_path, "dpkg-deb", DPKG_DEB)
    return log


def write(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_it_is_unpacked_from_the_machines_own_mirror_and_once(
    log: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "ntfy"
    ensure_unpacked("ntfy", directory)
    ensure_unpacked("ntfy", directory)

    assert log.read_text().splitlines() == [
        "indextargets --format $(REPO_URI)",
        "-q update",
        "http://mirror/debian",
        "-q download ntfy",
    ]
    assert (directory / "root" / "usr" / "bin" / "ntfy").exists()


def test_another_suite_is_unpacked_anew(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_unpacked("ntfy", tmp_path / "ntfy")
    monkeypatch.setattr(packages, "NEWER_SUITE", "duke")
    ensure_unpacked("ntfy", tmp_path / "ntfy")

    assert log.read_text().count("download") == 2


@pytest.mark.usefixtures("log")
def test_a_failure_says_why_and_is_no_success_the_next_time(tmp_path: Path) -> None:
    directory = tmp_path / "ntfy"
    write(tmp_path, "dpkg-deb", "echo broken archive; exit 2")

    for _ in range(2):
        with pytest.raises(InstallFailed, match=r"exit code 2\nbroken archive"):
            ensure_unpacked("ntfy", directory)


@pytest.mark.usefixtures("log")
def test_another_system_is_told_that_it_needs_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "arch"})

    with pytest.raises(InstallFailed, match="need a mirror of Debian"):
        ensure_unpacked("ntfy", tmp_path / "ntfy")
