"""Sessions of PostgreSQL, by psycopg (extra ``postgresql``)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection
from sqlalchemy.exc import DisconnectionError
from typing_extensions import override

_R = TypeVar("_R")

#: A server that is frozen, or a pooler that has no connection left, takes a statement
#: and never answers; whoever waits holds messages. Longer than a lock is waited for.
_ANSWER_SECONDS = 60.0
_PROCESS = "SELECT pg_backend_pid()"


class Session(psycopg.Connection[Any]):
    """A connection that is given up when it does not answer.

    Attributes:
        answer_seconds: how long a statement may take; None for as long as it takes.
        process: the server's, if a pooler is between; else 0.
    """

    answer_seconds: float | None = _ANSWER_SECONDS
    process = 0

    @override
    def wait(
        self, gen: PQGen[_R], interval: float = 0.1, timeout: float | None = None
    ) -> _R:
        """What all statements go through."""
        limit = self.answer_seconds if timeout is None else timeout
        began = time.monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError as error:
            if limit is None or time.monotonic() - began < limit or self.closed:
                raise
            self.close()
            message = f"it gave no answer within {limit:g} s"
            raise psycopg.OperationalError(message) from error


def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Session:
    """A new session; what SQLAlchemy calls for it."""
    return Session.connect(*args, **options)


@contextmanager
def answering_within(connection: Connection, seconds: float | None) -> Iterator[None]:
    """For statements that may take so long; None for as long as they take."""
    session: Any = connection.connection.driver_connection
    before, session.answer_seconds = session.answer_seconds, seconds
    try:
        yield
    finally:
        session.answer_seconds = before


def note_pooler(connection: Connection) -> None:
    """Find out whether a pooler is between, which tells a number of its own."""
    session: Any = connection.connection.driver_connection
    process = _process_of(connection)
    if process != session.info.backend_pid:
        session.process = process


def refuse_other_session(connection: Connection) -> None:
    """Make sure, within a transaction, that a pooler has not changed the session.

    Raises:
        DisconnectionError: it has.
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
