r"""Which records this host has archived, so that none is archived twice.

A message is delivered again when its worker died, or lost its connection, between
storing the record and acknowledging the message. It then comes in a batch with
other neighbours, so the object's name does not show the repetition; the record's
id does. The journal keeps the ids of stored records and, before an object is put,
the intent to do so::

    (unknown) --intend--> pending --finish--> stored
                             \----forget---> (unknown)
                             \---set aside--> (unknown), and the object is damaged

Every step is durable before the next begins. A pending object found by the next
holder of the journal means that the one before was killed or lost touch with the
store, and a look into the store tells whether the object is there, and sound. One
that is there and damaged is noted as such and else forgotten: its messages were never
acknowledged, so they come again, and their records are stored in another object.

One process of the host at a time holds the journal, from looking up ids to having
noted the objects as stored; so two processes given the same message cannot both
find it new.

Across hosts there is no such lock: when a message is delivered again to another
host, both may store its records, under the same ids. Readers for whom that matters
keep one record per id.

The size is bounded: ids go into a generation; when it has a million ids, or is eight
days old (a message that keeps failing is given up after seven), the one before is
dropped and a new one begun. So an id is known for eight days, or for a million
records if those come sooner, and the file stays below 200 MB.

Measured with two million ids in it: looking up and storing 5,000 takes 12 ms when
they sort by time, as the mesh's own do, and 200 ms when they are random (UUIDv4),
because each then falls on a page of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from sqlite3 import Connection

from typing_extensions import override

from meshtasks.errors import SinkUnavailable
from meshtasks.state.lock import file_lock
from meshtasks.state.sqlite import SqliteFile

#: The sink's name in handlers, circuits and errors.
SINK = "journal"

_GENERATION_SECONDS = 8 * 86_400.0
_GENERATION_IDS = 1_000_000
#: Longest wait for another process to finish its batch: about what its calls to the
#: object store can take at worst.
_HOLD_TIMEOUT_SECONDS = 120.0

_SHAPE = 1
#: Files of earlier versions have no number of their shape, and these tables. The one
#: row of "generation" is about the table "current".
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pending (name TEXT PRIMARY KEY, ids TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS damaged (name TEXT PRIMARY KEY, fault TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS previous (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS current (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS generation (
    row INTEGER PRIMARY KEY CHECK (row = 1),
    started_at REAL NOT NULL,
    ids INTEGER NOT NULL,
    probed_at REAL
)
"""
_STORED = """
SELECT key FROM json_each(?)
WHERE value IN (SELECT id FROM current) OR value IN (SELECT id FROM previous)
"""
_COPY = """
INSERT OR IGNORE INTO current
SELECT value FROM pending, json_each(pending.ids) WHERE name = ?
"""
_COUNT = """
INSERT INTO generation (row, started_at, ids) VALUES (1, ?, ?)
ON CONFLICT (row) DO UPDATE SET ids = ids + excluded.ids
RETURNING started_at, ids
"""
_PROBE = """
INSERT INTO generation (row, started_at, ids, probed_at) VALUES (1, ?1, 0, ?1)
ON CONFLICT (row) DO UPDATE SET probed_at = excluded.probed_at
"""
_NEXT_GENERATION = (
    "DROP TABLE previous",
    "ALTER TABLE current RENAME TO previous",
    "CREATE TABLE current (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "DELETE FROM generation",
)


class ArchiveJournal(SqliteFile):
    """The journal in one SQLite file, shared by all processes of the host.

    All methods raise :class:`~meshtasks.errors.SinkUnavailable` when the
    file cannot be read or written.

    Args:
        path: the file, see :class:`~meshtasks.state.sqlite.SqliteFile`.
        generation_ids: ids after which a generation is full.
        clock: gives epoch seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        generation_ids: int = _GENERATION_IDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Durable: a step that a power cut undoes would store records twice.
        super().__init__(SINK, path, _SCHEMA, _SHAPE)
        self._generation_ids = generation_ids
        self._clock = clock

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out; all methods below are called within.

        A process that dies lets go. Waits for its turn, for two minutes at most.

        Raises:
            SinkUnavailable: another process has held it all that time.
        """
        path = self.path.with_suffix(".lock")
        lock = file_lock(path, timeout_seconds=_HOLD_TIMEOUT_SECONDS)
        with ExitStack() as stack:
            try:
                held = stack.enter_context(lock)
            except OSError as error:
                message = f"{path}: {error} (is MESH_STATE_DIR right?)"
                raise SinkUnavailable(SINK, message) from error
            if not held:
                message = (
                    f"another process has held {path} for more than "
                    f"{_HOLD_TIMEOUT_SECONDS:g} s"
                )
                raise SinkUnavailable(SINK, message)
            yield

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that stand in objects already stored."""
        with self.transaction() as db:
            return {ids[key] for (key,) in db.execute(_STORED, (_as_json(ids),))}

    def pending(self) -> list[str]:
        """Names of objects that were to be put, with unknown result."""
        with self.transaction() as db:
            return [name for (name,) in db.execute("SELECT name FROM pending")]

    def intend(self, objects: Mapping[str, Sequence[str]]) -> None:
        """Note that these objects are about to be put: name and ids of each."""
        rows = [(name, _as_json(ids)) for name, ids in objects.items()]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", rows)

    def finish(self, names: Collection[str]) -> None:
        """Note that these pending objects are stored."""
        now = self._clock()
        with self.transaction() as db:
            count = sum(db.execute(_COPY, (name,)).rowcount for name in names)
            _forget(db, names)
            rows = [(name,) for name in names]
            db.executemany("DELETE FROM damaged WHERE name = ?", rows)
            ((started_at, ids),) = db.execute(_COUNT, (now, count)).fetchall()
            if ids >= self._generation_ids or now - started_at >= _GENERATION_SECONDS:
                for statement in _NEXT_GENERATION:
                    db.execute(statement)

    def forget(self, names: Iterable[str]) -> None:
        """Note that these pending objects are not stored and will not be."""
        with self.transaction() as db:
            _forget(db, names)

    def set_aside(self, name: str, fault: str) -> None:
        """Note that this pending object is in the store and damaged."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", (name, fault))
            _forget(db, [name])

    def damaged(self) -> dict[str, str]:
        """What is wrong with the objects that were set aside, by name, until an
        object of that name is stored."""
        with self.transaction() as db:
            return dict(db.execute("SELECT name, fault FROM damaged"))

    @override
    def probe(self) -> None:
        """Write to the file.

        Raises:
            SinkUnavailable: that failed, so the disk is full or read-only, say.
        """
        with self.transaction() as db:
            db.execute(_PROBE, (self._clock(),))


def _forget(db: Connection, names: Iterable[str]) -> None:
    db.executemany("DELETE FROM pending WHERE name = ?", [(name,) for name in names])


def _as_json(ids: Sequence[str]) -> str:
    """An array for SQLite's JSON functions, to which NUL would be the end."""
    return json.dumps(ids).replace("\\u0000", "\\ufffd")
