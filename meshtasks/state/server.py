"""A connection to PostgreSQL, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from meshtasks.config.extras import require
from meshtasks.state.connecting import (
    LOCK_CLASS,
    NOTE_VERSION,
    VERSION,
    Rows,
    Transaction,
)

_CONNECT_SECONDS = 5
#: Of a session. One that does nothing within a transaction belongs to a host that is
#: gone, and must not keep its locks: a handler that publishes alerts takes less. A host
#: that vanishes is noticed by its silence.
_SESSION = """
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '120s';
SET default_transaction_isolation = 'read committed';
SET tcp_keepalives_idle = 30;
SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3
"""
_CLIENT = {
    "connect_timeout": _CONNECT_SECONDS,
    "application_name": "meshtasks",
    "client_encoding": "UTF8",  # a server or an account may have another default
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}
_TIME = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS float8)"
_HAS_TABLES = "SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL"


# An engine keeps no connection, and so may be carried over a fork; it keeps what its
# statements are in the database's words, which takes longer to find than to run them.
@lru_cache(maxsize=8)
def _engine_of(url: str) -> Engine:
    parsed = make_url(url)
    own = {key: value for key, value in _CLIENT.items() if key not in parsed.query}
    return create_engine(parsed, poolclass=NullPool, connect_args=own)


def name_of(url: str) -> str:
    """The database and where it is, without a password."""
    parsed = make_url(url)
    host = parsed.host or parsed.query.get("host") or "this host"
    if isinstance(host, tuple):
        host = ", ".join(host)
    port = f":{parsed.port}" if parsed.port else ""
    return f"database {parsed.database} at {host}{port}"


class _Statements:
    """A transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Any = (), /) -> Rows:
        return self._connection.execute(text(sql), values or None)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> None:
        if values := list(rows):
            self._connection.execute(text(sql), values)


class ServerLink:
    """A connection to a server. One that does not answer is given up after five
    seconds.

    Args:
        url: of the database.

    Raises:
        OSError: the database cannot keep all text.
        SQLAlchemyError: the server cannot be reached, or refuses.
    """

    def __init__(self, url: str) -> None:
        require("postgresql", "MESH_STATE_URL")
        self._connection = _engine_of(url).connect()
        try:
            self._refuse_encoding()
            self._connection.exec_driver_sql(_SESSION)
            self._connection.commit()
        except BaseException:
            self.close()
            raise

    def _refuse_encoding(self) -> None:
        raw: Any = self._connection.connection.driver_connection
        encoding = raw.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            message = (
                f"its encoding is {encoding}, which not every sensor's name can be "
                "written in: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
            raise OSError(message)

    @contextmanager
    def transaction(self, exclusive: str | None = None) -> Iterator[Transaction]:
        """One in which others go on, and rows are locked by whoever must."""
        with self._connection.begin():
            db = _Statements(self._connection)
            if exclusive is not None:
                lock = "SELECT pg_advisory_xact_lock(:class, hashtext(:name))"
                db.execute(lock, {"class": LOCK_CLASS, "name": exclusive})
            yield db

    @contextmanager
    def alone(self, what: int) -> Iterator[Transaction]:
        """One for which those who want the same wait as long as it takes."""
        with self.transaction() as db:
            db.execute("SET LOCAL lock_timeout = 0")
            lock = "SELECT pg_advisory_xact_lock(:class, :what)"
            db.execute(lock, {"class": LOCK_CLASS, "what": what})
            yield db

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """One that reads."""
        with self.transaction() as db:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield db

    @contextmanager
    def alchemy(self) -> Iterator[Connection]:
        """It."""
        yield self._connection

    def clock(self) -> float:
        """Epoch seconds, by the server's clock; which also shows that it is there."""
        told: float = self._connection.exec_driver_sql(_TIME).scalar_one()
        self._connection.rollback()
        return told

    def revision(self) -> str | None:
        """What the tables are of."""
        is_within = self._connection.in_transaction()
        found: str | None = None
        if self._connection.exec_driver_sql(_HAS_TABLES).first() is not None:
            found = self._connection.exec_driver_sql(VERSION).scalar()
        if not is_within:
            self._connection.rollback()
        return found

    def make_tables(self) -> None:
        """Make the tables."""
        from meshtasks.state.tables import METADATA  # noqa: PLC0415 - once

        METADATA.create_all(self._connection, checkfirst=False)
        self._connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
        self._connection.exec_driver_sql(NOTE_VERSION)

    def close(self) -> None:
        """Close it."""
        self._connection.close()
