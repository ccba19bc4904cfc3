"""Which webhooks have taken a record that is not done yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshtasks.state.database import Database, StateLocation, upsert
from meshtasks.state.keys import storable, storables

SINK = "webhook_log"

#: Retries end after seven days; a dead letter may be replayed later than that.
KEEP_SECONDS = 30 * 86_400.0

_LOAD = "SELECT workflow FROM webhook_calls WHERE record = :record"
_NOTE = upsert("webhook_calls", ("record", "workflow"), ("at",))
_FORGET = "DELETE FROM webhook_calls WHERE at < :oldest"


class WebhookLog(Database):
    """The log in the state."""

    def __init__(self, location: StateLocation) -> None:
        super().__init__(SINK, location, "webhooks.sqlite")

    def taken(self, records: Iterable[str]) -> set[tuple[str, str]]:
        """The pairs of record id and workflow that are noted for these records.

        Raises:
            SinkUnavailable: the database cannot be read.
        """
        names = storables(records)
        with self.transaction() as db:
            return {
                (key, workflow)
                for name, key in names.items()
                for (workflow,) in db.execute(_LOAD, {"record": name})
            }

    def note(self, taken: Mapping[str, Iterable[str]], now: float) -> None:
        """Note the workflows that have taken a record, by record id.

        Args:
            taken: record id → names of workflows.
            now: epoch seconds.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        rows = [
            {"record": storable(record), "workflow": workflow, "at": now}
            for record, workflows in sorted(taken.items())
            for workflow in sorted(workflows)
        ]
        with self.transaction() as db:
            db.executemany(_NOTE, rows)
            db.execute(_FORGET, {"oldest": now - KEEP_SECONDS})
