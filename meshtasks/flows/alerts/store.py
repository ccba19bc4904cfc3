"""How alerts stand, who was told what, and when to look at them again.

One SQLite file for all workers of the host. What belongs together happens within
one transaction (see :mod:`meshtasks.flows.alerts.service`); sending happens outside, by
whoever has claimed the group for so long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtasks.flows.alerts.tables import AlertTables
from meshtasks.flows.sinks import SinkKey
from meshtasks.state.sqlite import SqliteFile

#: The sink's name in handlers, circuits and errors.
SINK = "alert_state"

_SHAPE = 1
_SCHEMA = """
CREATE TABLE alerts (
    fingerprint TEXT PRIMARY KEY, state TEXT NOT NULL,
    firing INTEGER NOT NULL, heard_at REAL NOT NULL, ends_at REAL
) WITHOUT ROWID;
CREATE INDEX alerts_firing ON alerts (firing, heard_at);
CREATE TABLE groups (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, tag TEXT NOT NULL UNIQUE,
    wake_at REAL, urgency INTEGER NOT NULL DEFAULT 0,
    claimed_until REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX groups_wake ON groups (wake_at);
CREATE TABLE members (
    group_id TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    fingerprint TEXT NOT NULL REFERENCES alerts (fingerprint) ON DELETE CASCADE,
    told TEXT NOT NULL,
    PRIMARY KEY (group_id, fingerprint)
) WITHOUT ROWID;
CREATE INDEX members_alert ON members (fingerprint);
CREATE TABLE seen (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE silences (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, ends_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE events (number INTEGER PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID
"""


class AlertStore:
    """The file.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SqliteFile(SINK, path, _SCHEMA, _SHAPE)

    @contextmanager
    def transaction(self) -> Iterator[AlertTables]:
        """Hold the tables; if the block raises, nothing is written.

        Raises:
            SinkUnavailable: the file cannot be read or written, or another process
                held it for too long.
        """
        with self._file.transaction() as connection:
            yield AlertTables(connection)

    def probe(self) -> None:
        """See whether the file can be written.

        Raises:
            SinkUnavailable: it cannot.
        """
        self._file.probe()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


#: The alerts that are known, and what was sent of them.
ALERT_STATE = SinkKey(
    "alert_state",
    lambda sinks: AlertStore(sinks.settings.env.state_dir / "alerts.sqlite"),
)
