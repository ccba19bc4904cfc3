"""The package as it is installed: a wheel, unpacked in front of the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpacked_wheel(directory: Path) -> Path:
    """Build the wheel and unpack it; the directory to import from."""
    site = directory / "site"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    subprocess.run([*build, directory], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def wheel_environment(site: Path) -> dict[str, str]:
    """The environment in which Python imports the wheel, and no MESH_… is set."""
    given = {name: text for name, text in os.environ.items() if name[:5] != "MESH_"}
    return {**given, "PYTHONPATH": str(site)}
