"""Opens connections to SQLite files and PostgreSQL, and sets their options."""

from __future__ import annotations

import sqlite3
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from meshtasks.config.extras import require
from meshtasks.config.private_files import make_private_database

#: Longest wait for another process that writes to the file.
BUSY_TIMEOUT_SECONDS = 15.0
#: Longest wait for a connection to a server.
CONNECT_SECONDS = 5
#: Options of a PostgreSQL session. The server ends a session that is idle in a
#: transaction for two minutes, so that a host that vanished does not keep its locks;
#: a handler that publishes alerts takes less time. Keepalives detect a vanished host.
_SESSION = """
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '120s';
SET default_transaction_isolation = 'read committed';
SET tcp_keepalives_idle = 30;
SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3
"""
_CLIENT = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "meshtasks",
    "client_encoding": "UTF8",  # servers or accounts may have another default
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}


# An engine keeps no connection, so it can be used after a fork. It keeps compiled
# statements, because compiling one takes longer than running it.


@lru_cache(maxsize=8)
def _engine_of_server(url: URL) -> Engine:
    from meshtasks.state.session import connect  # noqa: PLC0415 - needs an extra

    own = {key: value for key, value in _CLIENT.items() if key not in url.query}
    engine = create_engine(url, poolclass=NullPool, connect_args=own)
    event.listen(engine, "do_connect", connect)
    return engine


@lru_cache(maxsize=8)
def _engine_of_file(url: URL) -> Engine:
    # The mesh begins transactions, not the driver. A connection is used by one thread
    # at a time, but not always by the same one.
    return create_engine(
        url,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )


def connect_to_server(url: URL) -> Connection:
    """Open a connection to PostgreSQL.

    Raises:
        ConfigError: the extra ``postgresql`` is not installed.
        OSError: the encoding of the database is not UTF-8.
        SQLAlchemyError: the server is unavailable, or refuses the connection.
    """
    require("postgresql", "MESH_STATE_URL")
    from meshtasks.state.session import note_pooler  # noqa: PLC0415 - needs an extra

    connection = _engine_of_server(url).connect()
    try:
        _refuse_encoding(connection)
        connection.exec_driver_sql(_SESSION)
        note_pooler(connection)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _refuse_encoding(connection: Connection) -> None:
    raw: Any = connection.connection.driver_connection
    encoding = raw.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        message = (
            f"its encoding is {encoding}, which not every sensor's name can be written "
            "in: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
        raise OSError(message)


def connect_to_file(url: URL, *, disposable: bool = False) -> Connection:
    """Open a connection to a SQLite file. The caller begins the transactions.

    Args:
        url: URL of the file.
        disposable: whether transactions do not wait for the disk, so that a power cut
            may undo the last ones.

    Raises:
        OSError: the file cannot be created.
    """
    make_private_database(Path(url.database or ""))
    connection = _engine_of_file(url).connect()
    raw: Any = connection.connection.driver_connection
    try:
        _write_ahead(raw)
        synchronous = "NORMAL" if disposable else "FULL"
        raw.execute(f"PRAGMA synchronous = {synchronous}")
        raw.execute("PRAGMA foreign_keys = ON")
        # Some builds of SQLite overwrite deleted data by default, which is slow.
        raw.execute("PRAGMA secure_delete = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def revision_of(connection: Connection) -> str | None:
    """Revision of the tables; None if there are none."""
    if connection.dialect.name == "sqlite":
        has = "SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'"
    else:
        has = "SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL"
    found = None
    if connection.exec_driver_sql(has).first() is not None:
        versions = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        found = versions.scalar()
    return found


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Enable the write-ahead log, which is a property of the file.

    SQLite does not wait for the lock that this needs (two processes that do the same
    would deadlock), so this function does.
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
