"""Exports the state to JSON lines and imports it: for backups, and to change databases.

The first line is a header: ``{"meshtasks_state": "<revision>"}``. Every other line is a
row: ``{"table": "silences", "row": {"id": …}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from sqlalchemy import Connection, Table, delete, func, select, text

from meshtasks.errors import SchemaMismatch
from meshtasks.state.database import Database
from meshtasks.state.tables import (
    ALERT_EVENTS,
    ARCHIVE_CLAIMS,
    ARCHIVE_PENDING,
    IMPORTS,
    METADATA,
    PROBES,
    REVISION,
    insert,
)

_CHUNK_ROWS = 2_000
#: Tables that are not exported. Claims are rebuilt from pending objects; tokens of
#: imported files concern only the database that has their rows.
_OWN = (PROBES, IMPORTS, ARCHIVE_CLAIMS)
#: Exported tables, ordered so that referenced rows come first.
TABLES = tuple(table for table in METADATA.sorted_tables if table not in _OWN)
_BY_NAME = {table.name: table for table in TABLES}
#: Columns about the session of a worker, which is unknown in another database.
_PER_SESSION = {"owner": None, "server": None}


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    meshtasks_state: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    table: str
    row: dict[str, JsonValue]


def counts(connection: Connection) -> dict[str, int]:
    """Number of rows, by name of the table."""
    return {
        table.name: connection.execute(
            select(func.count()).select_from(table)
        ).scalar_one()
        for table in TABLES
    }


def lines_of(database: Database) -> Iterator[str]:
    """Yield the lines of a consistent export.

    Raises:
        SinkUnavailable: the database cannot be read.
    """
    yield json.dumps({"meshtasks_state": REVISION})
    with database.snapshot() as connection:
        for table in TABLES:
            query = select(table).order_by(*table.primary_key)
            streamed = query.execution_options(yield_per=_CHUNK_ROWS)
            for row in connection.execute(streamed).mappings():
                values = dict(row)
                if table is ARCHIVE_PENDING:
                    values |= _PER_SESSION
                yield json.dumps({"table": table.name, "row": values})


def load(database: Database, lines: Iterable[str], *, replace: bool = False) -> int:
    """Import lines into a database, in one transaction.

    Args:
        database: database to import into.
        lines: lines as from :func:`lines_of`.
        replace: whether to delete existing rows; if false, the database must be empty.

    Returns:
        Number of imported rows.

    Raises:
        SchemaMismatch: a line is invalid, the export has another revision, or the
            database is not empty.
        SinkUnavailable: the database cannot be written.
    """
    rows = _rows(iter(lines))
    count = 0
    with database.transaction(exclusive=True) as connection:
        filled = [name for name, number in counts(connection).items() if number]
        if filled and not replace:
            message = f"{database.location} is not empty: it has {', '.join(filled)}"
            raise SchemaMismatch(message)
        for table in reversed(METADATA.sorted_tables):
            if table is not IMPORTS:
                connection.execute(delete(table))
        for table, group in groupby(rows, key=lambda each: each[0]):
            values = (row for _, row in group)
            while chunk := list(islice(values, _CHUNK_ROWS)):
                connection.execute(insert(connection, table), chunk)
                count += len(chunk)
        if database.is_shared:
            _complete(connection)
    return count


def _rows(lines: Iterator[str]) -> Iterator[tuple[Table, dict[str, Any]]]:
    first = next(lines, "")
    try:
        revision = _Header.model_validate_json(first).meshtasks_state
    except ValidationError as error:
        message = "line 1: this is no export of a state (meshtasks state export)"
        raise SchemaMismatch(message) from error
    if revision != REVISION:
        message = (
            f"line 1: the export has tables of revision {revision}, this version has "
            f"{REVISION}: import it with the version that made it, then upgrade"
        )
        raise SchemaMismatch(message)
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        try:
            found = _Row.model_validate_json(line)
            table = _BY_NAME[found.table]
        except (ValidationError, KeyError) as error:
            message = f"line {number}: expected a row of one of the state's tables"
            raise SchemaMismatch(message) from error
        if found.row.keys() != set(table.columns.keys()):
            message = f"line {number}: expected the columns of {table.name}"
            raise SchemaMismatch(message)
        yield table, found.row


def _complete(connection: Connection) -> None:
    """Rebuild what PostgreSQL needs besides the rows: claims, and a sequence."""
    for (ids,) in connection.execute(select(ARCHIVE_PENDING.c.ids)).all():
        claim = insert(connection, ARCHIVE_CLAIMS).on_conflict_do_nothing()
        if rows := [{"id": name} for name in json.loads(ids)]:
            connection.execute(claim, rows)
    last = select(func.max(ALERT_EVENTS.c.number))
    if (number := connection.execute(last).scalar()) is not None:
        sequence = "pg_get_serial_sequence('alert_events', 'number')"
        connection.execute(text(f"SELECT setval({sequence}, :n)"), {"n": number})
