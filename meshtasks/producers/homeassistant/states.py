"""The known states of the house, to find after a gap what has changed in it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ValidationError

from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.producers.base import Producer
from meshtasks.producers.homeassistant.frames import CurrentState
from meshtasks.records.models import EntityState, StateChange, explain

logger = logging.getLogger(__name__)

_SAVE_INTERVAL_SECONDS = 300.0


class _Saved(BaseModel):
    heard_at: float
    states: dict[str, EntityState]


class KnownStates:
    """The last known state of every entity, kept in a file over restarts.

    Attributes:
        heard_at: until when the states are known, epoch seconds; None when nothing
            is known yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, EntityState] = {}
        self._saved_at = time.monotonic()
        self.heard_at: float | None = None

    def load(self) -> None:
        """Read the file. One that cannot be read is passed over: then this is the
        first start."""
        try:
            saved = _Saved.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else error
            logger.warning(
                "%s cannot be used, so what changed since the last run stays "
                "unknown: %s",
                self._path,
                reason,
            )
            return
        self.heard_at, self._states = saved.heard_at, saved.states

    def save(self) -> None:
        """Write the file. A failure is logged: only the next start needs the file."""
        self._saved_at = time.monotonic()
        if self.heard_at is None:
            return
        try:
            make_private_directory(self._path.parent)
            known = {"heard_at": self.heard_at, "states": self._states}
            replace_private(self._path, json.dumps(known) + "\n")
        except OSError as error:
            logger.warning("the states of the house could not be saved: %s", error)

    def save_confirmed(self, producer: Producer) -> None:
        """Write the file if it is five minutes old (more often would wear out a memory
        card), and the broker has confirmed all that came of the states.

        So whatever is in the file is in the mesh: after a crash, what was on its way is
        found to have changed, and published again with the same message ids.
        """
        is_old = time.monotonic() - self._saved_at >= _SAVE_INTERVAL_SECONDS
        if is_old and not producer.counts().unresolved:
            self.save()

    def apply(self, change: StateChange) -> None:
        """Take in a change of state."""
        if new := change.get("new_state"):
            self._states[change["entity_id"]] = new
        else:
            self._states.pop(change["entity_id"], None)

    def compare(
        self, present: Sequence[CurrentState], *, complete: bool
    ) -> list[StateChange]:
        """Take in all present states; the changes from what was known of them.

        Args:
            complete: what is not among the present states has been removed.
        """
        changes: list[StateChange] = []
        for state in present:
            entity_id = state["entity_id"]
            old = self._states.get(entity_id)
            if old is None or old.get("last_updated") != state["last_updated"]:
                new = cast("EntityState", state)
                changes.append(
                    {"entity_id": entity_id, "old_state": old, "new_state": new}
                )
        if complete:
            there = {state["entity_id"] for state in present}
            changes += [
                {"entity_id": entity_id, "old_state": old, "new_state": None}
                for entity_id, old in self._states.items()
                if entity_id not in there
            ]
        for change in changes:
            self.apply(change)
        return changes
