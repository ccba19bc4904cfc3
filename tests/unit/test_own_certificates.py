"""``meshtasks certificates``: what it makes, keeps, renews and refuses."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from meshtasks.cli import certificates
from meshtasks.cli.certificates import AUTHORITY, AUTHORITY_KEY, SERVER
from meshtasks.config.environment import SHIPPED_CONFIG, Environment
from tests.support.certificates import QUICK_KEY
from tests.support.command import Command, command

KEY_BEGINS = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs ``meshtasks`` in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(certificates, "KEY", QUICK_KEY)
    return command(Environment(config_dir=SHIPPED_CONFIG), monkeypatch, capsys)


def shown(path: Path) -> str:
    """A certificate as openssl shows it."""
    return subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def is_of_the_authority() -> bool:
    """As strict as Python 3.13 is."""
    verify = ("openssl", "verify", "-x509_strict", "-CAfile", str(AUTHORITY))
    return subprocess.run([*verify, str(SERVER)], check=False).returncode == 0


def test_a_certificate_for_this_machine_is_made_and_kept(run: Command) -> None:
    Path(".env").write_text("MESH_HOST_ADDRESS=[fd00::5]\n")

    made = run("certificates", "--name", "Mesh.lan.")
    text = SERVER.read_bytes()
    again = run("certificates")

    assert (made.exit_code, again.exit_code) == (0, 0)
    assert f"{SERVER}: made" in made.stdout
    assert f"{SERVER}: as it was" in again.stdout
    assert SERVER.read_bytes() == text
    assert is_of_the_authority()
    for name in ("DNS:localhost", "DNS:mesh.lan", "IP Address:FD00:0:0:0:0:0:0:5"):
        assert name in shown(SERVER)


def test_the_keys_are_hidden_and_what_containers_read_is_not(run: Command) -> None:
    run("certificates")

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(AUTHORITY_KEY) == 0o600
    assert mode(SERVER.parent.parent) == 0o700  # nobody gets further
    assert (mode(SERVER.parent), mode(SERVER), mode(AUTHORITY)) == (0o755, 0o644, 0o644)


@pytest.mark.parametrize(
    "options", [("--name", "mesh.lan"), ("--renew",)], ids=["a name more", "renew"]
)
def test_a_new_one_is_of_the_same_authority_and_key(
    run: Command, options: tuple[str, ...]
) -> None:
    run("certificates", "--name", "first.lan")
    authority, before = AUTHORITY.read_bytes(), SERVER.read_bytes()

    assert run("certificates", *options).exit_code == 0

    assert AUTHORITY.read_bytes() == authority
    after = SERVER.read_bytes()
    assert after != before
    assert after[after.index(KEY_BEGINS) :] == before[before.index(KEY_BEGINS) :]
    assert is_of_the_authority()
    assert "DNS:first.lan" in shown(SERVER)


def test_one_that_ends_soon_is_made_anew_by_secrets(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("certificates")
    before = SERVER.read_bytes()
    monkeypatch.setattr(certificates, "RENEWED_SECONDS", 821 * 86_400.0)

    assert run("secrets").exit_code == 0

    assert SERVER.read_bytes() != before


def test_somebody_elses_certificate_is_kept(run: Command) -> None:
    run("certificates")
    AUTHORITY.unlink()
    run("certificates", "--name", "of.another")  # a new authority, and one of it
    theirs = SERVER.read_bytes()
    AUTHORITY_KEY.unlink()

    kept = run("certificates", "--name", "mesh.lan")

    assert kept.exit_code == 0
    assert "not of .mesh/certificates/ca.key" in kept.stdout
    assert SERVER.read_bytes() == theirs


def test_what_cannot_be_used_is_named(
    run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("certificates", "--name", "no name").exit_code == 2
    run("certificates")
    SERVER.write_text("nothing")
    broken = run("certificates")
    monkeypatch.setenv("PATH", "/nowhere")
    missing = run("certificates")

    assert (broken.exit_code, missing.exit_code) == (78, 78)
    assert str(SERVER) in broken.stderr
    assert "apt-get install openssl" in missing.stderr
