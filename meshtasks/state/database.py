"""The database of the state: a SQLite file for the workers of one host, or PostgreSQL
for workers on several hosts.

Every store has its own connection, opened on first use. The first connection after an
update of the package migrates the tables, and imports the files of earlier versions
(:mod:`meshtasks.state.legacy`).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    Connection,
    bindparam,
    exc,
    make_url,
    text,
)
from sqlalchemy.engine import URL
from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.urls import postgresql_url
from meshtasks.errors import SinkUnavailable
from meshtasks.state.connecting import (
    CONNECT_SECONDS,
    connect_to_file,
    connect_to_server,
    revision_of,
)
from meshtasks.state.forking import unforked
from meshtasks.state.tables import PROBES, REVISION, make_tables, put
from meshtasks.timing import timing

logger = logging.getLogger(__name__)

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: A connection that was idle for longer is tested before use.
_RESTED_SECONDS = 5.0
#: First key of our advisory locks in PostgreSQL: "mesh" in ASCII.
LOCK_CLASS = 0x6D657368
#: Second key of these locks.
_UPGRADING, _IMPORTING = 1, 2
_SERVER_TIME = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS float8)"
_EXCLUSIVE = text("SELECT pg_advisory_xact_lock(:class, hashtext(:sink))").bindparams(
    bindparam("class", LOCK_CLASS)
)


@dataclass(frozen=True, slots=True)
class StateLocation:
    """Where the state is.

    Attributes:
        url: URL of the database, for SQLAlchemy.
        directory: directory of the files of this host.
    """

    url: URL
    directory: Path

    @classmethod
    def of(cls, env: Environment) -> Self:
        """The location that the environment variables give."""
        if given := env.state_url.get_secret_value():
            return cls(make_url(postgresql_url(given) or given), env.state_dir)
        return cls.in_directory(env.state_dir)

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        """The default location: the file ``mesh.db`` in a directory."""
        path = directory.absolute() / "mesh.db"
        return cls(URL.create("sqlite", database=str(path)), directory)

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may share the database: it is PostgreSQL."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def path(self) -> Path:
        """The SQLite file. Only for a database that is not shared."""
        return Path(self.url.database or "")

    @override
    def __str__(self) -> str:
        if not self.is_shared:
            return str(self.path)
        url = self.url
        host = url.host or url.query.get("host") or "this host"
        if isinstance(host, tuple):
            host = ", ".join(host)
        return f"database {url.database} at {host}" + (
            f":{url.port}" if url.port else ""
        )


class Database:
    """The connection of one store to the database.

    The changes of a transaction are durable when it has ended, even after a power cut
    (but see ``disposable``). Do not use an instance after a fork, or in two threads at
    once. A SQLite file must not be on a network file system, because its write-ahead
    log needs shared memory.

    Args:
        sink: name of the sink that the store belongs to, for errors.
        location: where the database is.
        old_file: name of the file that earlier versions used for this store.
        disposable: whether the last transactions may be lost: in SQLite no transaction
            waits for the disk, so a power cut may undo them.
    """

    def __init__(
        self,
        sink: str,
        location: StateLocation,
        old_file: str,
        *,
        disposable: bool = False,
    ) -> None:
        self.sink = sink
        self.location = location
        self.is_shared = location.is_shared
        self._old_file = location.directory / old_file
        self._disposable = disposable
        self._connection: Connection | None = None
        self._raw: Any = None
        #: Device and inode of the open SQLite file.
        self._file: tuple[int, int] | None = None
        self._used_at = 0.0
        #: Time of the server minus time.monotonic(), in seconds.
        self._offset = 0.0

    def now(self) -> float:
        """Current time in epoch seconds.

        It is the time of the server, so that all hosts use the same clock; a host's own
        clock may be wrong or be changed. With SQLite it is the time of the host.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        if not self.is_shared:
            return time.time()
        with self._translated():
            if self._connection is None:
                self._open()
        return time.monotonic() + self._offset

    @contextmanager
    def transaction(self, *, exclusive: bool = False) -> Iterator[Connection]:
        """Run the block in a transaction; if the block raises, nothing is written.

        In SQLite the transaction holds the write lock of the file. In PostgreSQL
        transactions run in parallel, and the block locks the rows that it needs.

        Args:
            exclusive: whether exclusive transactions of this store run one at a time in
                PostgreSQL, too.

        Yields:
            The connection to use.

        Raises:
            SinkUnavailable: the database cannot be used, or another process held the
                lock for too long.
        """
        with timing(self.sink), self._translated():
            connection = self._current()
            if not self.is_shared:
                with self._sqlite_transaction(self._raw):
                    yield connection
                return
            with self._begun(connection) as connection:
                if exclusive:
                    connection.execute(_EXCLUSIVE, {"sink": self.sink})
                yield connection
            self._used_at = time.monotonic()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Read a consistent snapshot in the block, without blocking writers.

        Yields:
            The connection to use.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        with self._translated():
            connection = self._current()
            if self.is_shared:
                with self._within(connection, None), connection.begin():
                    connection.exec_driver_sql(
                        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                    )
                    yield connection
                return
            self.sqlite.execute("BEGIN")
            try:
                yield connection
            finally:
                self.sqlite.rollback()

    def revision(self) -> str | None:
        """Revision of the tables; None if there are none. Changes nothing.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        if not self.is_shared and not self.location.path.exists():
            return None
        with self._translated(), closing(self._new_connection()) as connection:
            return revision_of(connection)

    @property
    def sqlite(self) -> sqlite3.Connection:
        """The connection of the driver, for use within a transaction.

        Statements on the message path use it, because they are faster without
        SQLAlchemy.
        """
        raw: sqlite3.Connection = self._raw
        return raw

    def probe(self) -> None:
        """Check that the database can be written, on a separate connection.

        A file that another process is writing to counts as writable.

        Raises:
            SinkUnavailable: the database cannot be written.
        """
        values = {"sink": self.sink, "at": time.time()}
        with self._translated(), closing(self._connect()) as connection:
            upsert = put(connection, PROBES)
            if self.is_shared:
                with connection.begin():
                    connection.execute(upsert, values)
                return
            raw = connection.connection.driver_connection
            try:
                with self._sqlite_transaction(raw):
                    connection.execute(upsert, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise

    def exists(self) -> bool:
        """Whether the store may contain data. Creates no file."""
        path = self.location.path
        return self.is_shared or path.exists() or self._old_file.exists()

    def close(self) -> None:
        """Close the connection. The next use opens it again."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            with self._unforked():
                connection.close()

    def opened(self, connection: Connection) -> None:
        """Prepare a new connection, outside of a transaction; for subclasses."""

    # --- connecting -------------------------------------------------------

    def _current(self) -> Connection:
        """The connection; opened if there is none, or if its file is another one now.

        SQLite itself goes on with a file that was deleted or replaced: other processes
        would not see what is written, and it would vanish when the last one ends.
        """
        if self._connection is not None and self._file != self._file_now():
            logger.warning(
                "%s was deleted or replaced while it was open; %s continues with the "
                "file that is there now",
                *(self.location, self.sink),
            )
            self.close()
        return self._connection or self._open()

    def _file_now(self) -> tuple[int, int] | None:
        if self.is_shared:
            return None
        try:
            found = self.location.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self) -> Connection:
        connection = self._connect()
        try:
            if self._old_file.exists():
                from meshtasks.state.legacy import import_file  # noqa: PLC0415 - needed once

                alone = self._alone(connection, _IMPORTING)
                import_file(self._old_file, self.sink, connection, alone)
            self.opened(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._raw = connection.connection.driver_connection
        self._file = self._file_now()
        if self.is_shared:
            self._read_clock(connection)
        return connection

    def _read_clock(self, connection: Connection) -> None:
        """Read the time of the server, which also tests the connection."""
        with self._within(connection, CONNECT_SECONDS):
            told: float = connection.exec_driver_sql(_SERVER_TIME).scalar_one()
            connection.rollback()
        self._used_at = time.monotonic()
        self._offset = told - self._used_at

    def _connect(self) -> Connection:
        """Open a connection, and migrate the tables if necessary."""
        connection = self._new_connection()
        try:
            revision = revision_of(connection)
            connection.rollback()
            if revision != REVISION:
                self._upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _new_connection(self) -> Connection:
        url = self.location.url
        try:
            if self.is_shared:
                return connect_to_server(url)
            return connect_to_file(url, disposable=self._disposable)
        except OSError as error:
            raise self._unavailable(error) from error

    def _upgrade(self, connection: Connection) -> None:
        with self._alone(connection, _UPGRADING):
            revision = revision_of(connection)
            self.refuse_newer(revision)
            if revision is None:
                make_tables(connection)
            elif revision != REVISION:
                # Alembic takes 10 MB of memory until the process ends.
                from meshtasks.state.migrations import upgrade  # noqa: PLC0415

                upgrade(connection)

    def refuse_newer(self, revision: str | None) -> None:
        """Refuse tables of a newer version of the package.

        Raises:
            SinkUnavailable: this version does not know the revision.
        """
        if revision is not None and revision > REVISION:
            message = (
                f"{self.location} was upgraded by a newer version of meshtasks (its "
                f"tables are of revision {revision}, this version knows {REVISION}): "
                "install that version, or restore the backup made before"
            )
            raise SinkUnavailable(self.sink, message)

    @contextmanager
    def _alone(self, connection: Connection, what: int) -> Iterator[None]:
        """Run the block in a transaction while no other process or host does the same.

        Args:
            connection: connection to use.
            what: :data:`_UPGRADING` or :data:`_IMPORTING`.
        """
        if not self.is_shared:
            with self._sqlite_transaction(connection.connection.driver_connection):
                yield
            return
        with self._within(connection, None), connection.begin():
            # Wait for the lock without a timeout.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            lock = "SELECT pg_advisory_xact_lock(%s, %s)"
            connection.exec_driver_sql(lock, (LOCK_CLASS, what))
            yield

    @staticmethod
    @contextmanager
    def _sqlite_transaction(raw: Any) -> Iterator[None]:
        raw.execute("BEGIN IMMEDIATE")
        try:
            yield
            raw.execute("COMMIT")
        except BaseException:
            raw.rollback()
            raise

    @contextmanager
    def _begun(self, connection: Connection) -> Iterator[Connection]:
        """Run the block in a transaction of PostgreSQL; reconnect before if needed."""
        if time.monotonic() - self._used_at > _RESTED_SECONDS:
            try:
                self._read_clock(connection)
            except exc.DBAPIError:
                self.close()
                connection = self._open()
        from meshtasks.state.session import refuse_other_session  # noqa: PLC0415

        with connection.begin():
            refuse_other_session(connection)
            yield connection

    @staticmethod
    def _within(
        connection: Connection, seconds: float | None
    ) -> AbstractContextManager[None]:
        """See :func:`meshtasks.state.session.answering_within`."""
        from meshtasks.state.session import answering_within  # noqa: PLC0415

        return answering_within(connection, seconds)

    def _unforked(self) -> AbstractContextManager[None]:
        """See :func:`meshtasks.state.forking.unforked`."""
        return nullcontext() if self.is_shared else unforked()

    # --- faults -----------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Convert errors of the database to SinkUnavailable."""
        try:
            with self._unforked():
                yield
        except (sqlite3.Error, exc.SQLAlchemyError) as error:
            self.close()  # reopen at the next use: the file may have been replaced
            cause = error.orig if isinstance(error, exc.DBAPIError) else error
            raise self._unavailable(cause or error) from error

    def _unavailable(self, error: BaseException) -> SinkUnavailable:
        variable = "MESH_STATE_URL" if self.is_shared else "MESH_STATE_DIR"
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{self.location}: {reason} (is {variable} right?)"
        return SinkUnavailable(self.sink, message)
