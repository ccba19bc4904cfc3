"""A connection to the database of the state: what both kinds can do, and that to a
SQLite file, by the driver alone (SQLAlchemy takes 17 MB)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meshtasks.config.private_files import make_private_database

if TYPE_CHECKING:  # slow
    from sqlalchemy import Connection

#: Of the tables: the last of the migrations. Their numbers rise.
REVISION = "0002"
VERSION = "SELECT version_num FROM alembic_version"
NOTE_VERSION = f"INSERT INTO alembic_version VALUES ('{REVISION}')"  # noqa: S608 - ours
#: First half of the advisory locks of PostgreSQL that are ours ("mesh").
LOCK_CLASS = 0x6D657368

#: The longest wait for another process that writes to the file.
BUSY_TIMEOUT_SECONDS = 15.0


class Rows(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """How many it changed."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any:
        """The next, None after the last."""

    def fetchall(self) -> Sequence[Any]:
        """All that are left."""


class Transaction(Protocol):
    """Runs statements of SQL; values have names in both databases (``:name``)."""

    def execute(self, sql: str, values: Any = (), /) -> Rows:
        """Run it."""

    def executemany(self, sql: str, rows: Iterable[Any], /) -> object:
        """Run it with each of these values."""


class Link(Protocol):
    """A connection. Not to be carried over a fork, nor used by two threads at once."""

    def transaction(
        self, exclusive: str | None = None
    ) -> AbstractContextManager[Transaction]:
        """Read and write; if the block raises, nothing is written.

        Args:
            exclusive: no other transaction of this name at the same time.
        """

    def snapshot(self) -> AbstractContextManager[Transaction]:
        """Read everything as it is at one moment; keeps nobody from writing."""

    def alone(self, what: int) -> AbstractContextManager[Transaction]:
        """A transaction that no other host and process makes at the same time.

        Args:
            what: number of what is done.
        """

    def alchemy(self) -> AbstractContextManager[Connection]:
        """The same connection for SQLAlchemy. Transactions are begun and ended here,
        within the block."""

    def clock(self) -> float:
        """Epoch seconds, by the clock of all who share the database."""

    def revision(self) -> str | None:
        """What the tables are of; None if there are none."""

    def make_tables(self) -> None:
        """Make those of this version, within a transaction."""

    def close(self) -> None:
        """Close it."""


class FileLink:
    """A connection to a file of SQLite.

    Args:
        path: of the file.
        disposable: no transaction waits for the disk, so a power cut may take back
            the last ones.

    Raises:
        OSError: the file cannot be made, or not made private.
        sqlite3.Error: it is no database, or others hold it.
    """

    def __init__(self, path: Path, *, disposable: bool = False) -> None:
        make_private_database(path)
        # Transactions are begun by us, not by the driver. A connection is used by one
        # thread at a time, but not always the same.
        self._raw = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._write_ahead()
            synchronous = "NORMAL" if disposable else "FULL"
            self._raw.execute(f"PRAGMA synchronous = {synchronous}")
            self._raw.execute("PRAGMA foreign_keys = ON")
            # Some builds of SQLite overwrite what is deleted, which takes long.
            self._raw.execute("PRAGMA secure_delete = OFF")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self, exclusive: str | None = None) -> Iterator[Transaction]:
        """One that holds the write lock of the file: every one is exclusive."""
        del exclusive
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            yield self._raw
            self._raw.execute("COMMIT")
        except BaseException:
            self._raw.rollback()
            raise

    def alone(self, what: int) -> AbstractContextManager[Transaction]:
        """Every transaction is."""
        return self.transaction(str(what))

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """One that reads."""
        self._raw.execute("BEGIN")
        try:
            yield self._raw
        finally:
            self._raw.rollback()

    @contextmanager
    def alchemy(self) -> Iterator[Connection]:
        """It for SQLAlchemy, which neither begins nor ends anything."""
        from sqlalchemy import create_engine  # noqa: PLC0415 - slow
        from sqlalchemy.pool import StaticPool  # noqa: PLC0415

        engine = create_engine(
            "sqlite://",
            creator=lambda: self._raw,
            poolclass=StaticPool,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
        )
        with engine.connect() as connection:
            connection.begin()  # says nothing to the file, and Alembic not to commit
            yield connection

    def clock(self) -> float:
        """This host's."""
        return time.time()

    def revision(self) -> str | None:
        """What the tables are of."""
        has = "SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'"
        if self._raw.execute(has).fetchone() is None:
            return None
        found = self._raw.execute(VERSION).fetchone()
        return found[0] if found else None

    def make_tables(self) -> None:
        """Make the tables; executescript() would end the transaction."""
        script = Path(__file__).with_name("tables.sql").read_text(encoding="utf-8")
        for statement in (*script.split(";\n"), NOTE_VERSION):
            self._raw.execute(statement)

    def close(self) -> None:
        """Close it."""
        self._raw.close()

    def _write_ahead(self) -> None:
        """Turn the write-ahead log on.

        The file remembers that. SQLite does not wait for the lock it needs (two that
        turn it on would wait for each other), so the wait is here.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                self._raw.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return
