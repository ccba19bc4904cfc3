"""Writes the Parquet twins of archive objects."""

from __future__ import annotations

from importlib.util import find_spec

from meshtasks.domain.analytics import TABLES, rows_of
from meshtasks.domain.dataset import archive_name
from meshtasks.domain.units import KindsConfig
from meshtasks.sinks.objects import ObjectStore


class Analytics:
    """The dataset as the archive's handlers see it: what they store is added.

    A process without pyarrow adds nothing; ``meshtasks analytics compact`` adds
    later, from the archive, what is missing.

    Args:
        store: holds the archive, and the dataset.
        kinds: units of readings that name none.
    """

    def __init__(self, store: ObjectStore, kinds: KindsConfig) -> None:
        self._store = store
        self._kinds = kinds
        self._writes = find_spec("pyarrow") is not None

    def add(self, name: str, content: bytes) -> None:
        """Write the rows of an archive object; once more does no harm.

        Args:
            name: of the archive object.
            content: its lines.

        Raises:
            SinkUnavailable: the store is away; some rows may be written.
            SinkRejected: the store refuses a file.
        """
        archived = archive_name(name)
        if not self._writes or archived is None:
            return
        from meshtasks.sinks.analytics.parquet import parquet_of  # noqa: PLC0415

        rows = rows_of(content, self._kinds)
        for table in TABLES:
            if of_table := getattr(rows, table):
                data = parquet_of(table, of_table)
                self._store.put(archived.twin(table), data, {})

    def probe(self) -> None:
        """Ask the store for a sign of life.

        Raises:
            SinkUnavailable: it gave none.
        """
        self._store.probe()

    def close(self) -> None:
        """Nothing is kept open but the store, which others use."""
