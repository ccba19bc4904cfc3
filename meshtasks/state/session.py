"""Sessions of PostgreSQL, with psycopg (extra ``postgresql``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection
from sqlalchemy.exc import DisconnectionError
from typing_extensions import override

# It warns of what it ignores after a lost connection; the loss itself is raised.
logging.getLogger("psycopg").setLevel(logging.ERROR)

_R = TypeVar("_R")

#: Timeout of a statement, longer than that of a lock. A server that hangs, or a pooler
#: without a free connection, accepts statements and never responds, while the client
#: holds messages.
_ANSWER_SECONDS = 60.0
_PROCESS = "SELECT pg_backend_pid()"


class Session(psycopg.Connection[Any]):
    """A connection that is closed if the server does not respond in time.

    Attributes:
        answer_seconds: timeout of a statement; None for no timeout.
        process: process id of the server's session if there is a pooler; else 0.
    """

    answer_seconds: float | None = _ANSWER_SECONDS
    process = 0

    @override
    def wait(
        self, gen: PQGen[_R], interval: float = 0.1, timeout: float | None = None
    ) -> _R:
        """Wait for the server; psycopg calls this for every statement.

        Raises:
            psycopg.OperationalError: there was no response in time.
        """
        limit = self.answer_seconds if timeout is None else timeout
        began = time.monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError as error:
            if limit is None or time.monotonic() - began < limit or self.closed:
                raise
            self.close()
            message = f"no answer within {limit:g} s"
            raise psycopg.OperationalError(message) from error


def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Session:
    """Open a session; SQLAlchemy calls this for its event ``do_connect``."""
    return Session.connect(*args, **options)


@contextmanager
def answering_within(connection: Connection, seconds: float | None) -> Iterator[None]:
    """Set the timeout of statements in the block, in seconds; None for no timeout."""
    session: Any = connection.connection.driver_connection
    before, session.answer_seconds = session.answer_seconds, seconds
    try:
        yield
    finally:
        session.answer_seconds = before


def note_pooler(connection: Connection) -> None:
    """Detect a pooler: it reports another process id than the server."""
    session: Any = connection.connection.driver_connection
    process = _process_of(connection)
    if process != session.info.backend_pid:
        session.process = process


def refuse_other_session(connection: Connection) -> None:
    """Check, within a transaction, that a pooler has not changed the session.

    Raises:
        DisconnectionError: the session is another one.
    """
    session: Any = connection.connection.driver_connection
    if session.process and session.process != _process_of(connection):
        message = (
            "a pooler gives each transaction another session, and sessions hold locks: "
            "it must leave each its own (PgBouncer: pool_mode=session)"
        )
        raise DisconnectionError(message)


def _process_of(connection: Connection) -> int:
    process: int = connection.exec_driver_sql(_PROCESS).scalar_one()
    return process
