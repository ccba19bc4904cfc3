"""State of this host in one SQLite file, shared by all its processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from meshtasks.config.private_files import make_private_database
from meshtasks.errors import SinkUnavailable
from meshtasks.timing import timing

BUSY_TIMEOUT_SECONDS = 5.0
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class SqliteFile:
    """A file in WAL mode, opened on first use.

    What a transaction wrote is durable once it has ended, power cuts included (but
    see ``disposable``). Not to be carried over a fork, nor used by two threads at
    once, nor on a network file system (the write-ahead log needs shared memory).

    Args:
        sink: name of the sink whose state it is, for errors.
        path: the file; its directory is made if missing.
        schema: statements that make its tables, separated by semicolons.
        shape: number of that schema, at least 1; a file of another one is refused.
            A file without a number gets the schema, and keeps what is in it.
        disposable: what is in it can be done without. Nothing waits for the disk
            then, so a power cut may take back the last transactions, and a file of
            another shape is begun afresh.
    """

    def __init__(
        self,
        sink: str,
        path: Path,
        schema: str,
        shape: int,
        *,
        disposable: bool = False,
    ) -> None:
        self._sink = sink
        self.path = path
        self._schema = schema
        self._shape = shape
        self._disposable = disposable
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock; if the block raises, nothing is written.

        Raises:
            SinkUnavailable: the file cannot be read or written, or another process
                held it for too long.
        """
        with timing(self._sink), self._translated():
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.rollback()
                raise

    def probe(self) -> None:
        """See whether the file can be written, on a connection of its own. One that
        others are writing to can.

        Raises:
            SinkUnavailable: it cannot.
        """
        with self._translated(), closing(self._connect()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise
            else:
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        try:
            make_private_database(self.path)
        except OSError as error:
            raise self._unavailable(error) from error
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,  # transactions are begun here, not by the driver
            check_same_thread=False,  # one thread at a time, but not always the same
        )
        try:
            _write_ahead(connection)
            synchronous = "NORMAL" if self._disposable else "FULL"
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            # Some builds of SQLite overwrite what is deleted, which takes long.
            connection.execute("PRAGMA secure_delete = OFF")
            self._make_tables(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        shape = self._shape_of(connection)
        if shape == 0 or (self._disposable and shape != self._shape):
            connection.execute("BEGIN IMMEDIATE")
            if self._shape_of(connection) == shape:  # no other process was faster
                if self._disposable:
                    _drop_tables(connection)
                for statement in self._schema.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._shape:d}")
            connection.execute("COMMIT")
        if self._shape_of(connection) != self._shape:
            message = (
                f"{self.path} is of another version of meshtasks; move it away to "
                "start afresh"
            )
            raise SinkUnavailable(self._sink, message)

    @staticmethod
    def _shape_of(connection: sqlite3.Connection) -> int:
        (shape,) = connection.execute("PRAGMA user_version").fetchone()
        return int(shape)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's faults as ours."""
        try:
            yield
        except sqlite3.Error as error:
            self.close()  # opened anew next time: the file may have been replaced
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> SinkUnavailable:
        message = f"{self.path}: {error} (is MESH_STATE_DIR right?)"
        return SinkUnavailable(self._sink, message)


def _drop_tables(connection: sqlite3.Connection) -> None:
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    for (name,) in connection.execute(tables).fetchall():
        connection.execute(f'DROP TABLE "{name}"')


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on.

    The file remembers that. SQLite does not wait for the lock it needs (two that
    turn it on would wait for each other), so the wait is here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
