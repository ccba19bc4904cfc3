"""Installing the servers that are missing, on a machine made of scripts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtasks.demo import packages
from meshtasks.demo.packages import InstallFailed, Program

GHOST = Program("ghost-server", "/nonexistent/ghost", ("ghost.service",))
PRESENT = Program("shell", "/bin/sh", ())

AddCommand = Callable[[str, str], None]


@pytest.fixture
def add_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddCommand:
    """Adds a shell script to the only directory on the PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))

    def add(name: str, script: str) -> None:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return add


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Where this machine would ask whether a service may start."""
    return tmp_path / "policy-rc.d"


def need(monkeypatch: pytest.MonkeyPatch, *programs: Program) -> None:
    monkeypatch.setitem(packages.PROGRAMS, "demo", programs)
    monkeypatch.setattr(packages, "triton_unavailable", lambda: "not on this machine")


def test_nothing_is_said_or_done_when_all_is_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    need(monkeypatch, PRESENT)

    assert packages.main(["demo"]) == os.EX_OK
    assert capfd.readouterr() == ("", "")


def test_only_what_is_missing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    need(monkeypatch, PRESENT, GHOST)

    assert packages.missing("demo") == [GHOST]


def test_what_is_no_program_need_only_be_there(tmp_path: Path) -> None:
    library = tmp_path / "libghost.so.1.0"
    program = Program("libghost", str(library), ())

    assert not program.is_installed()
    library.touch(mode=0o644)
    assert program.is_installed()


def test_a_package_is_installed_by_the_name_that_the_archive_has(
    monkeypatch: pytest.MonkeyPatch, add_command: AddCommand
) -> None:
    add_command(
        "apt-cache", '[ "$2" = libghostt64 ] && echo "  Candidate: 1.0-1" || exit 0'
    )
    renamed = Program("libghost", "/nonexistent", optional=True, renamed="libghostt64")
    gone = Program("libgone", "/nonexistent", optional=True)

    assert packages.can_be_had([renamed, gone]) == [renamed]
    command = packages.administrator_command([renamed, GHOST])
    assert command.endswith("--no-install-recommends libghostt64 ghost-server'")


def test_the_demo_does_without_a_triton_that_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object) -> None:
        raise InstallFailed("pip: no route to host")

    need(monkeypatch, PRESENT)
    monkeypatch.setattr(packages, "triton_unavailable", lambda: None)
    monkeypatch.setitem(packages.PROGRAMS, "triton", ())
    monkeypatch.setattr(packages, "ensure_venv", offline)

    assert packages.main(["demo"]) == os.EX_OK
    assert capfd.readouterr().err.splitlines() == [
        "meshtasks: pip: no route to host",
        "The demo runs without Triton Inference Server",
    ]
    assert packages.main(["triton"]) == os.EX_UNAVAILABLE


@pytest.mark.parametrize("arguments", [[], ["everything"], ["demo", "test"]])
def test_another_purpose_is_refused(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert packages.main(arguments) == os.EX_USAGE
    assert "packages venv|demo|test" in capfd.readouterr().err


@pytest.mark.usefixtures("ordinary_user")
def test_an_ordinary_user_is_told_the_command_for_an_administrator(
    monkeypatch: pytest.MonkeyPatch,
    add_command: AddCommand,
    capfd: pytest.CaptureFixture[str],
) -> None:
    need(monkeypatch, PRESENT, GHOST)
    add_command("apt-get", "echo must not run; exit 9")
    add_command("sudo", "echo a password is required >&2; exit 1")

    assert packages.main(["demo"]) == os.EX_UNAVAILABLE
    assert capfd.readouterr().err.splitlines() == [
        "meshtasks: this machine lacks ghost-server. Ask an administrator to run:",
        (
            "sudo sh -c 'apt-get update &&"
            " apt-get install -y --no-install-recommends ghost-server'"
        ),
    ]


@pytest.mark.usefixtures("ordinary_user")
def test_a_user_who_may_sudo_has_it_installed_that_way(
    monkeypatch: pytest.MonkeyPatch, add_command: AddCommand, tmp_path: Path
) -> None:
    need(monkeypatch, GHOST)
    add_command("apt-get", "exit 9")
    add_command("sudo", f'printf "%s\\n" "$*" >> {tmp_path}/sudo.log')

    assert packages.main(["demo"]) == os.EX_OK
    _question, command = (tmp_path / "sudo.log").read_text().splitlines()
    assert command.endswith("packages.py demo --as-root")


@pytest.mark.usefixtures("add_command")
def test_a_machine_without_apt_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    need(monkeypatch, GHOST)

    assert packages.main(["demo"]) == os.EX_UNAVAILABLE
    assert "lacks ghost-server, and apt-get" in capfd.readouterr().err


def test_packages_are_installed_while_no_service_may_start(
    add_command: AddCommand, policy: Path, tmp_path: Path
) -> None:
    add_command("apt-get", f'{policy}; echo "$? $@" >> {tmp_path}/apt.log')

    packages.install([GHOST, PRESENT], policy)

    update, install = (tmp_path / "apt.log").read_text().splitlines()
    assert update.startswith("101 ")
    assert update.endswith(" update")
    assert install.startswith("101 ")
    assert install.endswith(" install --no-install-recommends ghost-server shell")
    assert not policy.exists()


def test_new_services_do_not_start_at_the_next_boot_either(
    add_command: AddCommand,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packages, "_UNIT_DIRECTORIES", (tmp_path,))
    old = Program("old-server", "/nonexistent/old", ("old.service",))
    (tmp_path / "old.service").touch()
    add_command("apt-get", f": > {tmp_path}/ghost.service")
    add_command("systemctl", f'echo "$@" >> {tmp_path}/systemctl.log')

    packages.install([GHOST, old], policy)

    log = (tmp_path / "systemctl.log").read_text()
    assert log == "disable --quiet ghost.service\n"


def test_a_failed_installation_says_why_and_lifts_the_policy(
    add_command: AddCommand, policy: Path
) -> None:
    add_command("apt-get", "echo E: Unable to locate package >&2; exit 100")

    with pytest.raises(InstallFailed, match=r"(?s)exit code 100.*Unable to locate"):
        packages.install([GHOST], policy)
    assert not policy.exists()


def test_a_policy_of_the_machine_is_left_alone(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")

    with packages.services_held_back(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"

    assert policy.exists()


def test_a_policy_left_behind_by_a_killed_run_is_removed(policy: Path) -> None:
    with packages.services_held_back(policy):
        left_behind = policy.read_text()
    policy.write_text(left_behind)

    with packages.services_held_back(policy):
        assert policy.exists()

    assert not policy.exists()


def test_the_lists_of_packages_are_updated_once_nobody_else_does(
    add_command: AddCommand,
    policy: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = tmp_path / "first"
    locked = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
    add_command(
        "apt-get", f'[ -e {first} ] || {{ : > {first}; echo "{locked}"; exit 100; }}'
    )

    packages.install([GHOST], policy)

    assert "another program is updating or installing" in capfd.readouterr().err


def test_what_could_not_be_fetched_explains_what_is_not_there(
    add_command: AddCommand, policy: Path
) -> None:
    warning = "W: Failed to fetch http://mirror/InRelease  Could not resolve 'mirror'"
    add_command(
        "apt-get",
        f'for a; do :; done; [ $a = update ] && echo "{warning}" || '
        "{ echo E: Unable to locate package; exit 100; }",
    )

    with pytest.raises(InstallFailed, match=r"(?s)Unable to locate.*Could not resolve"):
        packages.install([GHOST], policy)
