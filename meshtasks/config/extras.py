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


def installed(extra: Extra) -> bool:
    """Whether an extra is installed."""
    return all(find_spec(module) is not None for module in MODULES[extra])


def require(extra: Extra, purpose: str) -> None:
    """Check that an extra is installed, before importing a module of it.

    Args:
        purpose: what needs the extra, as the subject of a sentence.

    Raises:
        ConfigError: the extra is not installed; the text says how to install it.
    """
    for module in MODULES[extra]:
        if find_spec(module) is None:
            expected = (
                f"is not installed; {purpose} needs it: "
                f"pip install 'meshtasks[{extra}]'"
            )
            raise ConfigError("Python environment", module, expected)
