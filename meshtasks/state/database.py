"""One database for everything that is remembered: a SQLite file for the workers of one
host, PostgreSQL for those of several.

Every store has a connection of its own, opened on first use. The first one that opens
the database after an update brings its tables to this version, and takes over what
earlier versions kept in files of their own (:mod:`meshtasks.state.legacy`).
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote_to_bytes

from typing_extensions import override

from meshtasks.config.environment import Environment
from meshtasks.config.urls import postgresql_url
from meshtasks.errors import SinkUnavailable
from meshtasks.state.connecting import REVISION, FileLink, Link, Transaction
from meshtasks.timing import timing

if TYPE_CHECKING:  # slow
    from sqlalchemy import Connection

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
#: A connection that has rested for so long may be gone, and is tried first.
_RESTED_SECONDS = 5.0
UPGRADING, IMPORTING = 1, 2
_FILE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class StateLocation:
    """Where the state is.

    Attributes:
        url: of the database, ``sqlite:///path`` or as SQLAlchemy has it.
        directory: of this host's own files.
    """

    url: str = field(repr=False)  # may have a password
    directory: Path

    @classmethod
    def of(cls, env: Environment) -> Self:
        """The one that the environment says."""
        if given := env.state_url.get_secret_value():
            return cls(postgresql_url(given) or given, env.state_dir)
        return cls.in_directory(env.state_dir)

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        """The file that is the default."""
        path = directory.absolute() / "mesh.db"
        return cls(_FILE + quote(os.fsencode(path)), directory)

    @property
    def is_shared(self) -> bool:
        """Whether several hosts may share it."""
        return not self.url.startswith(_FILE)

    @property
    def path(self) -> Path:
        """The file; only of one that is not shared."""
        return Path(os.fsdecode(unquote_to_bytes(self.url.removeprefix(_FILE))))

    @override
    def __str__(self) -> str:
        if not self.is_shared:
            return str(self.path)
        from meshtasks.state.server import name_of  # noqa: PLC0415 - loads SQLAlchemy

        return name_of(self.url)


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
        self._link: Link | None = None
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
            if self._link is None:
                self._open()
        return time.monotonic() + self._offset

    @contextmanager
    def transaction(self, *, exclusive: bool = False) -> Iterator[Transaction]:
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
            with self._linked().transaction(self.sink if exclusive else None) as db:
                yield db
            self._used_at = time.monotonic()

    @contextmanager
    def alchemy(self) -> Iterator[Connection]:
        """An exclusive transaction for what is done seldom, by SQLAlchemy.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        with (
            self._translated(),
            self._linked().alchemy() as connection,
            self.transaction(exclusive=True),
        ):
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Read everything as it is at one moment, by SQLAlchemy; keeps nobody from
        writing.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        with self._translated():
            link = self._linked()
            with link.alchemy() as connection, link.snapshot():
                yield connection

    def revision(self) -> str | None:
        """What the tables are of; None if there are none. Changes nothing.

        Raises:
            SinkUnavailable: the database cannot be used.
        """
        if not self.is_shared and not self.location.path.exists():
            return None
        with self._translated(), closing(self._new_link()) as link:
            return link.revision()

    def probe(self) -> None:
        """See whether the database can be written, on a connection of its own. A file
        that others are writing to can.

        Raises:
            SinkUnavailable: it cannot.
        """
        values = {"sink": self.sink, "at": time.time()}
        with self._translated(), closing(self._connect()) as link:
            try:
                with link.transaction() as db:
                    db.execute(upsert("probes", ("sink",), ("at",)), values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise

    def exists(self) -> bool:
        """Whether the store may have anything; makes no file."""
        path = self.location.path
        return self.is_shared or path.exists() or self._old_file.exists()

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def opened(self, link: Link) -> None:
        """Called with every new connection."""

    # --- connecting -------------------------------------------------------

    def _linked(self) -> Link:
        """A connection that is there."""
        link = self._link
        if link is None:
            return self._open()
        if self.is_shared and time.monotonic() - self._used_at > _RESTED_SECONDS:
            from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - is loaded

            try:
                self._read_clock(link)
            except DBAPIError:
                self.close()
                return self._open()
        return link

    def _open(self) -> Link:
        link = self._connect()
        try:
            if self._old_file.exists():
                from meshtasks.state.legacy import import_file  # noqa: PLC0415 - once

                import_file(self.sink, link, self._old_file)
            self.opened(link)
            self._read_clock(link)
        except BaseException:
            link.close()
            raise
        self._link = link
        return link

    def _read_clock(self, link: Link) -> None:
        """Ask a server for its time, which also shows that it is there."""
        if self.is_shared:
            told = link.clock()
            self._used_at = time.monotonic()
            self._offset = told - self._used_at

    def _connect(self) -> Link:
        """A new connection to a database of this version."""
        link = self._new_link()
        try:
            if link.revision() != REVISION:
                self._upgrade(link)
        except BaseException:
            link.close()
            raise
        return link

    def _new_link(self) -> Link:
        try:
            if not self.is_shared:
                return FileLink(self.location.path, disposable=self._disposable)
            from meshtasks.state.server import ServerLink  # noqa: PLC0415 - slow

            return ServerLink(self.location.url)
        except OSError as error:
            raise self._unavailable(error) from error

    def _upgrade(self, link: Link) -> None:
        with link.alone(UPGRADING):
            revision = link.revision()
            if revision is None:
                link.make_tables()
        self.refuse_newer(revision)
        if link.revision() != REVISION:
            # Alembic takes 10 MB, for as long as the process lives
            from meshtasks.state.migrations import upgrade  # noqa: PLC0415

            with link.alchemy() as connection, link.alone(UPGRADING):
                upgrade(connection)  # nothing, if another one has

    def refuse_newer(self, revision: str | None) -> None:
        """Raise SinkUnavailable if this version does not know a revision."""
        if revision is not None and revision > REVISION:
            message = (
                f"{self.location} was upgraded by a newer version of meshtasks (its "
                f"tables are of revision {revision}, this version knows {REVISION}): "
                "install that version, or restore the backup made before"
            )
            raise SinkUnavailable(self.sink, message)

    # --- faults -----------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The database's faults as ours."""
        try:
            yield
        except _faults() as error:
            self.close()  # opened anew next time: the file may have been replaced
            cause = getattr(error, "orig", None) or error
            raise self._unavailable(cause) from error

    def _unavailable(self, error: BaseException) -> SinkUnavailable:
        variable = "MESH_STATE_URL" if self.is_shared else "MESH_STATE_DIR"
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{self.location}: {reason} (is {variable} right?)"
        return SinkUnavailable(self.sink, message)


def _faults() -> tuple[type[Exception], ...]:
    """Those of the driver, and of SQLAlchemy if anything can have raised them."""
    loaded = sys.modules.get("sqlalchemy.exc")
    return (sqlite3.Error, loaded.SQLAlchemyError) if loaded else (sqlite3.Error,)


@cache
def upsert(table: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """An INSERT of these columns that replaces the row with the same keys."""
    every = (*keys, *columns)
    names, values = ", ".join(every), ", ".join(f":{name}" for name in every)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return (
        f"INSERT INTO {table} ({names}) VALUES ({values}) "  # noqa: S608 - ours
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )
