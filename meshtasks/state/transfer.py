"""The state as lines of JSON: for backups, and to move it from one database to another.

The first line says what follows: ``{"meshtasks_state": "<revision>"}``. Each other line
is one row: ``{"table": "silences", "row": {"id": …}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from sqlalchemy import Connection, Table, delete, func, select, text

from meshtasks.errors import SchemaMismatch
from meshtasks.state.database import Database, insert
from meshtasks.state.tables import (
    ALERT_EVENTS,
    ARCHIVE_CLAIMS,
    ARCHIVE_PENDING,
    IMPORTS,
    METADATA,
    PROBES,
    REVISION,
)

_CHUNK_ROWS = 2_000
#: What belongs to a database rather than to the mesh. Claims are made from what is
#: pending; the tokens of imported files stay with the database that has their rows.
_OWN = (PROBES, IMPORTS, ARCHIVE_CLAIMS)
#: In an order in which every row finds those that it refers to.
TABLES = tuple(table for table in METADATA.sorted_tables if table not in _OWN)
_BY_NAME = {table.name: table for table in TABLES}
#: Of a worker's session, which the other database does not know.
_PER_SESSION = {"owner": None, "server": None}


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    meshtasks_state: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    table: str
    row: dict[str, JsonValue]


def counts(connection: Connection) -> dict[str, int]:
    """How many rows each table has."""
    return {
        table.name: connection.execute(
            select(func.count()).select_from(table)
        ).scalar_one()
        for table in TABLES
    }


def lines_of(database: Database) -> Iterator[str]:
    """The state, line by line, as it was at one moment.

    Raises:
        SinkUnavailable: it cannot be read.
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
    """Put lines into a database; all of them or none.

    Args:
        database: gets them.
        lines: of :func:`lines_of`.
        replace: remove what it has before; otherwise it must be empty.

    Returns:
        How many rows there were.

    Raises:
        SchemaMismatch: a line is none of these, or the database is not empty.
        SinkUnavailable: it cannot be written.
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
    """What PostgreSQL has besides the rows."""
    for (ids,) in connection.execute(select(ARCHIVE_PENDING.c.ids)).all():
        claim = insert(connection, ARCHIVE_CLAIMS).on_conflict_do_nothing()
        if rows := [{"id": name} for name in json.loads(ids)]:
            connection.execute(claim, rows)
    last = select(func.max(ALERT_EVENTS.c.number))
    if (number := connection.execute(last).scalar()) is not None:
        sequence = "pg_get_serial_sequence('alert_events', 'number')"
        connection.execute(text(f"SELECT setval({sequence}, :n)"), {"n": number})
