"""Queries with DuckDB over views of the dataset and the archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TypeVar

import duckdb
import pyarrow as pa

from meshtasks.config.environment import Environment
from meshtasks.errors import MeshError, SinkRejected
from meshtasks.flows.analytics.dataset import (
    CACHE,
    Dataset,
    DatasetLock,
    LocalFiles,
    ObjectGone,
)
from meshtasks.flows.analytics.layout import archive_name
from meshtasks.flows.analytics.parquet import SCHEMAS, fault_of_file
from meshtasks.flows.analytics.rows import TABLES, Table
from meshtasks.flows.archive.objects import (
    FRAME_HEADER_BYTES,
    ObjectStore,
    archived_objects,
    content_bytes,
    decompress,
)

_T = TypeVar("_T")

#: Types of statements that only read; MULTI is DuckDB's type of a PIVOT.
_READING = frozenset(
    {
        duckdb.StatementType.SELECT,
        duckdb.StatementType.EXPLAIN,
        duckdb.StatementType.MULTI,
    }
)
#: How often to list the store if an object is deleted while it is fetched.
_LOOKS = 5
_GLOB = re.compile(r"[*?\[]")
#: Bounds of the maximum line length that is passed to DuckDB. Its buffers are never
#: smaller than for the first; longer lines than the second are rejected.
_LEAST_LINE_BYTES, _MOST_LINE_BYTES = 16 << 20, 64 << 20


class QueryFailed(MeshError):
    """DuckDB rejects the query; the message is DuckDB's own."""


class DamagedFiles(QueryFailed):
    """Files of the dataset cannot be read.

    Args:
        faults: reason by path.
    """

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.paths = frozenset(faults)
        (path, fault), *more = sorted(faults.items())
        rest = f" (and {len(more)} more)" if more else ""
        super().__init__(
            f"{path} is damaged: {fault}{rest}; `meshtasks archive verify` and "
            "`meshtasks analytics compact --date DATE` look at such files"
        )


@dataclass(frozen=True, slots=True)
class View:
    """A view that queries may use.

    Attributes:
        columns: name, SQL type and expression of each column.
        read: returns the call of the table function that reads these files.
    """

    name: str
    columns: tuple[tuple[str, str, str], ...]
    read: Callable[[list[str]], str]

    def select(self, files: list[str]) -> str:
        """Return the SELECT statement of the view."""
        if not files:
            empty = ", ".join(
                f"NULL::{kind} AS {name}" for name, kind, _ in self.columns
            )
            return f"SELECT {empty} WHERE false"
        columns = ", ".join(f"{how} AS {name}" for name, _, how in self.columns)
        return f"SELECT {columns} FROM {self.read(files)}"  # noqa: S608 - quoted


#: DuckDB's types by Arrow's types.
_TYPES = {
    pa.float64(): "DOUBLE",
    pa.map_(pa.string(), pa.string()): "MAP(VARCHAR, VARCHAR)",
    pa.string(): "VARCHAR",
    pa.timestamp("ms", tz="UTC"): "TIMESTAMPTZ",
}


def _of_table(table: Table) -> View:
    """Return the view of a table: the columns of its files, and of their partition."""
    columns = [(field.name, _TYPES[field.type], field.name) for field in SCHEMAS[table]]
    columns += [("domain", "VARCHAR", "domain"), ("date", "DATE", "date")]
    as_json = ("record", "JSON", "TRY_CAST(record AS JSON)")
    return View(
        table,
        tuple(as_json if column[0] == "record" else column for column in columns),
        _read_parquet,
    )


def _read_parquet(files: list[str]) -> str:
    return (
        f"read_parquet({quoted_files(files)}, hive_partitioning = true, "
        "hive_types = {'domain': VARCHAR, 'date': DATE})"
    )


def _read_archive(files: list[str]) -> str:
    return (
        f"read_json({quoted_files(files)}, format = 'newline_delimited', "
        "compression = 'zstd', ignore_errors = true, "
        "columns = {'id': 'VARCHAR', 'exchange': 'VARCHAR', "
        "'routing_key': 'VARCHAR', 'time': 'TIMESTAMPTZ', 'record': 'JSON'}, "
        f"maximum_object_size = {_longest_line_bytes(files)}, "
        "hive_partitioning = true, hive_types = {'date': DATE, 'hour': VARCHAR})"
    )


def _longest_line_bytes(files: list[str]) -> int:
    """Return an upper bound of the length of lines: the size of the largest file.

    DuckDB allocates several buffers of twice this size in each thread. With the maximum
    length, a query with a memory limit would not have enough memory.
    """
    sizes = {_content_bytes(Path(file)) or _MOST_LINE_BYTES for file in files}
    return min(max(sizes | {_LEAST_LINE_BYTES}), _MOST_LINE_BYTES)


def _content_bytes(file: Path) -> int | None:
    try:
        with file.open("rb") as opened_file:
            return content_bytes(opened_file.read(FRAME_HEADER_BYTES))
    except OSError:  # reported when the file is read
        return None


VIEWS = (
    *map(_of_table, TABLES),
    View(
        "archive",
        (
            ("time", "TIMESTAMPTZ", "time"),
            ("exchange", "VARCHAR", "exchange"),
            ("record", "JSON", "record"),
            ("routing_key", "VARCHAR", "routing_key"),
            ("record_id", "VARCHAR", "id"),
            ("domain", "VARCHAR", "split_part(routing_key, '.', 1)"),
            ("date", "DATE", "date"),
        ),
        _read_archive,
    ),
)


def passing_over_damaged(
    run: Callable[[frozenset[str]], _T], report: Callable[[str], None]
) -> _T:
    """Run a query, and repeat it without files that prove to be damaged.

    Args:
        run: runs the query without the given paths (``left_out`` of :func:`opened`).
        report: called with one sentence about the files that are left out.
    """
    left_out: frozenset[str] = frozenset()
    while True:
        try:
            return run(left_out)
        except DamagedFiles as error:
            report(f"left out: {error}")
            left_out |= error.paths


@contextmanager
def opened(
    env: Environment,
    store: ObjectStore,
    sql: str,
    since: date | None = None,
    left_out: frozenset[str] = frozenset(),
    bounds: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory with the :data:`VIEWS`, for one query.

    Until it is closed, no process of this host deletes a file that it reads. Views that
    the query does not name are empty, so that their files are not fetched from a
    bucket. Times are shown, and days begin, in the time zone of the machine (or
    ``TZ``).

    A query can read only the files of the views, and write nothing.

    Args:
        env: environment of the mesh; fetched files are kept in its state directory.
        sql: the query.
        since: UTC date; earlier data is left out.
        left_out: paths of files to leave out.
        bounds: DuckDB's settings, such as ``memory_limit``.

    Raises:
        SinkUnavailable: the store cannot be read.
        DamagedFiles: the query failed because of damaged files.
    """
    lock = DatasetLock(env.state_dir)
    local = LocalFiles(store, env.state_dir / CACHE)
    with lock.deleting() as nobody_reads:
        if nobody_reads:
            local.forget_deleted()
    with (
        lock.reading(),
        TemporaryDirectory(prefix="meshtasks-") as scratch,
        duckdb.connect(config={"temp_directory": scratch, **bounds}) as database,
    ):
        files = {
            view: [
                path
                for path in _files_of(view, store, local, since)
                if path not in left_out
            ]
            for view in VIEWS
            if re.search(rf"\b{view.name}\b", sql, re.IGNORECASE)
        }
        paths = [path for found in files.values() for path in found]
        try:
            for view in VIEWS:
                select = view.select(files.get(view, []))
                database.execute(f"CREATE VIEW {view.name} AS {select}")
            _lock_up(database, paths)
            yield database
        except (duckdb.Error, QueryFailed) as error:
            faults = {path: fault for path in paths if (fault := _fault_in(Path(path)))}
            if faults:
                raise DamagedFiles(faults) from error
            raise


def _lock_up(database: duckdb.DuckDBPyConnection, paths: Iterable[str]) -> None:
    """Restrict the database to reading these files, from now on."""
    allowed = {_quoted(text) for path in paths for text in (path, _pattern(path))}
    database.execute(f"SET allowed_paths = [{', '.join(allowed)}]")
    database.execute("SET python_enable_replacements = false")  # no variables as tables
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


def quoted_files(paths: Iterable[str]) -> str:
    """Return a list of files in SQL. Each file is read by its name, even if the name
    looks like a pattern."""
    return f"[{', '.join(_quoted(_pattern(path)) for path in paths)}]"


def _quoted(text: str) -> str:
    """Return a string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _pattern(path: str) -> str:
    """Return the pattern that matches only this file."""
    return _GLOB.sub(lambda found: f"[{found[0]}]", path)


def check_reads(sql: str) -> None:
    """Check that a query only reads.

    COPY is rejected anywhere in the query: it writes also within EXPLAIN ANALYZE, PIVOT
    and WITH, and could overwrite the files that the query may read.

    Raises:
        QueryFailed: the query is not SQL, or would change something.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryFailed(str(error)) from error
    for statement in statements:
        if statement.type not in _READING:
            raise _writes(statement.type.name)
    text = sql.encode()
    for offset, kind in duckdb.tokenize(sql):
        word = text[offset : offset + len("COPY")].upper()
        if kind == duckdb.token_type.keyword and word == b"COPY":
            raise _writes("COPY")


def _writes(statement: str) -> QueryFailed:
    return QueryFailed(
        f"{statement}: expected a query that reads, such as SELECT; to write its "
        "result into a file, use --csv or --json and >"
    )


def _fault_in(path: Path) -> str | None:
    """Return why a file cannot be read; None if it can."""
    if path.suffix == ".parquet":
        return fault_of_file(path)
    try:
        decompress(path.read_bytes())
    except (SinkRejected, OSError) as error:
        return str(error)
    return None


def _files_of(
    view: View, store: ObjectStore, local: LocalFiles, since: date | None
) -> list[str]:
    """Return local files with the rows of a view.

    Raises:
        SinkUnavailable: the store cannot be read.
        ObjectGone: objects were deleted during every attempt to fetch them.
    """
    for _ in range(_LOOKS - 1):
        with suppress(ObjectGone):
            return local.paths(_names_of(view, store, since))
    return local.paths(_names_of(view, store, since))


def _names_of(view: View, store: ObjectStore, since: date | None) -> list[str]:
    if view.name == "archive":
        return [
            info.name
            for info in archived_objects(store)
            if (found := archive_name(info.name))
            and (since is None or found.day >= since)
        ]
    tables = [table for table in TABLES if table == view.name]
    partitions = Dataset(store).partitions(tables, since).values()
    return [file.name for split in partitions for file in split.live]
