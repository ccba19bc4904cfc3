r"""The journal of archived records; it prevents archiving a record twice.

The broker redelivers a message if its worker died or lost its connection after storing
the record and before acknowledging the message. The message is then part of another
batch, so the name of the object does not reveal the repetition; the id of the record
does. The journal keeps the ids of stored records and, before an object is written, the
claims to its records::

    (unknown) --claim--> pending --finish--> stored
                            \----forget---> (unknown)
                            \---set aside--> (unknown), and the object is damaged

Each step is durable before the next one begins. If the worker of a pending object died,
or lost its connection to the store or to the state, the store is checked for the
object. A damaged object is recorded as such. It is forgotten like a missing one: its
messages were not acknowledged, so they are redelivered, and their records are stored in
another object.

With SQLite, one process of the host at a time holds the journal, from the look-up of
ids until its objects are recorded as stored. So pending objects at the beginning belong
to no running process. With PostgreSQL, several workers archive at the same time. A
claim is a row with the id of the record as unique key: if two workers have the same
message, one gets the claim, and the other retries later. The session of a worker holds
an advisory lock, whose number is stored with its pending objects. If the lock is free,
the worker is gone, and another one adopts the objects. Locks do not survive a restart
of the server; so in any case objects may be adopted ten minutes after their claim.

The size is bounded. Ids are added to a generation. When it has a million ids or is
eight days old, the previous generation is deleted and a new one begins (eight days,
because a message that fails repeatedly is given up after seven). So an id is known for
at least eight days or a million records, whichever comes first, and a file stays below
200 MB.

Measured with two million ids in a SQLite file: look-up and storing of 5,000 ids takes
12 ms if they sort by time, like those that the mesh makes, and 200 ms if they are
random (UUIDv4), because each one is on another page.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, delete, select, text
from typing_extensions import override

from meshtasks.config.private_files import file_lock
from meshtasks.errors import SinkUnavailable
from meshtasks.state.database import LOCK_CLASS, Database, StateLocation
from meshtasks.state.tables import (
    ARCHIVE_DAMAGED,
    ARCHIVE_GENERATION,
    ARCHIVE_IDS,
    put,
    storables,
)

logger = logging.getLogger(__name__)

#: Name of the sink in handlers, circuits and errors.
SINK = "journal"

#: A generation ends at this age, or with this number of ids.
_GENERATION_SECONDS = 8 * 86_400.0
_GENERATION_IDS = 1_000_000
#: Longest wait for the batch of another process: about the longest time that its calls
#: to the object store can take.
_HOLD_TIMEOUT_SECONDS = 120.0

# Statements for SQLite; the driver runs them directly, since every batch needs them.
_FILE_STORED = """
SELECT value FROM json_each(?) WHERE value IN (SELECT id FROM archive_ids_0)
OR value IN (SELECT id FROM archive_ids_1)
"""
_FILE_INTEND = "INSERT OR REPLACE INTO archive_pending (name, ids) VALUES (?, ?)"
_FILE_ADD = """
INSERT OR IGNORE INTO {table}
SELECT value FROM archive_pending, json_each(archive_pending.ids) WHERE name = ?
"""

_FILE_FORGET = "DELETE FROM archive_pending WHERE name = ?"
_FILE_HEALED = "DELETE FROM archive_damaged WHERE name = ?"

# Statements for both databases.
_PENDING = "SELECT name FROM archive_pending"
_CURRENT = "SELECT current FROM archive_generation"
_COUNT = """
INSERT INTO archive_generation (id, current, started_at, ids)
VALUES (1, 0, :now, :count)
ON CONFLICT (id) DO UPDATE SET ids = archive_generation.ids + excluded.ids
RETURNING ids, started_at
"""

# Statements for PostgreSQL.
_OWNERS = LOCK_CLASS + 1  # first key of the advisory locks of workers
_LEASE_SECONDS = 600.0  # an older claim may be adopted in any case
_OWN = text("SELECT pg_advisory_lock(:class, :owner)")
_SERVER = "EXTRACT(EPOCH FROM pg_postmaster_start_time())::text"
_NOW = "EXTRACT(EPOCH FROM clock_timestamp())"
_STORED = text("""
SELECT id FROM archive_ids_0 WHERE id = ANY(CAST(:ids AS text[]))
UNION SELECT id FROM archive_ids_1 WHERE id = ANY(CAST(:ids AS text[]))
""")
#: In the order of the ids, which prevents deadlocks.
_CLAIM = text("""
INSERT INTO archive_claims (id) SELECT unnest(CAST(:ids AS text[]))
ON CONFLICT DO NOTHING RETURNING id
""")
_UNCLAIM = text("DELETE FROM archive_claims WHERE id = ANY(CAST(:ids AS text[]))")
_INTEND = text(f"""
INSERT INTO archive_pending (name, ids, owner, server, claimed_at)
VALUES (:name, :ids, :owner, {_SERVER}, {_NOW})
""")  # noqa: S608 - ours
_ADOPT = text(f"""
UPDATE archive_pending SET owner = :owner, server = {_SERVER}, claimed_at = {_NOW}
WHERE owner IS NULL OR owner = ANY(CAST(:own AS int[]))
OR claimed_at < {_NOW} - :lease
OR (server = {_SERVER} AND NOT EXISTS (
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND classid = :class
    AND objid = archive_pending.owner
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
))
RETURNING name
""")  # noqa: S608 - ours
_RELEASE = text("""
UPDATE archive_pending SET owner = NULL
WHERE name = :name AND owner = ANY(CAST(:own AS int[]))
""")
_TAKE = text("""
DELETE FROM archive_pending WHERE name = :name AND owner = ANY(CAST(:own AS int[]))
RETURNING ids
""")
_ADD = """
INSERT INTO {table} (id) SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING
"""

_DAMAGED = ARCHIVE_DAMAGED.c


@dataclass(frozen=True, slots=True)
class Claim:
    """The claims to the records of a batch.

    Attributes:
        new: ids of records that are neither stored nor claimed by another worker.
        busy: ids of records that another worker is storing.
        intend: function that records the objects to be written: name → ids.
    """

    new: frozenset[str]
    busy: frozenset[str]
    intend: Callable[[Mapping[str, Sequence[str]]], None]


class ArchiveJournal(Database):
    """The journal in the state.

    All methods raise :class:`~meshtasks.errors.SinkUnavailable` if the state cannot be
    read or written.

    Args:
        location: where the state is.
        generation_ids: number of ids in a full generation.
        clock: returns the current time in epoch seconds.
    """

    def __init__(
        self,
        location: StateLocation,
        *,
        generation_ids: int = _GENERATION_IDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Not disposable: if a power cut undid a step, records would be stored twice.
        super().__init__(SINK, location, "archive.sqlite")
        self._generation_ids = generation_ids
        self._clock = clock
        #: Numbers of the sessions of this worker, the current one last.
        self._owners: list[int] = []

    @override
    def opened(self, connection: Connection) -> None:
        if self.is_shared:
            number = secrets.randbelow(2**31)
            connection.execute(_OWN, {"class": _OWNERS, "owner": number})
            connection.commit()
            self._owners = [*self._owners[-9:], number]

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the journal in the block, if the state is a file.

        All methods below must be called in such a block. It waits up to two minutes for
        other processes of the host. The end of a process releases the journal.

        Raises:
            SinkUnavailable: another process held the journal during all this time.
        """
        with ExitStack() as stack:
            if not self.is_shared:
                self._lock(stack)
            yield

    def _lock(self, stack: ExitStack) -> None:
        path = self.location.path.with_name("archive.lock")
        lock = file_lock(path, timeout_seconds=_HOLD_TIMEOUT_SECONDS)
        try:
            held = stack.enter_context(lock)
        except OSError as error:
            raise self._unavailable(error) from error
        if not held:
            message = (
                f"another process has held {path} for more than "
                f"{_HOLD_TIMEOUT_SECONDS:g} s"
            )
            raise SinkUnavailable(SINK, message)

    @contextmanager
    def claim(self, ids: Iterable[str]) -> Iterator[Claim]:
        """Claim records that are neither stored nor claimed.

        The block is one transaction: if it raises, nothing is claimed.

        Args:
            ids: ids of the records. The block passes the new ones to
                :attr:`Claim.intend`, each in one object; the others are released.

        Yields:
            The result.
        """
        names = storables(ids)
        with self.transaction() as connection:
            find = self._find if self.is_shared else self._find_in_file
            stored, busy = find(connection, list(names))
            others = stored | busy
            new = frozenset(
                [key for name, key in names.items() if name not in others]
                if others
                else names.values()
            )
            unused = names.keys() - others if self.is_shared else set()

            def intend(objects: Mapping[str, Sequence[str]]) -> None:
                rows = {name: list(storables(ids)) for name, ids in objects.items()}
                if unused:
                    unused.difference_update(*rows.values())
                self._intend(connection, rows)

            yield Claim(new, frozenset(map(names.__getitem__, busy)), intend)
            if unused:
                connection.execute(_UNCLAIM, {"ids": sorted(unused)})

    def _find_in_file(
        self, _connection: Connection, ids: list[str]
    ) -> tuple[set[str], set[str]]:
        stored = self.sqlite.execute(_FILE_STORED, (_as_json(ids),))
        return {each for (each,) in stored}, set()

    def _find(
        self, connection: Connection, ids: list[str]
    ) -> tuple[set[str], set[str]]:
        """Claim free ids; return the stored ids and those that others have claimed."""
        claimed = set(connection.execute(_CLAIM, {"ids": sorted(ids)}).scalars())
        # After the claim, so that it sees what another worker has just finished.
        stored = set(connection.execute(_STORED, {"ids": ids}).scalars())
        if again := sorted(claimed & stored):
            connection.execute(_UNCLAIM, {"ids": again})
        return stored, set(ids) - claimed - stored

    def _intend(
        self, connection: Connection, objects: Mapping[str, Sequence[str]]
    ) -> None:
        rows = [(name, _as_json(ids)) for name, ids in objects.items()]
        if not self.is_shared:
            self.sqlite.executemany(_FILE_INTEND, rows)
            return
        owner = self._owners[-1]
        values = [{"name": name, "ids": ids, "owner": owner} for name, ids in rows]
        if values:
            connection.execute(_INTEND, values)

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids whose records are stored."""
        names = storables(ids)
        with self.transaction() as connection:
            if self.is_shared:
                found = connection.execute(_STORED, {"ids": list(names)}).scalars()
                return {names[each] for each in found}
            rows = self.sqlite.execute(_FILE_STORED, (_as_json(list(names)),))
            return {names[each] for (each,) in rows}

    def pending(self) -> list[str]:
        """Names of pending objects: it is unknown whether they are stored."""
        with self.transaction() as connection:
            if not self.is_shared:
                return [name for (name,) in self.sqlite.execute(_PENDING)]
            return list(connection.execute(text(_PENDING)).scalars())

    def abandoned(self) -> list[str]:
        """Adopt the pending objects without a running worker, and return their names.

        They include those of earlier sessions of this worker.
        """
        if not self.is_shared:
            return self.pending()
        with self.transaction() as connection:
            values = {
                "owner": self._owners[-1],
                "own": self._owners,
                "lease": _LEASE_SECONDS,
                "class": _OWNERS,
            }
            return list(connection.execute(_ADOPT, values).scalars())

    def release(self, name: str) -> None:
        """Release a pending object, so that any worker may adopt it."""
        if self.is_shared:
            with self.transaction() as connection:
                connection.execute(_RELEASE, {"name": name, "own": self._owners})

    def finish(self, names: Collection[str]) -> None:
        """Record that these pending objects are stored."""
        now = self._clock()
        with self.transaction() as connection:
            finish = self._finish if self.is_shared else self._finish_in_file
            ids, started_at = finish(connection, names, now)
        if ids >= self._generation_ids or now - started_at >= _GENERATION_SECONDS:
            self._begin_generation()

    def _finish_in_file(
        self, _connection: Connection, names: Collection[str], now: float
    ) -> tuple[int, float]:
        """Return the number of ids in the generation, and its beginning."""
        db = self.sqlite
        found = db.execute(_CURRENT).fetchone()
        add = _FILE_ADD.format(table=ARCHIVE_IDS[found[0] if found else 0].name)
        count = sum(db.execute(add, (name,)).rowcount for name in names)
        rows = [(name,) for name in names]
        db.executemany(_FILE_FORGET, rows)
        db.executemany(_FILE_HEALED, rows)
        values = {"now": now, "count": count}
        (row,) = db.execute(_COUNT, values).fetchall()
        ids, started_at = row
        return ids, started_at

    def _finish(
        self, connection: Connection, names: Collection[str], now: float
    ) -> tuple[int, float]:
        current = connection.execute(text(_CURRENT)).scalar() or 0
        table = ARCHIVE_IDS[current].name
        count = sum(self._add(connection, table, name) for name in names)
        healed = delete(ARCHIVE_DAMAGED).where(_DAMAGED.name.in_(names))
        connection.execute(healed)
        values = {"now": now, "count": count}
        ids, started_at = connection.execute(text(_COUNT), values).one()
        return ids, started_at

    def _add(self, connection: Connection, table: str, name: str) -> int:
        ids = self._take(connection, name)
        if ids is None:
            logger.warning(
                "the archive object %s was stored after another worker had taken it "
                "over; its records may be archived twice (meshtasks archive verify)",
                name,
            )
            return 0
        connection.execute(text(_ADD.format(table=table)), {"ids": ids})
        return len(ids)

    def _take(self, connection: Connection, name: str) -> list[str] | None:
        """Remove a pending object of this worker and the claims to its records.

        Returns:
            The ids of the records; None if the object is not of this worker.
        """
        own = {"name": name, "own": self._owners}
        found = connection.execute(_TAKE, own).scalar()
        if found is None:
            return None
        ids: list[str] = msgspec.json.decode(found)
        connection.execute(_UNCLAIM, {"ids": ids})
        return ids

    def _begin_generation(self) -> None:
        """Delete the older ids, and use their table for new ones.

        Does nothing if another process was faster.
        """
        with self.transaction() as connection:
            query = select(ARCHIVE_GENERATION).with_for_update()
            row = connection.execute(query).one()
            now = self._clock()
            age = now - row.started_at
            if row.ids < self._generation_ids and age < _GENERATION_SECONDS:
                return
            older = 1 - row.current
            connection.execute(delete(ARCHIVE_IDS[older]))
            change = ARCHIVE_GENERATION.update()
            connection.execute(change.values(current=older, started_at=now, ids=0))

    def forget(self, names: Iterable[str]) -> None:
        """Record that these pending objects are not stored and will not be."""
        with self.transaction() as connection:
            self._forget(connection, names)

    def _forget(self, connection: Connection, names: Iterable[str]) -> None:
        if not self.is_shared:
            self.sqlite.executemany(_FILE_FORGET, [(name,) for name in names])
            return
        for name in names:
            self._take(connection, name)

    def set_aside(self, name: str, fault: str) -> None:
        """Record that this pending object is in the store, but damaged."""
        with self.transaction() as connection:
            values = {"name": name, "fault": fault}
            connection.execute(put(connection, ARCHIVE_DAMAGED), values)
            self._forget(connection, [name])

    def damaged(self) -> dict[str, str]:
        """The faults of damaged objects, by name.

        An object is listed until one with its name is stored.
        """
        with self.transaction() as connection:
            rows = connection.execute(select(_DAMAGED.name, _DAMAGED.fault))
            return dict(rows.all())


def _as_json(ids: Sequence[str]) -> str:
    return msgspec.json.encode(ids).decode()
