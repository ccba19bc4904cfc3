"""Imports the SQLite files of earlier versions, which had one for each store.

A token is written into the file first, and then stored in one transaction with the rows
of the file; then the file is renamed. If a process dies in between, either all rows are
imported or none, and the next process finds the token and only renames the file. No
other process may have the file open: a worker of the earlier version would continue to
write to it.

Several hosts may import files into one database. If two have the same row, the later
one is kept for states of rules and for alerts, and the first one otherwise.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, select

from meshtasks.config.private_files import file_lock
from meshtasks.errors import SinkUnavailable
from meshtasks.state.tables import (
    ALERT_EVENTS,
    ALERT_GROUPS,
    ALERT_MEMBERS,
    ALERT_NOTES,
    ALERTS,
    ALERTS_SEEN,
    ARCHIVE_CLAIMS,
    ARCHIVE_DAMAGED,
    ARCHIVE_GENERATION,
    ARCHIVE_IDS,
    ARCHIVE_PENDING,
    GATEWAY_REQUESTS,
    GATEWAY_TASKS,
    IMPORTS,
    RULE_STATES,
    SILENCES,
    WEBHOOK_CALLS,
    insert,
    storable,
)

_CHUNK_ROWS = 2_000
_BUSY_SECONDS = 5.0
#: ``user_version`` of the files that can be imported. The first journals had none.
_SHAPE = 1

_MARK = "CREATE TABLE IF NOT EXISTS imported (token TEXT NOT NULL)"


def import_file(
    path: Path, sink: str, connection: Connection, alone: AbstractContextManager[None]
) -> None:
    """Import a file, unless this was done before, and rename it.

    Args:
        path: the file; another process may have imported it in the meantime.
        sink: name of the sink whose store used the file.
        connection: a new connection to the database.
        alone: a transaction in which no other process or host imports a file.

    Raises:
        SinkUnavailable: another process has the file open, or it cannot be read.
    """
    with file_lock(path.with_name("import.lock")):
        if not path.exists():
            return
        with _translated(sink, path), closing(_opened(path)) as old:
            token = _token_of(old)
            with alone:
                known = select(IMPORTS.c.token).where(IMPORTS.c.token == token)
                if connection.execute(known).first() is None:
                    _copy(connection, old, path, sink)
                    values = {"token": token, "file": str(path), "at": time.time()}
                    connection.execute(insert(connection, IMPORTS), values)
        path.rename(_free_name(path))


def old_files(directory: Path) -> list[Path]:
    """Files of earlier versions in a directory that are not imported yet."""
    return [path for name in COPIES if (path := directory / name).exists()]


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file exclusively, with the content of its write-ahead log."""
    old = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        # Fails while another process has the file open.
        old.execute("PRAGMA journal_mode = DELETE")
        old.execute("PRAGMA locking_mode = EXCLUSIVE")
    except BaseException:
        old.close()
        raise
    return old


def _token_of(old: sqlite3.Connection) -> str:
    """The token of a file; a new one is written if it has none."""
    old.execute("BEGIN EXCLUSIVE")
    old.execute(_MARK)
    found = old.execute("SELECT token FROM imported").fetchone()
    token = found[0] if found else secrets.token_hex(16)
    if not found:
        old.execute("INSERT INTO imported VALUES (?)", (token,))
    old.execute("COMMIT")  # the lock is kept, see locking_mode
    return str(token)


@contextmanager
def _translated(sink: str, path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "move it away to begin without what is in it"
        if "locked" in str(error):
            hint = "stop the workers of the earlier version, which use it"
        message = f"{path}, of an earlier version, cannot be imported: {error}; {hint}"
        raise SinkUnavailable(sink, message) from error


def _free_name(path: Path) -> Path:
    """Unused name for a file that is imported."""
    name = path.with_name(f"{path.name}.imported")
    number = 1
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}.imported-{number}")
    return name


# --- the rows of each file ----------------------------------------------------


def _copy(
    connection: Connection, old: sqlite3.Connection, path: Path, sink: str
) -> None:
    tables = {
        name for (name,) in old.execute("SELECT name FROM sqlite_schema") if name
    } - {"imported"}
    ((shape,),) = old.execute("PRAGMA user_version")
    if not tables:
        return
    if shape != _SHAPE and not (shape == 0 and path.name == "archive.sqlite"):
        if path.name == "rules.sqlite":
            return  # rules start from the beginning
        message = (
            f"{path} is of another version of meshtasks than can be imported; "
            "move it away to begin without what is in it"
        )
        raise SinkUnavailable(sink, message)
    COPIES[path.name](connection, old)


def _add(
    connection: Connection,
    table: Table,
    columns: Iterable[str],
    rows: Iterable[tuple[Any, ...]],
    *,
    later: str = "",
) -> None:
    """Insert rows.

    Args:
        connection: connection in a transaction.
        table: table to insert into.
        columns: names of the columns.
        rows: values of the columns.
        later: column with a time: an existing row is replaced by one with a later time.
            Without it, existing rows are kept.
    """
    columns = tuple(columns)
    keys = {column.name for column in table.primary_key}
    statement = insert(connection, table)
    if later:
        new = statement.excluded
        statement = statement.on_conflict_do_update(
            index_elements=table.primary_key,
            set_={name: new[name] for name in columns if name not in keys},
            where=new[later] > table.c[later],
        )
    else:
        statement = statement.on_conflict_do_nothing()
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK_ROWS)):
        values = [
            {
                name: storable(value) if name in keys else value
                for name, value in zip(columns, row, strict=True)
            }
            for row in chunk
        ]
        connection.execute(statement, values)


def _rules(connection: Connection, old: sqlite3.Connection) -> None:
    names = "key", "state", "updated_at"
    rows = old.execute("SELECT key, state, updated_at FROM series")
    _add(connection, RULE_STATES, names, rows, later="updated_at")


def _webhooks(connection: Connection, old: sqlite3.Connection) -> None:
    rows = old.execute("SELECT record, workflow, at FROM taken")
    _add(connection, WEBHOOK_CALLS, ("record", "workflow", "at"), rows)


def _gateway(connection: Connection, old: sqlite3.Connection) -> None:
    for table, name in ((GATEWAY_TASKS, "tasks"), (GATEWAY_REQUESTS, "requests")):
        columns = table.columns.keys()
        rows = old.execute(f"SELECT {', '.join(columns)} FROM {name}")  # noqa: S608 - constants
        _add(connection, table, columns, rows)


def _alerts(connection: Connection, old: sqlite3.Connection) -> None:
    _add(
        connection,
        ALERTS,
        ("fingerprint", "state", "firing", "received_at", "ends_at"),
        (
            (name, state, bool(firing), *times)
            for name, state, firing, *times in old.execute(
                "SELECT fingerprint, state, firing, heard_at, ends_at FROM alerts"
            )
        ),
        later="received_at",
    )
    names = "id", "state", "tag", "wake_at", "urgency", "claimed_until"
    rows = old.execute(
        "SELECT id, state, tag, wake_at, urgency, claimed_until FROM groups"
    )
    _add(connection, ALERT_GROUPS, names, rows)
    groups = set(connection.execute(select(ALERT_GROUPS.c.id)).scalars())
    members = old.execute("SELECT group_id, fingerprint, told FROM members")
    _add(
        connection,
        ALERT_MEMBERS,
        ("group_id", "fingerprint", "notified", "pending"),
        (
            (group, name, told, bool(json.loads(told).get("owed")))
            for group, name, told in members
            if group in groups  # a group with the tag of an existing one is skipped
        ),
    )
    _add(connection, ALERTS_SEEN, ("id", "at"), old.execute("SELECT id, at FROM seen"))
    names_of_silence = "id", "state", "ends_at"
    rows = old.execute("SELECT id, state, ends_at FROM silences")
    _add(connection, SILENCES, names_of_silence, rows)
    rows = old.execute("SELECT state FROM events ORDER BY number")
    _add(connection, ALERT_EVENTS, ("state",), rows)
    rows = old.execute("SELECT name, value FROM notes")
    _add(connection, ALERT_NOTES, ("name", "value"), rows)


def _archive(connection: Connection, old: sqlite3.Connection) -> None:
    generation = connection.execute(select(ARCHIVE_GENERATION)).first()
    current = generation.current if generation else 0
    for name, number in (("current", current), ("previous", 1 - current)):
        rows = old.execute(f"SELECT id FROM {name}")  # noqa: S608 - constants
        _add(connection, ARCHIVE_IDS[number], ("id",), rows)
    pending = old.execute("SELECT name, ids FROM pending").fetchall()
    _add(connection, ARCHIVE_PENDING, ("name", "ids"), pending)
    claims = ((each,) for _, ids in pending for each in json.loads(ids))
    _add(connection, ARCHIVE_CLAIMS, ("id",), claims)
    rows = old.execute("SELECT name, fault FROM damaged")
    _add(connection, ARCHIVE_DAMAGED, ("name", "fault"), rows)
    for started_at, count in old.execute("SELECT started_at, ids FROM generation"):
        if generation is None:
            row = {"id": 1, "current": 0, "started_at": started_at, "ids": count}
            connection.execute(insert(connection, ARCHIVE_GENERATION), row)
        else:
            ids = ARCHIVE_GENERATION.c.ids + count
            connection.execute(ARCHIVE_GENERATION.update().values(ids=ids))


#: Import functions by name of the file.
COPIES: dict[str, Callable[[Connection, sqlite3.Connection], None]] = {
    "rules.sqlite": _rules,
    "alerts.sqlite": _alerts,
    "archive.sqlite": _archive,
    "webhooks.sqlite": _webhooks,
    "gateway.sqlite": _gateway,
}
