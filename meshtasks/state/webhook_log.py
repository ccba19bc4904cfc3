"""Which webhooks have taken a record that is not done yet.

A record may start several workflows. If some calls succeed and others do not, the
record is retried, and the webhooks that have taken it are spared the repetition.
One SQLite file for all pool processes of a host: a record that is retried on
another host, or whose worker is killed between call and acknowledgement, is given to
all its webhooks again, with the same idempotency keys.

Nothing is noted of records that are done at once, which is nearly all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from meshtasks.state.sqlite import SqliteFile

SINK = "webhook_log"

#: Retries end after seven days; a dead letter may be replayed later than that.
KEEP_SECONDS = 30 * 86_400.0

_SHAPE = 1
_SCHEMA = """
CREATE TABLE taken (
    record TEXT NOT NULL, workflow TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (record, workflow)
) WITHOUT ROWID;
CREATE INDEX taken_at ON taken (at)
"""
_LOAD = """
SELECT record, workflow FROM taken WHERE record IN (SELECT value FROM json_each(?))
"""
_NOTE = "INSERT OR REPLACE INTO taken (record, workflow, at) VALUES (?, ?, ?)"
_FORGET = "DELETE FROM taken WHERE at < ?"


class WebhookLog(SqliteFile):
    """The file.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(SINK, path, _SCHEMA, _SHAPE)

    def taken(self, records: Iterable[str]) -> set[tuple[str, str]]:
        """The pairs of record id and workflow that are noted for these records.

        Raises:
            SinkUnavailable: the file cannot be read.
        """
        with self.transaction() as connection:
            return set(connection.execute(_LOAD, (json.dumps(list(records)),)))

    def note(self, taken: Mapping[str, Iterable[str]], now: float) -> None:
        """Note the workflows that have taken a record, by record id.

        Args:
            taken: record id → names of workflows.
            now: epoch seconds.

        Raises:
            SinkUnavailable: the file cannot be written.
        """
        rows = [
            (record, workflow, now)
            for record, workflows in taken.items()
            for workflow in workflows
        ]
        with self.transaction() as connection:
            connection.executemany(_NOTE, rows)
            connection.execute(_FORGET, (now - KEEP_SECONDS,))
