"""Virtual environments of the peers, made on first use."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]


class InstallFailedError(Exception):
    """A peer's environment could not be made; the text says why."""


def ensure_peer(peer: str, say: Callable[[str], None]) -> Path:
    """The directory of a peer's programs, installed if need be.

    Args:
        peer: name in ``requirements-<peer>.txt``.
        say: told when something is installed, which takes a while.

    Raises:
        InstallFailedError: venv or pip failed; the text carries the end of its
            output.
    """
    requirements = Path(__file__).with_name(f"requirements-{peer}.txt")
    venv = ROOT / ".mesh" / "venvs" / f"bench-{peer}"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    wanted = f"{digest} {sys.base_prefix} {sys.version_info[:2]}\n"
    ready = venv / ".ready"
    if not ready.exists() or ready.read_text() != wanted:
        say(f"installing {peer} into {venv.relative_to(ROOT)}")
        _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "-r", str(requirements)])
        ready.write_text(wanted)
    return venv / "bin"


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-20:])
        message = f"{' '.join(command)}: exit code {done.returncode}\n{end}"
        raise InstallFailedError(message)
