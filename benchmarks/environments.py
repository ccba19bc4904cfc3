"""Virtual environments of the peers, made on first use."""

from __future__ import annotations

from pathlib import Path

from meshtasks.demo.packages import ensure_venv

ROOT = Path(__file__).absolute().parents[1]


def ensure_peer(peer: str) -> Path:
    """The directory of a peer's programs, installed if need be.

    Args:
        peer: name in ``requirements-<peer>.txt``.

    Raises:
        InstallFailed: venv or pip failed; the text carries the end of its output.
    """
    requirements = Path(__file__).with_name(f"requirements-{peer}.txt")
    venv = ROOT / ".mesh" / "venvs" / f"bench-{peer}"
    ensure_venv(venv, requirements, f"{peer}, to compare with", hashed=False)
    return venv / "bin"
