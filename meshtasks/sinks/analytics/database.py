"""DuckDB with views of the dataset and the archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date

import duckdb

from meshtasks.domain.analytics import TABLES
from meshtasks.domain.dataset import archive_name
from meshtasks.domain.errors import MeshError
from meshtasks.environment import Environment
from meshtasks.sinks.analytics.dataset import Dataset
from meshtasks.sinks.analytics.local import CACHE, LocalFiles, ObjectGone
from meshtasks.sinks.analytics.lock import DatasetLock
from meshtasks.sinks.analytics.sql import quoted_files
from meshtasks.sinks.objects import ObjectStore, archived_objects

#: Looks at the store again so often when a file goes while it is fetched.
_LOOKS = 5


class QueryFailed(MeshError):
    """DuckDB refuses the query; the text is DuckDB's own."""


@dataclass(frozen=True, slots=True)
class View:
    """A view that queries may use.

    Attributes:
        name: its name.
        columns: name, SQL type and expression of each column.
        reader: table function that reads the files; ``{}`` stands for their list.
    """

    name: str
    columns: tuple[tuple[str, str, str], ...]
    reader: str

    def select(self, files: list[str]) -> str:
        """The SELECT that the view stands for."""
        if not files:
            empty = ", ".join(
                f"NULL::{kind} AS {name}" for name, kind, _ in self.columns
            )
            return f"SELECT {empty} WHERE false"
        columns = ", ".join(f"{how} AS {name}" for name, _, how in self.columns)
        return f"SELECT {columns} FROM {self.reader.format(quoted_files(files))}"  # noqa: S608 - quoted


_HIVE = (("domain", "VARCHAR", "domain"), ("date", "DATE", "date"))
_PARQUET = (
    "read_parquet({}, hive_partitioning = true, "
    "hive_types = {{'domain': VARCHAR, 'date': DATE}})"
)
_LAST = (
    ("routing_key", "VARCHAR", "routing_key"),
    ("record_id", "VARCHAR", "record_id"),
    *_HIVE,
)
_TIME = ("time", "TIMESTAMPTZ", "time")

VIEWS = (
    View(
        "readings",
        (
            _TIME,
            ("kind", "VARCHAR", "kind"),
            ("sensor_id", "VARCHAR", "sensor_id"),
            ("location", "VARCHAR", "location"),
            ("value", "DOUBLE", "value"),
            ("unit", "VARCHAR", "unit"),
            *_LAST,
        ),
        _PARQUET,
    ),
    View(
        "metrics",
        (
            _TIME,
            ("name", "VARCHAR", "name"),
            ("field", "VARCHAR", "field"),
            ("value", "DOUBLE", "value"),
            ("text", "VARCHAR", "text"),
            ("tags", "MAP(VARCHAR, VARCHAR)", "tags"),
            *_LAST,
        ),
        _PARQUET,
    ),
    View(
        "events",
        (
            _TIME,
            ("entity", "VARCHAR", "entity"),
            ("record", "JSON", "record::JSON"),
            *_LAST,
        ),
        _PARQUET,
    ),
    View(
        "archive",
        (
            _TIME,
            ("exchange", "VARCHAR", "exchange"),
            ("record", "JSON", "record"),
            ("routing_key", "VARCHAR", "routing_key"),
            ("record_id", "VARCHAR", "id"),
            ("domain", "VARCHAR", "split_part(routing_key, '.', 1)"),
            ("date", "DATE", "date"),
        ),
        "read_json({}, format = 'newline_delimited', compression = 'zstd', "
        "columns = {{'id': 'VARCHAR', 'exchange': 'VARCHAR', "
        "'routing_key': 'VARCHAR', 'time': 'TIMESTAMPTZ', 'record': 'JSON'}}, "
        "maximum_object_size = 67108864, "
        "hive_partitioning = true, hive_types = {{'date': DATE, 'hour': VARCHAR}})",
    ),
)


@contextmanager
def opened(
    env: Environment, store: ObjectStore, sql: str, since: date | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory with the :data:`VIEWS`, for one query.

    Until it is closed no process of this host deletes a file it reads. Views that
    the query does not name are there, and empty: with a bucket their files would be
    fetched for nothing. Times are shown, and days begin, in the time zone of the
    machine (or ``TZ``).

    Args:
        env: of the mesh; fetched files are kept in its state directory.
        store: holds archive and dataset.
        sql: what will be asked.
        since: leave out what is before this UTC date.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    lock = DatasetLock(env.state_dir)
    local = LocalFiles(store, env.state_dir / CACHE)
    source = _Source(store, local)
    with lock.alone() as nobody_reads:
        if nobody_reads:
            local.forget_deleted()
    with (
        lock.reading(),
        # nothing is to be downloaded unless the query says so
        duckdb.connect(config={"autoinstall_known_extensions": False}) as database,
    ):
        for view in VIEWS:
            named = re.search(rf"\b{view.name}\b", sql, re.IGNORECASE)
            files = source.files(view, since) if named else []
            database.execute(f"CREATE VIEW {view.name} AS {view.select(files)}")
        yield database


class _Source:
    """The files of views."""

    def __init__(self, store: ObjectStore, local: LocalFiles) -> None:
        self._store = store
        self._local = local
        self._dataset = Dataset(store)

    def files(self, view: View, since: date | None) -> list[str]:
        """Local files with the rows of a view.

        Raises:
            SinkUnavailable: the store cannot be read.
            ObjectGone: objects went every time while they were fetched.
        """
        for _ in range(_LOOKS - 1):
            with suppress(ObjectGone):
                return self._local.paths(self._names(view, since))
        return self._local.paths(self._names(view, since))

    def _names(self, view: View, since: date | None) -> list[str]:
        if view.name == "archive":
            return [
                each.name
                for each in archived_objects(self._store)
                if (found := archive_name(each.name))
                and (since is None or found.date >= since)
            ]
        (table,) = (table for table in TABLES if table == view.name)
        return [
            file.name
            for split in self._dataset.partitions([table], since).values()
            for file in split.live
        ]
