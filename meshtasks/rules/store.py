"""What the anomaly rules remember, shared by all pool processes of a host.

One SQLite file in WAL mode, one write transaction per batch: states are loaded,
evaluated and stored under the write lock, so batches of one series follow one
another. That takes 0.6 ms for 50 series and 1.2 ms for 100, two thirds of it for
the JSON of the windows of deviation rules.

While no worker runs the file may be deleted: rules then start afresh, and an alert
that is still due is given once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic_core import from_json, to_json  # 3 to 7 times as fast as json

from meshtasks.rules.evaluation import SeriesState
from meshtasks.state.sqlite import SqliteFile

#: Shape of the states; a file of another shape is begun afresh.
_SHAPE = 1
#: A series that was silent for longer is forgotten.
KEEP_SECONDS = 30 * 86_400.0
#: Publishers choose the sensor ids; of more series than this the latest are kept.
KEEP_SERIES = 100_000
PRUNE_EVERY_SECONDS = 3_600.0

_SCHEMA = """
CREATE TABLE series (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, updated_at REAL NOT NULL
) WITHOUT ROWID
"""
_LOAD = """
SELECT key, state FROM series WHERE key IN (SELECT value FROM json_each(?))
"""
_STORE = "INSERT OR REPLACE INTO series (key, state, updated_at) VALUES (?, ?, ?)"
_FORGET_SILENT = "DELETE FROM series WHERE updated_at < ?"
_FORGET_SURPLUS = """
DELETE FROM series
WHERE key IN (SELECT key FROM series ORDER BY updated_at DESC LIMIT -1 OFFSET ?)
"""


class RuleStateStore:
    """The states of all series.

    Opens its file on first use. Not to be carried over a fork, nor used by two
    threads at once.

    Args:
        path: the SQLite file; its directory is created when missing.
    """

    def __init__(self, path: Path) -> None:
        # A power cut may take back the last batches; then an alert may be given
        # again.
        self._file = SqliteFile("rule_state", path, _SCHEMA, _SHAPE, disposable=True)
        self._next_prune = 0.0

    @contextmanager
    def transaction(
        self, keys: Iterable[str], now: float
    ) -> Iterator[dict[str, SeriesState]]:
        """Hold the states of some series; what is assigned is stored at the end.

        If the block raises, nothing is stored. Whatever must happen before the
        states count (publishing alerts) belongs inside the block: a crash then
        repeats it, and never loses it.

        Args:
            keys: of the series to load; the new ones have no state yet.
            now: epoch seconds.

        Raises:
            SinkUnavailable: the file cannot be read or written.
        """
        with self._file.transaction() as connection:
            rows = connection.execute(_LOAD, (json.dumps(list(keys)),))
            loaded = {key: from_json(state) for key, state in rows}
            states = dict(loaded)
            yield states
            changed = [
                (key, to_json(state).decode(), now)
                for key, state in states.items()
                if state is not loaded.get(key)
            ]
            connection.executemany(_STORE, changed)
            if now >= self._next_prune:
                self._next_prune = now + PRUNE_EVERY_SECONDS
                connection.execute(_FORGET_SILENT, (now - KEEP_SECONDS,))
                connection.execute(_FORGET_SURPLUS, (KEEP_SERIES,))

    def probe(self) -> None:
        """See whether the file can be written, on a connection of its own.

        Raises:
            SinkUnavailable: it cannot.
        """
        self._file.probe()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
