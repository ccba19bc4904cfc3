"""Messages in a SQLite file, oldest first, for one process at a time."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.private_files import make_private_database
from meshtasks.errors import ConfigError, MeshError
from meshtasks.producers.buffer import Pending

logger = logging.getLogger(__name__)

#: About what a message takes in the file beside its body.
OVERHEAD_BYTES = 160

#: Shape of the table; a file of another one is set aside.
_SHAPE = 1
#: A power cut takes back what was written since; a killed process nothing.
_SYNC_INTERVAL_SECONDS = 1.0
#: For the process that has the file open to end.
_IN_USE_SECONDS = 0.5
#: A file that has grown to so many pages shrinks when it is empty again.
_SMALL_PAGES = 256

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_CREATE = """
CREATE TABLE message (
    id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, routing_key TEXT NOT NULL,
    body BLOB NOT NULL, records INTEGER NOT NULL, message_id TEXT, timestamp REAL,
    extra TEXT
)
"""
_APPEND = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_FIRST = "SELECT * FROM message WHERE id > ? ORDER BY id LIMIT ?"
_FORGET = "DELETE FROM message WHERE id <= ?"
_DROP = "DELETE FROM message WHERE id = ?"
_SUMS = """
SELECT count(*), coalesce(sum(length(body)), 0), coalesce(sum(records), 0),
    coalesce(max(id), 0)
FROM message
"""


class SpoolFault(MeshError):
    """The spool's file cannot be read or written."""


class SpoolCorrupt(SpoolFault):
    """The spool's file is damaged, or no spool."""


class SpoolFile:
    """An open file; no other process can open it meanwhile.

    What was appended outlives a killed process at once, and a power cut after a
    second or two. What was taken stays in the file until it is forgotten.

    Raises:
        SpoolFault: another process has it open, or it cannot be made.
        SpoolCorrupt: it is damaged, or no spool.

    Attributes:
        count: messages waiting, the taken ones not included.
        size_bytes: of those, with 160 bytes for each.
        found_records: records in the messages that were there when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            make_private_database(path)
            self._connection = sqlite3.connect(
                path,
                timeout=_IN_USE_SECONDS,
                isolation_level=None,  # transactions are begun here
                check_same_thread=False,  # the producer's lock sees to that
            )
        try:
            with self._translated():
                self._prepare()
                sums = self._connection.execute(_SUMS).fetchone()
        except BaseException:
            self._connection.close()
            raise
        count, body_bytes, records, last_id = map(int, sums)
        self.count = count
        self.size_bytes = body_bytes + count * OVERHEAD_BYTES
        self.found_records = records
        self._last_id = last_id
        self._taken_id = 0
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, made if missing; a damaged one is set aside first.

        Raises:
            ConfigError: another process has it open, or it cannot be made here.
        """
        try:
            try:
                return cls(path)
            except SpoolCorrupt as error:
                set_aside(path, error)
                return cls(path)
        except SpoolFault as error:
            expected = f"expected a directory to keep unsent messages in, but {error}"
            raise ConfigError("environment", "MESH_STATE_DIR", expected) from error

    def append(self, messages: Sequence[Pending], taken: int) -> None:
        """Add messages behind all others, in one transaction; the first ``taken`` of
        them count as taken.

        Raises:
            SpoolFault: none was added.
        """
        first_id = self._last_id + 1
        rows = [_row(number, each) for number, each in enumerate(messages, first_id)]
        with self._translated(), self._connection:
            self._connection.execute("BEGIN")
            self._connection.executemany(_APPEND, rows)
        self._last_id += len(rows)
        if taken:
            self._taken_id = first_id + taken - 1
        self._add_up(messages[taken:], 1)
        self._sync_now_and_then()

    def take(self, count: int, size_bytes: int) -> list[Pending]:
        """The oldest messages that were not taken before: at most ``count``, of about
        ``size_bytes``, but one at least.

        Raises:
            SpoolFault: they cannot be read.
        """
        found: list[Pending] = []
        last_id, taken_bytes = self._taken_id, 0
        with self._translated():
            for row in self._connection.execute(_FIRST, (last_id, count)):
                if taken_bytes >= size_bytes:
                    break
                found.append(_pending(row))
                last_id = row[0]
                taken_bytes += len(found[-1].message.body)
        self._taken_id = last_id
        self._add_up(found, -1)
        return found

    def forget_taken(self) -> None:
        """Remove everything that was taken.

        Raises:
            SpoolFault: it is not removed, but will be with the next.
        """
        with self._translated():
            self._connection.execute(_FORGET, (self._taken_id,))
            if not self.count:
                self._shrink()

    def drop_first(self) -> Pending | None:
        """Remove the oldest message that was not taken, if there is one.

        Raises:
            SpoolFault: it is still there.
        """
        with self._translated():
            row = self._connection.execute(_FIRST, (self._taken_id, 1)).fetchone()
            if row is None:
                return None
            dropped = _pending(row)
            self._connection.execute(_DROP, (row[0],))
        self._add_up([dropped], -1)
        return dropped

    def close(self) -> None:
        """Close the file; what is in it stays."""
        self._connection.close()

    def _prepare(self) -> None:
        # Exclusive: held until the file is closed. It spares the write-ahead log
        # shared memory, too, so that it works on a network file system.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._connection:
            self._connection.execute("BEGIN EXCLUSIVE")
            (shape,) = self._connection.execute("PRAGMA user_version").fetchone()
            tables = self._connection.execute("SELECT name FROM sqlite_master")
            if not shape and tables.fetchone() is None:
                self._connection.execute(_CREATE)
                self._connection.execute(f"PRAGMA user_version = {_SHAPE:d}")
            elif shape != _SHAPE:
                message = f"{self._path} was made by something else"
                raise SpoolCorrupt(message)

    def _add_up(self, messages: Iterable[Pending], sign: int) -> None:
        for each in messages:
            self.count += sign
            self.size_bytes += sign * (len(each.message.body) + OVERHEAD_BYTES)

    def _sync_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._synced_at >= _SYNC_INTERVAL_SECONDS:
            self._synced_at = now
            with self._translated():
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _shrink(self) -> None:
        """Give the space of an emptied file back."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        if pages > _SMALL_PAGES:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's faults as ours."""
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _BUSY:
                message = f"{self._path} is in use by another producer"
                raise SpoolFault(message) from error
            message = f"{self._path}: {error}"
            if code in _CORRUPT or isinstance(error, ValueError):
                raise SpoolCorrupt(message) from error
            raise SpoolFault(message) from error


def set_aside(path: Path, why: Exception) -> None:
    """Rename a file that cannot be used, so that a new one can be made.

    Raises:
        SpoolFault: it cannot be renamed.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    try:
        path.rename(aside)
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            log.rename(aside.with_name(f"{aside.name}-wal"))
    except OSError as error:
        raise SpoolFault(str(error)) from error
    logger.error(
        "the spool cannot be used (%s): it is set aside and a new one begun. What "
        "can still be read of it: sqlite3 '%s' .recover",
        why,
        aside,
    )


def check_storable(message: Outgoing) -> None:
    """See to it that a message can be written, should it have to be.

    Raises:
        TypeError, ValueError: a header or property is not JSON.
    """
    _extra(message)


def _row(number: int, pending: Pending) -> tuple[Any, ...]:
    message, records = pending
    key, body, extra = message.routing_key, message.body, _extra(message)
    sent = records, message.message_id, message.timestamp
    return number, message.exchange, key, body, *sent, extra


def _extra(message: Outgoing) -> str | None:
    if message.headers is None and message.properties is None:
        return None
    return json.dumps([message.headers, message.properties])


def _pending(row: Sequence[Any]) -> Pending:
    _, exchange, routing_key, body, records, message_id, timestamp, extra = row
    headers, properties = json.loads(extra) if extra else (None, None)
    message = Outgoing(
        exchange, routing_key, body, message_id, timestamp, headers, properties
    )
    return Pending(message, records)
