"""The result of a query, and its output formats."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtasks.flows.analytics.database import QueryFailed
from meshtasks.observation.chart import is_number
from meshtasks.text import printable

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

#: Rows that are read from DuckDB at once.
_BATCH_ROWS = 10_000
#: Rows of the table in a terminal; nobody reads more.
_SHOWN_ROWS = 100
#: Width of the table without a terminal, in characters.
_WIDE = 200

_DECIMALS = 6


class Result:
    """The columns and rows of a query; rows are read on demand.

    Args:
        relation: DuckDB's result; None for a statement without a result.

    Attributes:
        names: names of the columns.
        begun: whether a row has been read.
    """

    def __init__(self, relation: DuckDBPyRelation | None) -> None:
        self._relation = relation
        self.names: list[str] = relation.columns if relation is not None else []
        kinds = [str(kind) for kind in relation.types] if relation is not None else []
        self.begun = False
        self._json = [kind == "JSON" for kind in kinds]

    def rows(self) -> Iterator[list[Any]]:
        """The rows. Values are texts, numbers, booleans, dates and times, lists,
        dictionaries, or None.

        Raises:
            QueryFailed: the query cannot be evaluated.
        """
        if self._relation is None:
            return
        with translated():
            for batch in self._relation.to_arrow_reader(_BATCH_ROWS):
                columns = [
                    [_plain(value, column.type) for value in column.to_pylist()]
                    for column in batch.columns
                ]
                self.begun = True
                yield from map(list, zip(*columns, strict=True))

    def json_rows(self) -> Iterator[list[Any]]:
        """The rows of :meth:`rows` with the values of JSON columns parsed."""
        for row in self.rows():
            yield [
                json.loads(value) if is_json and value is not None else value
                for value, is_json in zip(row, self._json, strict=True)
            ]


@contextmanager
def translated() -> Iterator[None]:
    """Raise DuckDB's errors as :class:`QueryFailed`.

    Raises:
        QueryFailed: with DuckDB's text.
    """
    try:
        yield
    except duckdb.Error as error:
        raise QueryFailed(str(error)) from error


def print_table(result: Result, console: Console) -> None:
    """Print the first rows as a table."""
    rows = list(islice(result.rows(), _SHOWN_ROWS + 1))
    if not result.names:
        return
    table = Table(header_style="bold")
    for index, name in enumerate(result.names):
        numeric = all(is_number(row[index]) or row[index] is None for row in rows)
        table.add_column(
            Text(printable(name)),
            justify="right" if numeric and rows else "left",
            overflow="fold",
        )
    for row in rows[:_SHOWN_ROWS]:
        table.add_row(*(Text(printable(_shown(value))) for value in row))
    console.print(table)
    if len(rows) > _SHOWN_ROWS:
        console.print(
            f"the first {_SHOWN_ROWS} rows; --csv and --json give all of them"
        )
    elif not rows:
        console.print("no rows")


def table_console(out: TextIO) -> Console:
    """A console for tables; without a terminal it is wide, so that nothing is cut."""
    return Console(file=out, width=None if out.isatty() else _WIDE, highlight=False)


def write_csv(result: Result, out: TextIO) -> None:
    """Write CSV (RFC 4180): a header, then the rows; None is an empty field.

    A text that a spreadsheet would run as a formula gets an apostrophe as prefix.
    """
    writer = csv.writer(out)
    rows = result.rows()
    first = list(islice(rows, 1))  # if the query fails at once, nothing is written
    writer.writerow([_no_formula(name) for name in result.names])
    for row in chain(first, rows):
        writer.writerow([None if value is None else _cell(value) for value in row])


def write_json(result: Result, out: TextIO) -> None:
    """Write a JSON array with one object for each row, each on a line of its own."""
    names = _distinct(result.names)
    separator = "["
    for row in result.json_rows():
        members = {name: _finite(value) for name, value in zip(names, row, strict=True)}
        line = json.dumps(members, ensure_ascii=False, default=_text_of)
        out.write(f"{separator}\n{printable(line)}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")


def _plain(value: Any, kind: pa.DataType) -> Any:
    match value:
        case list() if pa.types.is_map(kind):
            plain: Any = {str(key): _plain(each, kind.item_type) for key, each in value}
        case list():
            plain = [_plain(each, kind.value_type) for each in value]
        case dict():
            types = {field.name: field.type for field in kind}
            plain = {name: _plain(each, types[name]) for name, each in value.items()}
        case Decimal():
            whole = value == value.to_integral_value()
            plain = int(value) if whole else float(value)
        case bytes():
            plain = value.hex()
        case None | bool() | int() | float() | str() | date() | time():
            plain = value
        case _:
            plain = str(value)
    return plain


#: Prefixes of texts that spreadsheets run as formulas.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def _cell(value: Any) -> str:
    return _no_formula(value) if isinstance(value, str) else _shown(value)


def _no_formula(text: str) -> str:
    if not text.startswith(_FORMULAS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return repr(round(value, _DECIMALS)) if math.isfinite(value) else str(value)
        case datetime() | date() | time():
            return _text_of(value)
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=_text_of)
        case _:
            return str(value)


def _text_of(value: date | time) -> str:
    """A date or time as in RFC 3339; times to the millisecond."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat()


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks, as in other tools."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case list():
            return [_finite(item) for item in value]
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case _:
            return value


def plain_json(value: Any) -> Any:
    """A value as JSON data."""
    value = _finite(value)
    return _text_of(value) if isinstance(value, date | time) else value


def _distinct(names: Sequence[str]) -> list[str]:
    """Unique names for the members of an object: a second ``a`` becomes ``a_2``."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct
