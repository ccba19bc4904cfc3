"""Every handler of the mesh: importing this registers all of them."""

from __future__ import annotations

from meshtasks.tasks import (  # noqa: F401 - they register their handlers
    alerts,
    archive,
    climate,
    home,
    inference,
    metrics,
    motion,
)
from meshtasks.tasks.registry import HANDLERS

__all__ = ("HANDLERS",)
