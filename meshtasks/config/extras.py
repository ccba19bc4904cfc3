"""The extras of pyproject.toml: packages that only some installations need."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from meshtasks.errors import ConfigError

Extra = Literal[
    "alerts", "analytics", "console", "flower", "gateway", "homeassistant",
    "kubernetes", "postgresql", "s3", "triton",
]  # fmt: skip

#: Modules of each extra that the mesh imports.
MODULES: dict[Extra, tuple[str, ...]] = {
    "alerts": ("apprise",),
    "analytics": ("duckdb", "matplotlib", "pyarrow"),
    "console": ("nicegui",),
    "flower": ("flower",),
    "gateway": ("fastapi", "fastapi_offline", "starlette", "uvicorn"),
    "homeassistant": ("websockets",),
    "kubernetes": ("kubernetes",),
    "postgresql": ("psycopg",),
    "s3": ("minio",),
    "triton": ("gevent", "geventhttpclient", "numpy", "tritonclient"),
}


def _found(module: str) -> bool:
    spec = find_spec(module)
    # A folder of that name in the working directory is a package without an origin.
    return spec is not None and spec.origin is not None


def installed(extra: Extra) -> bool:
    """Whether an extra is installed."""
    return all(map(_found, MODULES[extra]))


def require(extra: Extra, purpose: str) -> None:
    """Check that an extra is installed, before importing a module of it.

    Args:
        purpose: what needs the extra, as the subject of a sentence.

    Raises:
        ConfigError: the extra is not installed; the text says how to install it.
    """
    for module in MODULES[extra]:
        if not _found(module):
            expected = (
                f"is not installed; {purpose} needs it: "
                f"pip install 'meshtasks[{extra}]'"
            )
            raise ConfigError("Python environment", module, expected)
