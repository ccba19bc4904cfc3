"""producers.homeassistant.states."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, ValidationError

from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.records.models import EntityState, StateChange, explain
from producers.base import Producer
from producers.homeassistant.frames import CurrentState

logger = logging.getLogger(__name__)

_SAVE_INTERVAL_SECONDS = 300.0


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True)

    heard_at: float
    states: dict[str, EntityState]


class Memory:
    """The last known state of every entity, kept in a file over restarts.

    Args:
        path: of the file.

    Attributes:
        heard_at: until when the states are known, epoch seconds; None when nothing
            is known yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: dict[str, EntityState] = {}
        self.heard_at: float | None = None

    def load(self) -> None:
        """Take up what is in the file. One that cannot be read is passed over: then
        this is the first start."""
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
        """Write the file. That it cannot be written is logged: the producer does
        its work without, but for its next start."""
        if self.heard_at is None:
            return
        try:
            make_private_directory(self._path.parent)
            known = {"heard_at": self.heard_at, "states": self._states}
            replace_private(self._path, json.dumps(known) + "\n")
        except OSError as error:
            logger.warning("the states of the house could not be saved: %s", error)

    def learn(self, change: StateChange) -> None:
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
            present: the states of now.
            complete: whether they are all that there are: what is not among them
                has been removed.
        """
        changes: list[StateChange] = []
        for state in present:
            old = self._states.get(state["entity_id"])
            if old is None or old.get("last_updated") != state["last_updated"]:
                new = cast("EntityState", state)
                changes.append(
                    {
                        "entity_id": state["entity_id"],
                        "old_state": old,
                        "new_state": new,
                    }
                )
        if complete:
            there = {state["entity_id"] for state in present}
            changes += [
                {"entity_id": entity_id, "old_state": old, "new_state": None}
                for entity_id, old in self._states.items()
                if entity_id not in there
            ]
        for change in changes:
            self.learn(change)
        return changes


class Keeper:
    """Saves a memory now and then, while the broker has confirmed all that came of it.

    So whatever is in the file is in the mesh: after a crash, what was on its way is
    found to have changed, and published again with the same message ids.

    Args:
        memory: to save.
        producer: whose confirms count.
    """

    def __init__(self, memory: Memory, producer: Producer) -> None:
        self._memory = memory
        self._producer = producer
        self._saved_at = time.monotonic()

    def __call__(self) -> None:
        """Save it if the file is five minutes old: to write all states of a house
        more often wears a memory card out."""
        is_old = time.monotonic() - self._saved_at >= _SAVE_INTERVAL_SECONDS
        if is_old and not self._producer.counts().unsettled:
            self._memory.save()
            self._saved_at = time.monotonic()
