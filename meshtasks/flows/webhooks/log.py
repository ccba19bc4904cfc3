"""Log of successful webhook calls for records that are not yet done. It is a separate
module because it loads SQLAlchemy and few workers need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import bindparam, delete, select

from meshtasks.state.database import Database, StateLocation
from meshtasks.state.tables import WEBHOOK_CALLS, put, storable, storables

SINK = "webhook_log"

#: Retries end after seven days; dead letters may be replayed later.
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
        """Return the logged pairs of record id and workflow of these records.

        Raises:
            SinkUnavailable: the database cannot be read.
        """
        names = storables(records)
        with self.transaction() as connection:
            rows = connection.execute(_LOAD, {"records": list(names)})
            return {(names[record], workflow) for record, workflow in rows}

    def note(self, taken: Mapping[str, Iterable[str]], now: float) -> None:
        """Log successful calls, and delete entries older than ``KEEP_SECONDS``.

        Args:
            taken: names of the workflows that were called, by record id.
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
