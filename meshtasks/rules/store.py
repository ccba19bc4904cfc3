"""What the anomaly rules remember, shared by all workers.

One transaction a batch: states are loaded, evaluated and stored while nobody else can
have them, so batches of one series follow one another. In SQLite that is the write lock
of the file; for 50 series it takes 0.6 ms, and 1.2 ms for 100, two thirds of it for the
JSON of the windows of deviation rules. In PostgreSQL the rows of the series are locked,
in the order of their keys, so that no two batches wait for each other.

While no worker runs the states may be deleted: rules then start afresh, and an alert
that is still due is given once more.
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

#: A series that was silent for longer is forgotten.
KEEP_SECONDS = 30 * 86_400.0
#: Publishers choose the sensor ids; of more series than this the latest are kept.
KEEP_SERIES = 100_000
PRUNE_EVERY_SECONDS = 3_600.0

_SQLITE_LOAD = """
SELECT key, state FROM rule_states WHERE key IN (SELECT value FROM json_each(?))
"""
_SQLITE_STORE = """
INSERT OR REPLACE INTO rule_states (key, state, updated_at) VALUES (?, ?, ?)
"""

#: A row that is not there cannot be locked, so an empty one is made first.
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

#: What another batch has at the moment is left: to wait for it could be to wait for
#: each other.
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

    Opens its database on first use. Not to be carried over a fork, nor used by two
    threads at once.

    Args:
        location: where the state is.
    """

    def __init__(self, location: StateLocation) -> None:
        # A power cut may take back the last batches; then an alert may be given
        # again.
        self._database = Database(
            "rule_state", location, "rules.sqlite", disposable=True
        )
        self._next_prune = 0.0

    def now(self) -> float:
        """Epoch seconds, by the clock of all who share the states.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        return self._database.now()

    @contextmanager
    def transaction(
        self, keys: Iterable[str], now: float
    ) -> Iterator[dict[str, SeriesState]]:
        """Hold the states of some series; what is assigned is stored at the end.

        If the block raises, nothing is stored. Whatever must happen before the
        states count (publishing alerts) belongs inside the block: a crash then
        repeats it, and never loses it.

        Args:
            keys: of the series to load, and of no others is a state stored; the new
                ones have none yet.
            now: epoch seconds.

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
        """See whether the database can be written, on a connection of its own.

        Raises:
            SinkUnavailable: it cannot.
        """
        self._database.probe()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    @contextmanager
    def _held(
        self, names: Iterable[str], now: float
    ) -> Iterator[tuple[Connection, list[tuple[str, str]]]]:
        """The rows of these keys, within a transaction that alone has them."""
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
