"""States of the anomaly rules, shared by all workers.

Each batch loads, evaluates and stores its states in one transaction that locks them, so
batches of one series run one after the other. In SQLite the lock is the write lock of
the file. A transaction takes 0.6 ms for 50 series and 1.2 ms for 100, two thirds of it
for the JSON of the windows of deviation rules. In PostgreSQL the rows of the series are
locked in the order of their keys, which prevents deadlocks.

The states may be deleted while no worker runs: rules then start from the beginning, and
an alert that is still due is raised once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydantic_core import from_json, to_json  # 3 to 7 times as fast as json
from sqlalchemy import Connection, text

from meshtasks.rules.evaluation import SeriesState
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.tables import storables

#: The state of a series is deleted after this many seconds without a reading.
KEEP_SECONDS = 30 * 86_400.0
#: Most series that are kept, the latest ones. There must be a bound, since publishers
#: choose the sensor ids.
KEEP_SERIES = 100_000
#: Seconds between two deletions of old states.
PRUNE_EVERY_SECONDS = 3_600.0

_SQLITE_LOAD = """
SELECT key, state FROM rule_states WHERE key IN (SELECT value FROM json_each(?))
"""
_SQLITE_STORE = """
INSERT OR REPLACE INTO rule_states (key, state, updated_at) VALUES (?, ?, ?)
"""

#: Only existing rows can be locked, so missing ones are inserted empty first.
_MAKE = text("""
INSERT INTO rule_states (key, state, updated_at)
SELECT unnest(CAST(:keys AS text[])), '', :now
ON CONFLICT DO NOTHING
""")
_LOCK = text("""
SELECT key, state FROM rule_states WHERE key = ANY(CAST(:keys AS text[]))
ORDER BY key COLLATE "C" FOR UPDATE
""")
_STORE = text("""
UPDATE rule_states SET state = new.state, updated_at = :now
FROM unnest(CAST(:keys AS text[]), CAST(:states AS text[])) AS new (key, state)
WHERE rule_states.key = new.key
""")

#: Skips rows that another batch has locked: waiting for them could be a deadlock.
_FORGET = """
DELETE FROM rule_states WHERE key IN (
    SELECT key FROM rule_states WHERE {condition} {lock}
)
"""
_SILENT = "updated_at < :oldest"
_SURPLUS = """
key IN (
    SELECT key FROM rule_states ORDER BY updated_at DESC
    LIMIT 9000000000000000 OFFSET :keep
)
"""


class RuleStateStore:
    """The states of all series.

    The database is opened on first use. Do not use an instance after a fork, or in two
    threads at once.

    Args:
        location: where the state is.
    """

    def __init__(self, location: StateLocation) -> None:
        # Disposable: a power cut may undo the last batches. At worst an alert is raised
        # again.
        self._database = Database(
            "rule_state", location, "rules.sqlite", disposable=True
        )
        self._next_prune = 0.0

    def now(self) -> float:
        """Current time in epoch seconds, by the clock of the state's database.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        return self._database.now()

    @contextmanager
    def transaction(
        self, keys: Iterable[str], now: float
    ) -> Iterator[dict[str, SeriesState]]:
        """Lock and load the states of some series; store changed ones after the block.

        If the block raises, nothing is stored. Publish alerts inside the block: then a
        crash may repeat them but not lose them.

        Args:
            keys: keys of the series. States of other series are not stored.
            now: current time in epoch seconds.

        Yields:
            States by key, without those of new series. Assign new states to it.

        Raises:
            SinkUnavailable: the database cannot be read or written.
        """
        names = storables(keys)
        with self._held(names, now) as (connection, rows):
            loaded = {names[name]: from_json(state) for name, state in rows if state}
            states = dict(loaded)
            yield states
            changed = [
                (name, to_json(state).decode(), now)
                for name, key in names.items()
                if (state := states.get(key)) is not loaded.get(key)
            ]
            self._store(connection, changed, now)
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_EVERY_SECONDS
            self._prune(now)

    def probe(self) -> None:
        """Check that the database can be written, on a separate connection.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        self._database.probe()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    @contextmanager
    def _held(
        self, names: Iterable[str], now: float
    ) -> Iterator[tuple[Connection, list[tuple[str, str]]]]:
        """Lock the rows of these keys for a transaction, and yield them."""
        if not self._database.is_shared:
            with self._database.transaction() as connection:
                wanted = json.dumps(list(names))
                found = self._database.sqlite.execute(_SQLITE_LOAD, (wanted,))
                yield connection, found.fetchall()
            return
        keys = sorted(names)
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(_LOCK, {"keys": keys}).all()
                if len(rows) == len(keys):
                    yield connection, [(key, state) for key, state in rows]
                    return
            with self._database.transaction() as connection:
                missing = sorted(set(keys) - {key for key, _ in rows})
                connection.execute(_MAKE, {"keys": missing, "now": now})

    def _store(
        self, connection: Connection, changed: list[tuple[str, str, float]], now: float
    ) -> None:
        if not self._database.is_shared:
            self._database.sqlite.executemany(_SQLITE_STORE, changed)
        elif changed:
            keys, states, _ = zip(*changed, strict=True)
            values = {"keys": list(keys), "states": list(states), "now": now}
            connection.execute(_STORE, values)

    def _prune(self, now: float) -> None:
        lock = "FOR UPDATE SKIP LOCKED" if self._database.is_shared else ""
        values = {"oldest": now - KEEP_SECONDS, "keep": KEEP_SERIES}
        for condition, name in ((_SILENT, "oldest"), (_SURPLUS, "keep")):
            statement = text(_FORGET.format(condition=condition, lock=lock))
            with self._database.transaction() as connection:
                connection.execute(statement, {name: values[name]})
