"""Which webhooks have taken a record that is not done yet; a module of its own, since
nearly no worker needs it and it loads SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import bindparam, delete, select

from meshtasks.state.database import Database, StateLocation, put
from meshtasks.state.tables import WEBHOOK_CALLS, storable, storables

SINK = "webhook_log"

#: Retries end after seven days; a dead letter may be replayed later than that.
KEEP_SECONDS = 30 * 86_400.0

_CALLS = WEBHOOK_CALLS.c
_LOAD = select(_CALLS.record, _CALLS.workflow).where(
    _CALLS.record.in_(bindparam("records", expanding=True))
)
_FORGET = delete(WEBHOOK_CALLS).where(_CALLS.at < bindparam("oldest"))


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
        with self.transaction() as connection:
            rows = connection.execute(_LOAD, {"records": list(names)})
            return {(names[record], workflow) for record, workflow in rows}

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
        with self.transaction() as connection:
            if rows:
                connection.execute(put(connection, WEBHOOK_CALLS), rows)
            connection.execute(_FORGET, {"oldest": now - KEEP_SECONDS})
