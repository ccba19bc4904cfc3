"""Home Assistant itself as an entity: there, or not."""

from __future__ import annotations

import time
from typing import Any

from meshtasks.records.models import EntityState, StateChange
from producers.homeassistant.gap import rfc3339

ENTITY_ID = "mesh.home_assistant"


class Presence:
    """Whether the mesh hears Home Assistant, as changes of state like any other, so
    that workflows can be started by it and the archive tells when it was not."""

    def __init__(self) -> None:
        self._state: EntityState | None = None

    def connected(self, attributes: dict[str, Any]) -> StateChange:
        """It is heard.

        Args:
            attributes: what else there is to say.
        """
        return self._become("connected", attributes)

    def disconnected(self, reason: str) -> StateChange | None:
        """It is not heard; None if that is known already."""
        if self._state is not None and self._state["state"] == "disconnected":
            return None
        return self._become("disconnected", {"reason": reason})

    def _become(self, state: str, attributes: dict[str, Any]) -> StateChange:
        moment = rfc3339(time.time())
        # Of EntityState's fields, type checkers know but two.
        new: Any = {
            "entity_id": ENTITY_ID,
            "state": state,
            "attributes": {"friendly_name": "Home Assistant", **attributes},
            "last_changed": moment,
            "last_updated": moment,
        }
        old, self._state = self._state, new
        return {"entity_id": ENTITY_ID, "old_state": old, "new_state": new}
