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

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

from meshtasks.config.private_files import (
    make_private_database,
    make_private_directory,
    private_opener,
)
from meshtasks.errors import SinkUnavailable
from meshtasks.timing import timing

#: The sink's name in handlers, circuits and errors.
SINK = "journal"

_GENERATION_SECONDS = 8 * 86_400.0
_GENERATION_IDS = 1_000_000
#: Longest wait for another process to finish its batch: about what its calls to the
#: object store can take at worst.
_HOLD_TIMEOUT_SECONDS = 120.0
_HOLD_POLL_SECONDS = 0.02

_PREPARE = """
PRAGMA journal_mode = WAL;
-- A step that power failure undoes would store records twice.
PRAGMA synchronous = FULL;
-- Some builds overwrite what is dropped; these ids are no secret.
PRAGMA secure_delete = OFF;
CREATE TABLE IF NOT EXISTS pending (name TEXT PRIMARY KEY, ids TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS damaged (name TEXT PRIMARY KEY, fault TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS previous (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS current (id TEXT PRIMARY KEY) WITHOUT ROWID;
-- Of the table "current"; always one row.
CREATE TABLE IF NOT EXISTS generation (
    row INTEGER PRIMARY KEY CHECK (row = 1),
    started_at REAL NOT NULL,
    ids INTEGER NOT NULL,
    probed_at REAL
);
"""

_NEXT_GENERATION = (
    "DROP TABLE previous",
    "ALTER TABLE current RENAME TO previous",
    "CREATE TABLE current (id TEXT PRIMARY KEY) WITHOUT ROWID",
)


class ArchiveJournal:
    """The journal in one SQLite file, shared by all processes of the host.

    All methods raise :class:`~meshtasks.errors.SinkUnavailable` when the
    file cannot be read or written. It is opened on first use, and an instance is
    for one thread at a time.

    Args:
        path: the file; it and its directory are made if missing. Not on a network
            file system (SQLite's write-ahead log needs shared memory).
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
        self._path = path
        self._generation_ids = generation_ids
        self._clock = clock

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out; all methods below are called within.

        A process that dies lets go. Waits for its turn, for two minutes at most.

        Raises:
            SinkUnavailable: another process has held it all that time.
        """
        with self._faults():
            file = self._lock()
        with file:
            yield

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that stand in objects already stored."""
        query = """
            SELECT key FROM json_each(?)
            WHERE value IN (SELECT id FROM current)
            OR value IN (SELECT id FROM previous)
        """
        with self._faults():
            return {ids[key] for (key,) in self._db.execute(query, (_as_json(ids),))}

    def pending(self) -> list[str]:
        """Names of objects that were to be put, with unknown result."""
        with self._faults():
            return [name for (name,) in self._db.execute("SELECT name FROM pending")]

    def intend(self, objects: Mapping[str, Sequence[str]]) -> None:
        """Note that these objects are about to be put: name and ids of each."""
        rows = [(name, _as_json(ids)) for name, ids in objects.items()]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", rows)

    def finish(self, names: Collection[str]) -> None:
        """Note that these pending objects are stored."""
        copy = """
            INSERT OR IGNORE INTO current
            SELECT value FROM pending, json_each(pending.ids) WHERE name = ?
        """
        with self._transaction() as db:
            for name in names:
                count = db.execute(copy, (name,)).rowcount
                db.execute("UPDATE generation SET ids = ids + ?", (count,))
            _forget(db, names)
            rows = [(name,) for name in names]
            db.executemany("DELETE FROM damaged WHERE name = ?", rows)
            self._turn_over(db)

    def forget(self, names: Iterable[str]) -> None:
        """Note that these pending objects are not stored and will not be."""
        with self._transaction() as db:
            _forget(db, names)

    def set_aside(self, name: str, fault: str) -> None:
        """Note that this pending object is in the store and damaged."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", (name, fault))
            _forget(db, [name])

    def damaged(self) -> dict[str, str]:
        """What is wrong with the objects that were set aside, by name, until an
        object of that name is stored."""
        with self._faults():
            return dict(self._db.execute("SELECT name, fault FROM damaged"))

    def probe(self) -> None:
        """Write to the file.

        Raises:
            SinkUnavailable: that failed, so the disk is full or read-only, say.
        """
        with self._transaction() as db:
            db.execute("UPDATE generation SET probed_at = ?", (self._clock(),))

    def close(self) -> None:
        """Close the file; the journal is not used afterwards."""
        if "_db" in self.__dict__:
            self._db.close()

    @cached_property
    def _db(self) -> sqlite3.Connection:
        make_private_database(self._path)
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(_PREPARE)
            first = (1, self._clock(), 0)
            db.execute(
                "INSERT OR IGNORE INTO generation (row, started_at, ids) "
                "VALUES (?, ?, ?)",
                first,
            )
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _lock(self) -> IO[str]:
        """The lock file, locked until it is closed."""
        path = self._path.with_suffix(".lock")
        make_private_directory(path.parent)
        deadline = time.monotonic() + _HOLD_TIMEOUT_SECONDS
        with ExitStack() as on_fault:
            file = on_fault.enter_context(open(path, "a", opener=private_opener))
            while not _locks(file.fileno()):
                if time.monotonic() > deadline:
                    message = (
                        f"another process has held {path} for more than "
                        f"{_HOLD_TIMEOUT_SECONDS:g} s"
                    )
                    raise SinkUnavailable(SINK, message)
                time.sleep(_HOLD_POLL_SECONDS)
            on_fault.pop_all()
            return file

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with timing(SINK), self._faults(), self._db as db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            message = (
                f"archive journal {self._path}: {error} (is MESH_STATE_DIR right?)"
            )
            raise SinkUnavailable(SINK, message) from error

    def _turn_over(self, db: sqlite3.Connection) -> None:
        """Begin a new generation if this one is full or old."""
        row = db.execute("SELECT started_at, ids FROM generation").fetchone()
        started_at, count = row
        now = self._clock()
        if count < self._generation_ids and now - started_at < _GENERATION_SECONDS:
            return
        for statement in _NEXT_GENERATION:
            db.execute(statement)
        db.execute("UPDATE generation SET started_at = ?, ids = 0", (now,))


def _locks(descriptor: int) -> bool:
    """Try to take the lock; it is let go when the file is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget(db: sqlite3.Connection, names: Iterable[str]) -> None:
    db.executemany("DELETE FROM pending WHERE name = ?", [(name,) for name in names])


def _as_json(ids: Sequence[str]) -> str:
    """An array for SQLite's JSON functions, to which NUL would be the end."""
    return json.dumps(ids).replace("\\u0000", "\\ufffd")
