r"""Which records are archived, so that none is archived twice.

A message is delivered again when its worker died, or lost its connection, between
storing the record and acknowledging the message. It then comes in a batch with
other neighbours, so the object's name does not show the repetition; the record's
id does. The journal keeps the ids of stored records and, before an object is put,
the claim to these records::

    (unknown) --claim--> pending --finish--> stored
                            \----forget---> (unknown)
                            \---set aside--> (unknown), and the object is damaged

Every step is durable before the next begins. A pending object whose worker is gone was
cut off by its death or lost touch with the store, and a look into the store tells
whether the object is there, and sound. One that is there and damaged is noted as such
and else forgotten: its messages were never acknowledged, so they come again, and their
records are stored in another object.

In a SQLite file, one process of the host at a time holds the journal, from looking up
ids to having noted the objects as stored: what is pending then is nobody's. In
PostgreSQL several workers archive at the same time. Each record is claimed by a row
with its id as unique key, so of two workers given the same message one gets it, and the
other tries again later. A worker's session holds an advisory lock, whose number stands
with its pending objects. When it is free the worker is gone, and another one adopts
them. If the server was restarted the locks say nothing; then a claim lasts ten minutes.

The size is bounded: ids go into a generation; when it has a million ids, or is eight
days old (a message that keeps failing is given up after seven), the one before is
dropped and a new one begun. So an id is known for eight days, or for a million
records if those come sooner, and a file stays below 200 MB.

Measured with two million ids in a SQLite file: looking up and storing 5,000 takes 12 ms
when they sort by time, as the mesh's own do, and 200 ms when they are random (UUIDv4),
because each then falls on a page of its own.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec
from typing_extensions import override

from meshtasks.config.private_files import file_lock
from meshtasks.errors import SinkUnavailable
from meshtasks.state.connecting import LOCK_CLASS, Link, Rows, Transaction
from meshtasks.state.database import Database, StateLocation, upsert
from meshtasks.state.keys import storables

logger = logging.getLogger(__name__)

#: The sink's name in handlers, circuits and errors.
SINK = "journal"

_GENERATION_SECONDS = 8 * 86_400.0
_GENERATION_IDS = 1_000_000
#: Longest wait for another process to finish its batch: about what its calls to the
#: object store can take at worst.
_HOLD_TIMEOUT_SECONDS = 120.0

# Statements of SQLite, by the driver: each batch makes them.
_FILE_STORED = """
SELECT value FROM json_each(?) WHERE value IN (SELECT id FROM archive_ids_0)
OR value IN (SELECT id FROM archive_ids_1)
"""
_FILE_INTEND = "INSERT OR REPLACE INTO archive_pending (name, ids) VALUES (?, ?)"
_FILE_ADD = """
INSERT OR IGNORE INTO {table}
SELECT value FROM archive_pending, json_each(archive_pending.ids) WHERE name = ?
"""

_FILE_FORGET = "DELETE FROM archive_pending WHERE name = :name"

# Statements of both.
_PENDING = "SELECT name FROM archive_pending"
_HEALED = "DELETE FROM archive_damaged WHERE name = :name"
_SET_ASIDE = upsert("archive_damaged", ("name",), ("fault",))
#: Ids of archived records: the younger ones, and those of the generation before.
_IDS = "archive_ids_0", "archive_ids_1"
_GENERATION = "SELECT current, started_at, ids FROM archive_generation"
_BEGIN = "UPDATE archive_generation SET current = :current, started_at = :now, ids = 0"
_CURRENT = "SELECT current FROM archive_generation"
_COUNT = """
INSERT INTO archive_generation (id, current, started_at, ids)
VALUES (1, 0, :now, :count)
ON CONFLICT (id) DO UPDATE SET ids = archive_generation.ids + excluded.ids
RETURNING ids, started_at
"""

# Statements of PostgreSQL.
_OWNERS = LOCK_CLASS + 1  # first half of the numbers of the workers' locks
_LEASE_SECONDS = 600.0
_OWN = "SELECT pg_advisory_lock(:class, :owner)"
_SERVER = "EXTRACT(EPOCH FROM pg_postmaster_start_time())::text"
_NOW = "EXTRACT(EPOCH FROM clock_timestamp())"
_STORED = """
SELECT id FROM archive_ids_0 WHERE id = ANY(CAST(:ids AS text[]))
UNION SELECT id FROM archive_ids_1 WHERE id = ANY(CAST(:ids AS text[]))
"""
#: In the order of the ids: who waits for an id has those before it.
_CLAIM = """
INSERT INTO archive_claims (id) SELECT unnest(CAST(:ids AS text[]))
ON CONFLICT DO NOTHING RETURNING id
"""
_UNCLAIM = "DELETE FROM archive_claims WHERE id = ANY(CAST(:ids AS text[]))"
_INTEND = f"""
INSERT INTO archive_pending (name, ids, owner, server, claimed_at)
VALUES (:name, :ids, :owner, {_SERVER}, {_NOW})
"""  # noqa: S608 - ours
_ADOPT = f"""
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
"""  # noqa: S608 - ours
_RELEASE = """
UPDATE archive_pending SET owner = NULL
WHERE name = :name AND owner = ANY(CAST(:own AS int[]))
"""
_TAKE = """
DELETE FROM archive_pending WHERE name = :name AND owner = ANY(CAST(:own AS int[]))
RETURNING ids
"""
_ADD = """
INSERT INTO {table} (id) SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What was found out about the records of a batch.

    Attributes:
        new: ids of those that are neither stored nor another worker's.
        busy: ids of those that another worker is storing.
        intend: notes the objects that are about to be put, with the ids of each.
    """

    new: frozenset[str]
    busy: frozenset[str]
    intend: Callable[[Mapping[str, Sequence[str]]], None]


class ArchiveJournal(Database):
    """The journal in the state.

    All methods raise :class:`~meshtasks.errors.SinkUnavailable` when the state cannot
    be read or written.

    Args:
        location: where the state is.
        generation_ids: ids after which a generation is full.
        clock: gives epoch seconds.
    """

    def __init__(
        self,
        location: StateLocation,
        *,
        generation_ids: int = _GENERATION_IDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Durable: a step that a power cut undoes would store records twice.
        super().__init__(SINK, location, "archive.sqlite")
        self._generation_ids = generation_ids
        self._clock = clock
        #: Numbers of this worker's sessions, the present one last.
        self._owners: list[int] = []

    @override
    def opened(self, link: Link) -> None:
        if self.is_shared:
            number = secrets.randbelow(2**31)
            with link.transaction() as db:  # the session has it
                db.execute(_OWN, {"class": _OWNERS, "owner": number})
            self._owners = [*self._owners[-9:], number]

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the other processes of the host out, where the state is a file; all
        methods below are called within.

        A process that dies lets go. Waits for its turn, for two minutes at most.

        Raises:
            SinkUnavailable: another process has held it all that time.
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
        """Take the records that nobody has; all of the block is done or nothing.

        Args:
            ids: of the records. Those that are new are to be given to
                :attr:`Claim.intend`, each in one object.
        """
        names = storables(ids)
        with self.transaction() as db:
            find = self._find if self.is_shared else self._find_in_file
            stored, busy = find(db, list(names))
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
                self._intend(db, rows)

            yield Claim(new, frozenset(map(names.__getitem__, busy)), intend)
            if unused:
                db.execute(_UNCLAIM, {"ids": sorted(unused)})

    def _find_in_file(
        self, db: Transaction, ids: list[str]
    ) -> tuple[set[str], set[str]]:
        stored = db.execute(_FILE_STORED, (_as_json(ids),))
        return _names(stored), set()

    def _find(self, db: Transaction, ids: list[str]) -> tuple[set[str], set[str]]:
        """Claim what nobody has; returns what is stored and what others store."""
        claimed = _names(db.execute(_CLAIM, {"ids": sorted(ids)}))
        # Only now: this statement sees what another worker has finished meanwhile.
        stored = _names(db.execute(_STORED, {"ids": ids}))
        if again := sorted(claimed & stored):
            db.execute(_UNCLAIM, {"ids": again})
        return stored, set(ids) - claimed - stored

    def _intend(self, db: Transaction, objects: Mapping[str, Sequence[str]]) -> None:
        rows = [(name, _as_json(ids)) for name, ids in objects.items()]
        if not self.is_shared:
            db.executemany(_FILE_INTEND, rows)
            return
        owner = self._owners[-1]
        values = [{"name": name, "ids": ids, "owner": owner} for name, ids in rows]
        if values:
            db.execute(_INTEND, values)

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that stand in objects already stored."""
        names = storables(ids)
        with self.transaction() as db:
            if self.is_shared:
                rows = db.execute(_STORED, {"ids": list(names)})
            else:
                rows = db.execute(_FILE_STORED, (_as_json(list(names)),))
            return {names[each] for (each,) in rows}

    def pending(self) -> list[str]:
        """Names of objects that were to be put, and are not known to be."""
        with self.transaction() as db:
            return [name for (name,) in db.execute(_PENDING)]

    def abandoned(self) -> list[str]:
        """Names of the pending objects that no worker is at work on; they are this
        worker's from now on."""
        if not self.is_shared:
            return self.pending()
        with self.transaction() as db:
            values = {
                "owner": self._owners[-1],
                "own": self._owners,
                "lease": _LEASE_SECONDS,
                "class": _OWNERS,
            }
            return [name for (name,) in db.execute(_ADOPT, values)]

    def release(self, name: str) -> None:
        """Leave a pending object to whoever comes next."""
        if self.is_shared:
            with self.transaction() as db:
                db.execute(_RELEASE, {"name": name, "own": self._owners})

    def finish(self, names: Collection[str]) -> None:
        """Note that these pending objects are stored."""
        now = self._clock()
        with self.transaction() as db:
            finish = self._finish if self.is_shared else self._finish_in_file
            ids, started_at = finish(db, names, now)
        if ids >= self._generation_ids or now - started_at >= _GENERATION_SECONDS:
            self._begin_generation()

    def _finish_in_file(
        self, db: Transaction, names: Collection[str], now: float
    ) -> tuple[int, float]:
        """Returns how many ids the generation has now, and when it was begun."""
        add = _FILE_ADD.format(table=_table_for_new(db))
        count = sum(db.execute(add, (name,)).rowcount for name in names)
        rows = [{"name": name} for name in names]
        db.executemany(_FILE_FORGET, rows)
        db.executemany(_HEALED, rows)
        values = {"now": now, "count": count}
        (row,) = db.execute(_COUNT, values).fetchall()
        ids, started_at = row
        return ids, started_at

    def _finish(
        self, db: Transaction, names: Collection[str], now: float
    ) -> tuple[int, float]:
        table = _table_for_new(db)
        count = sum(self._add(db, table, name) for name in names)
        db.executemany(_HEALED, [{"name": name} for name in names])
        (row,) = db.execute(_COUNT, {"now": now, "count": count}).fetchall()
        ids, started_at = row
        return ids, started_at

    def _add(self, db: Transaction, table: str, name: str) -> int:
        ids = self._take(db, name)
        if ids is None:
            logger.warning(
                "the archive object %s was stored after another worker had taken it "
                "over; its records may be archived twice (meshtasks archive verify)",
                name,
            )
            return 0
        db.execute(_ADD.format(table=table), {"ids": ids})
        return len(ids)

    def _take(self, db: Transaction, name: str) -> list[str] | None:
        """End the pending of an object of ours, and the claims to its records; returns
        their ids, None if it is not ours."""
        own = {"name": name, "own": self._owners}
        found = db.execute(_TAKE, own).fetchone()
        if found is None:
            return None
        ids: list[str] = msgspec.json.decode(found[0])
        db.execute(_UNCLAIM, {"ids": ids})
        return ids

    def _begin_generation(self) -> None:
        """Drop the older ids, and let their table take the new ones; unless another
        process was faster."""
        with self.transaction() as db:
            lock = " FOR UPDATE" if self.is_shared else ""
            (row,) = db.execute(_GENERATION + lock).fetchall()
            current, started_at, ids = row
            now = self._clock()
            age = now - started_at
            if ids < self._generation_ids and age < _GENERATION_SECONDS:
                return
            older = 1 - current
            db.execute(f"DELETE FROM {_IDS[older]}")  # noqa: S608 - ours
            db.execute(_BEGIN, {"current": older, "now": now})

    def forget(self, names: Iterable[str]) -> None:
        """Note that these pending objects are not stored and will not be."""
        with self.transaction() as db:
            self._forget(db, names)

    def _forget(self, db: Transaction, names: Iterable[str]) -> None:
        if not self.is_shared:
            db.executemany(_FILE_FORGET, [{"name": name} for name in names])
            return
        for name in names:
            self._take(db, name)

    def set_aside(self, name: str, fault: str) -> None:
        """Note that this pending object is in the store and damaged."""
        with self.transaction() as db:
            db.execute(_SET_ASIDE, {"name": name, "fault": fault})
            self._forget(db, [name])

    def damaged(self) -> dict[str, str]:
        """What is wrong with the objects that were set aside, by name, until an
        object of that name is stored."""
        with self.transaction() as db:
            return dict(
                db.execute("SELECT name, fault FROM archive_damaged").fetchall()
            )


def _as_json(ids: Sequence[str]) -> str:
    return msgspec.json.encode(ids).decode()


def _names(rows: Rows) -> set[str]:
    return {name for (name,) in rows}


def _table_for_new(db: Transaction) -> str:
    """The table that takes new ids."""
    found = db.execute(_CURRENT).fetchone()
    return _IDS[found[0] if found else 0]
