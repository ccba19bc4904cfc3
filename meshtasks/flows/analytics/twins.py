"""Writes the Parquet twins of archive objects."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from meshtasks.errors import SinkRejected, SinkUnavailable
from meshtasks.flows.analytics.layout import archive_name, data_file_name
from meshtasks.flows.analytics.rows import TABLES, rows_of
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import ObjectName
from meshtasks.records.units import KindsConfig

logger = logging.getLogger(__name__)


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

    def add(self, name: str, content: bytes) -> str | None:
        """Write the rows of an archive object; once more does no harm.

        What is wrong with rows is logged. It is no reason to hold up the archive,
        from which they can be made at any time.

        Args:
            name: of the archive object.
            content: its lines.

        Returns:
            Why some rows, or all, are not written; None if all are.

        Raises:
            SinkUnavailable: the store is away; some rows may be written.
        """
        archived = archive_name(name)
        if not self._writes or archived is None:
            return None
        try:
            faults = self._write(archived, content)
        except SinkUnavailable:
            raise
        except SinkRejected as error:
            fault = str(error)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            logger.exception("no rows could be made of the archive object %s", name)
            return fault
        else:
            if not faults:
                return None
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            fault = f"{faults[0]}{more}"
        logger.warning("not all of %s is in the analytics dataset: %s", name, fault)
        return fault

    def _write(self, archived: ObjectName, content: bytes) -> list[str]:
        """Write its rows; what is wrong with lines that have none."""
        from meshtasks.flows.analytics.parquet import parquet_of  # noqa: PLC0415

        rows = rows_of(content, self._kinds)
        for table in TABLES:
            if of_table := getattr(rows, table):
                data = parquet_of(table, of_table)
                self._store.put(data_file_name(archived, table), data, {})
        return rows.faults

    def probe(self) -> None:
        """Ask the store for a sign of life.

        Raises:
            SinkUnavailable: it gave none.
        """
        self._store.probe()

    def close(self) -> None:
        """Nothing is kept open but the store, which others use."""
