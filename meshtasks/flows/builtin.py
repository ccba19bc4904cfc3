"""Every handler of the mesh: importing this registers all of them."""

from __future__ import annotations

from meshtasks.flows.alerts import handler as alerts  # noqa: F401 - they register their handlers
from meshtasks.flows.archive import handler as archive  # noqa: F401 - they register their handlers
from meshtasks.flows.contract import HANDLERS
from meshtasks.flows.inference import handler as inference  # noqa: F401 - they register their handlers
from meshtasks.flows.metrics import handler as metrics  # noqa: F401 - they register their handlers
from meshtasks.flows.readings import handler as climate  # noqa: F401 - they register their handlers
from meshtasks.flows.webhooks import (
    home,  # noqa: F401 - they register their handlers
    motion,  # noqa: F401 - they register their handlers
)

__all__ = ("HANDLERS",)
