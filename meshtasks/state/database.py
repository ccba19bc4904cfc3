"""One database for everything that is remembered: a SQLite file for the workers of one
host, PostgreSQL for those of several.

Every store has a connection of its own, opened on first use. The first one that opens
the database after an update brings its tables to this version, and takes over what
earlier versions kept in files of their own (:mod:`meshtasks.state.legacy`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    Connection,
    Table,
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
from meshtasks.state.tables import PROBES, REVISION, make_tables
from meshtasks.timing import timing

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: A connection that has rested for so long may be gone, and is tried first.
_RESTED_SECONDS = 5.0
#: First half of the advisory locks of PostgreSQL that are ours ("mesh").
LOCK_CLASS = 0x6D657368
UPGRADING, IMPORTING = 1, 2
_SERVER_TIME = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS float8)"
_EXCLUSIVE = text("SELECT pg_advisory_xact_lock(:class, hashtext(:sink))").bindparams(
    bindparam("class", LOCK_CLASS)
)


@dataclass(frozen=True, slots=True)
class StateLocation:
    """Where the state is.

    Attributes:
        url: of the database, as SQLAlchemy reads it.
        directory: of this host's own files.
    """

    url: URL
    directory: Path

    @classmethod
    def of(cls, env: Environment) -> Self:
        """The one that the environment says."""
        if given := env.state_url.get_secret_value():
            return cls(make_url(postgresql_url(given) or given), env.state_dir)
        return cls.in_directory(env.state_dir)

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        """The file that is the default."""
        path = directory.absolute() / "mesh.db"
        return cls(URL.create("sqlite", database=str(path)), directory)

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may share it."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def path(self) -> Path:
        """The file; only of one that is not shared."""
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
    """A store's connection to the database.

    What a transaction wrote is durable once it has ended, power cuts included (but see
    ``disposable``). Not to be carried over a fork, nor used by two threads at once. A
    SQLite file must not be on a network file system (its write-ahead log needs shared
    memory).

    Args:
        sink: name of the sink whose state it is, for errors.
        location: where the database is.
        old_file: name of the file that earlier versions had for it.
        disposable: what the store has can be done without: in SQLite nothing waits for
            the disk, so a power cut may take back the last transactions.
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
        self._used_at = 0.0
        #: The server's clock less time.monotonic().
        self._offset = 0.0

    def now(self) -> float:
        """Epoch seconds, by one clock of all who share the database: the server's. A
        host's own may be wrong, or be set meanwhile.

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
        """Read and write; if the block raises, nothing is written.

        In SQLite it holds the write lock of the file. In PostgreSQL others go on, and
        rows are locked by whoever must.

        Args:
            exclusive: no other such transaction of this store at the same time, in
                PostgreSQL either.

        Raises:
            SinkUnavailable: the database cannot be used, or another process held it
                for too long.
        """
        with timing(self.sink), self._translated():
            connection = self._connection or self._open()
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
        """Read everything as it is at one moment; keeps nobody from writing.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        with self._translated():
            connection = self._connection or self._open()
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
        """What the tables are of; None if there are none. Changes nothing.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        if not self.is_shared and not self.location.path.exists():
            return None
        with self._translated(), closing(self._new_connection()) as connection:
            return revision_of(connection)

    @property
    def sqlite(self) -> sqlite3.Connection:
        """The driver's own connection, within a transaction: for statements of the
        message path, which are faster without SQLAlchemy."""
        raw: sqlite3.Connection = self._raw
        return raw

    def probe(self) -> None:
        """See whether the database can be written, on a connection of its own. A file
        that others are writing to can.

        Raises:
            SinkUnavailable: it cannot.
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
        """Whether the store may have anything; makes no file."""
        path = self.location.path
        return self.is_shared or path.exists() or self._old_file.exists()

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None:
            connection.close()

    def opened(self, connection: Connection) -> None:
        """Called with every new connection, outside of a transaction."""

    # --- connecting -------------------------------------------------------

    def _open(self) -> Connection:
        connection = self._connect()
        try:
            if self._old_file.exists():
                from meshtasks.state.legacy import import_file  # noqa: PLC0415 - once

                import_file(self, connection, self._old_file)
            self.opened(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._raw = connection.connection.driver_connection
        if self.is_shared:
            self._read_clock(connection)
        return connection

    def _read_clock(self, connection: Connection) -> None:
        """Ask a server for its time, which also shows that it is there."""
        with self._within(connection, CONNECT_SECONDS):
            told: float = connection.exec_driver_sql(_SERVER_TIME).scalar_one()
            connection.rollback()
        self._used_at = time.monotonic()
        self._offset = told - self._used_at

    def _connect(self) -> Connection:
        """A new connection to a database of this version."""
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
        with self.alone(connection, UPGRADING):
            revision = revision_of(connection)
            self.refuse_newer(revision)
            if revision is None:
                make_tables(connection)
            elif revision != REVISION:
                # Alembic takes 10 MB, for as long as the process lives
                from meshtasks.state.migrations import upgrade  # noqa: PLC0415

                upgrade(connection)

    def refuse_newer(self, revision: str | None) -> None:
        """Raise SinkUnavailable if this version does not know a revision."""
        if revision is not None and revision > REVISION:
            message = (
                f"{self.location} was upgraded by a newer version of meshtasks (its "
                f"tables are of revision {revision}, this version knows {REVISION}): "
                "install that version, or restore the backup made before"
            )
            raise SinkUnavailable(self.sink, message)

    @contextmanager
    def alone(self, connection: Connection, what: int) -> Iterator[None]:
        """A transaction that no other host and process makes at the same time.

        Args:
            what: number of what is done.
        """
        if not self.is_shared:
            with self._sqlite_transaction(connection.connection.driver_connection):
                yield
            return
        with self._within(connection, None), connection.begin():
            # Those who wait here do so for as long as it takes.
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
        """A transaction of PostgreSQL, on a connection that is there."""
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
        """For statements of a server that may take so long."""
        from meshtasks.state.session import answering_within  # noqa: PLC0415

        return answering_within(connection, seconds)

    # --- faults -----------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The database's faults as ours."""
        try:
            yield
        except (sqlite3.Error, exc.SQLAlchemyError) as error:
            self.close()  # opened anew next time: the file may have been replaced
            cause = error.orig if isinstance(error, exc.DBAPIError) else error
            raise self._unavailable(cause or error) from error

    def _unavailable(self, error: BaseException) -> SinkUnavailable:
        variable = "MESH_STATE_URL" if self.is_shared else "MESH_STATE_DIR"
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{self.location}: {reason} (is {variable} right?)"
        return SinkUnavailable(self.sink, message)


def put(connection: Connection, table: Table) -> Any:
    """An INSERT of all columns that replaces the row with the same primary key."""
    return _put(connection.dialect.name, table)


@lru_cache
def _put(dialect_name: str, table: Table) -> Any:
    statement = insert_of(dialect_name, table)
    values = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key
    }
    return statement.on_conflict_do_update(
        index_elements=table.primary_key, set_=values
    )


def insert(connection: Connection, table: Table) -> Any:
    """An INSERT that can have ``on_conflict_do_nothing`` or ``…_do_update``."""
    return insert_of(connection.dialect.name, table)


def insert_of(dialect_name: str, table: Table) -> Any:
    """:func:`insert` for the databases of a dialect."""
    # that of the other database would take 2 MB of each process
    dialect: Any = import_module(f"sqlalchemy.dialects.{dialect_name}")
    return dialect.insert(table)
