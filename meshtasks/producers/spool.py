"""The spool: a buffer that writes messages to disk while the broker is unavailable."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.private_files import make_private_database
from meshtasks.errors import ConfigError, MeshError
from meshtasks.producers.buffer import Buffer, Pending

logger = logging.getLogger(__name__)

#: An unconfirmed message is written to the file after this time in any case.
WRITE_AFTER_SECONDS = 1.0
_FAULT_LOG_INTERVAL_SECONDS = 10.0
#: Approximate size of a message in the file without its body, in bytes.
OVERHEAD_BYTES = 160
#: Version of the table; a file with another one is set aside.
_SHAPE = 1
#: Interval of checkpoints in seconds: a power failure loses messages written since the
#: last one. A killed process loses none of them.
_SYNC_INTERVAL_SECONDS = 1.0
_IN_USE_SECONDS = 0.5  # another process may be about to close the file
#: A file of more pages than this is compacted when it becomes empty.
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
    """The spool's file is damaged, or is not a spool."""


class SpoolFile:
    """An open file of messages, oldest first, locked against other processes.

    An appended message survives a killed process at once, and a power failure after a
    second or two. A taken message stays in the file until :meth:`forget_taken`. A call
    that fails changes nothing.

    Attributes:
        count: waiting messages, without those taken.
        size_bytes: bytes of the waiting bodies, and :data:`OVERHEAD_BYTES` for each.
        found_records: records in the file when it was opened.

    Raises:
        SpoolFault: by every method: another process uses the file, or it cannot be
            created, read or written.
        SpoolCorrupt: the file is damaged, or is not a spool.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            make_private_database(path)
            self._connection = sqlite3.connect(
                path,
                timeout=_IN_USE_SECONDS,
                isolation_level=None,  # this class begins transactions itself
                check_same_thread=False,  # the producer's lock serialises access
            )
        try:
            with self._translated():
                self._prepare()
                sums = self._connection.execute(_SUMS).fetchone()
        except BaseException:
            self._connection.close()
            raise
        self.count, body_bytes, self.found_records, self._last_id = map(int, sums)
        self.size_bytes = body_bytes + self.count * OVERHEAD_BYTES
        self._taken_id = 0
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, or create it. A damaged one is set aside and replaced.

        Raises:
            ConfigError: another process uses the file, or it cannot be created.
        """
        try:
            try:
                return cls(path)
            except SpoolCorrupt as error:
                _set_aside(path, error)
                return cls(path)
        except SpoolFault as error:
            expected = f"expected a directory to keep unsent messages in, but {error}"
            raise ConfigError("environment", "MESH_STATE_DIR", expected) from error

    def append(self, messages: Sequence[Pending], taken: int) -> None:
        """Add messages at the end, in one transaction. The first ``taken`` of them
        count as taken."""
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
        """Take the oldest messages: at most ``count`` and about ``size_bytes``. At
        least one is returned, if there is one, whatever its size."""
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
        """Remove the taken messages. If it fails, the next call removes them too."""
        with self._translated():
            self._connection.execute(_FORGET, (self._taken_id,))
            if not self.count:
                self._shrink()

    def drop_first(self) -> Pending | None:
        """Remove and return the oldest message that is not taken, if there is one."""
        with self._translated():
            row = self._connection.execute(_FIRST, (self._taken_id, 1)).fetchone()
            if row is None:
                return None
            dropped = _pending(row)
            self._connection.execute(_DROP, (row[0],))
        self._add_up([dropped], -1)
        return dropped

    def close(self) -> None:
        """Close the file; its messages remain."""
        self._connection.close()

    def _prepare(self) -> None:
        # Exclusive: locked until the file is closed. SQLite then keeps the index of
        # the write-ahead log in memory, so the file also works on a network file
        # system.
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
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        if pages > _SMALL_PAGES:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _translated(self) -> Iterator[None]:
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


def _set_aside(path: Path, why: Exception) -> None:
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


def _row(number: int, pending: Pending) -> tuple[Any, ...]:
    message, records = pending
    route = message.exchange, message.routing_key
    sent = message.body, records, message.message_id, message.timestamp
    return number, *route, *sent, _extra(message)


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


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Limits of a spool; beyond them the oldest messages are dropped.

    Attributes:
        messages: messages on disk and in memory.
        size_bytes: bytes of their bodies, and :data:`OVERHEAD_BYTES` for each.
        memory_messages: messages in memory.
        memory_bytes: bytes of those, counted in the same way.
    """

    messages: int
    size_bytes: int
    memory_messages: int = 100_000
    memory_bytes: int = 64 * 1024 * 1024


class Spool(Buffer):
    """Keeps unconfirmed messages in memory, or in a file if confirms do not come.

    The file is used from the first publication that fails, or the first message that
    is not confirmed within :data:`WRITE_AFTER_SECONDS`, until all its messages are
    confirmed; and from each start until the broker first confirms. During that time
    :meth:`append` writes before it returns. So a killed process loses at most the last
    second of normal operation, and short-lived messages do not wear the disk.

    While the file cannot be written, for example because the disk is full, messages
    wait in memory. A file that cannot be read is set aside and replaced.

    Raises:
        ConfigError: another process uses the file, or it cannot be created.
    """

    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, path: Path, limits: SpoolLimits) -> None:
        super().__init__(limits.messages, limits.size_bytes)
        self._path = path
        self._limits = limits
        #: Its messages are older than all messages in memory.
        self._file: SpoolFile | None = SpoolFile.open(path)
        self.restored_records = self._file.found_records
        if self._file.count:
            text = "%d messages of an earlier run wait in %s"
            logger.info(text, self._file.count, path)
        self._in_flight_is_written = False
        self._writing = True
        self._fault_logged_at = -_FAULT_LOG_INTERVAL_SECONDS

    @override
    def append(self, pending: Pending) -> Sequence[Pending]:
        _extra(pending.message)  # raises at once if the headers cannot be JSON
        dropped = super().append(pending)
        if self._writing or self._is_late or self._memory_is_full:
            self.keep()
        return dropped

    @override
    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        if not self._in_flight and self._file is not None and self._file.count:
            try:
                self._in_flight = self._file.take(count, size_bytes)
            except SpoolFault as error:
                self._begin_anew(error)
            self._in_flight_is_written = bool(self._in_flight)
        return super().take(count, size_bytes)

    @override
    def resolve(self) -> None:
        super().resolve()
        left = 0
        if self._file is not None:
            left = self._file.count
            if self._in_flight_is_written:
                self._forget(self._file)
        self._in_flight_is_written = False
        self._writing = self._writing and left > 0

    @override
    def keep(self) -> None:
        self._writing = True
        if self._file is None:
            return
        if not (messages := self._unwritten()):
            return
        if not self._file.count and not self._in_flight_is_written:
            logger.info("messages wait in %s", self._path)
        try:
            self._file.append(messages, taken=len(messages) - len(self._memory))
        except SpoolFault as error:
            self._report(error, "messages wait in memory, and are lost with it")
            return
        self._in_flight_is_written = bool(self._in_flight)
        self._memory.clear()
        self._memory_bytes = 0

    @override
    def close(self) -> Sequence[Pending]:
        self.keep()
        lost = self._unwritten()
        if self._file is not None:
            written = len(self._in_flight) if self._in_flight_is_written else 0
            if left := self._file.count + written:
                text = "%d messages wait in %s for the next start"
                logger.warning(text, left, self._path)
            self._file.close()
        return lost

    def _unwritten(self) -> Sequence[Pending]:
        in_flight = [] if self._in_flight_is_written else self._in_flight
        return (*in_flight, *(pending for _, pending in self._memory))

    @property
    @override
    def waiting(self) -> int:
        on_disk = 0 if self._file is None else self._file.count
        return on_disk + len(self._memory)

    @property
    @override
    def waiting_bytes(self) -> int:
        on_disk = 0 if self._file is None else self._file.size_bytes
        return on_disk + self._memory_bytes

    @override
    def has_room(self, size_bytes: int) -> bool:
        return super().has_room(size_bytes) and not self._memory_is_full

    @property
    def _is_late(self) -> bool:
        if self._in_flight and not self._in_flight_is_written:
            since = self._in_flight_since
        elif self._memory:
            since = self._memory[0][0]
        else:
            return False
        return time.monotonic() - since > WRITE_AFTER_SECONDS

    @property
    def _memory_is_full(self) -> bool:
        return (
            len(self._memory) >= self._limits.memory_messages
            or self._memory_bytes >= self._limits.memory_bytes
        )

    @override
    def _drop_oldest(self) -> Pending | None:
        # Memory is full only if the file cannot be written; then nothing can be
        # removed from it either.
        if self._file is not None and not self._memory_is_full:
            try:
                if (dropped := self._file.drop_first()) is not None:
                    return dropped
            except SpoolCorrupt as error:
                self._begin_anew(error)
            except SpoolFault as error:
                self._report(error, "the newest messages are dropped instead")
        return super()._drop_oldest()

    def _forget(self, file: SpoolFile) -> None:
        try:
            file.forget_taken()
        except SpoolFault as error:
            self._report(error, "a restart would publish confirmed messages again")
        if not file.count:
            logger.info("the broker has all that was in %s", self._path)

    def _begin_anew(self, why: SpoolFault) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._in_flight_is_written = False
        try:
            _set_aside(self._path, why)
            self._file = SpoolFile(self._path)
        except SpoolFault as error:
            self._report(error, "from now on messages wait in memory only")

    def _report(self, error: SpoolFault, consequence: str) -> None:
        now = time.monotonic()
        if now - self._fault_logged_at >= _FAULT_LOG_INTERVAL_SECONDS:
            self._fault_logged_at = now
            logger.error("%s; %s", error, consequence)
