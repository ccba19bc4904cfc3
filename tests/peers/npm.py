"""npm, for the peers that come from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from meshtasks.demo.packages import InstallFailed

_TAIL_CHARS = 2_000


def npm(
    where: Path, *arguments: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Run npm in a directory with a ``package.json``.

    Raises:
        InstallFailed: npm is missing or failed; the text says why.
    """
    if shutil.which("npm") is None:
        message = "npm is missing; it comes with Node.js (Debian: apt install npm)"
        raise InstallFailed(message)
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    done = subprocess.run(
        ["npm", *arguments, *quiet],
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"npm {' '.join(arguments)} failed:\n{done.stdout[-_TAIL_CHARS:]}"
        raise InstallFailed(message)
