"""Parquet files: their columns, writing and checking them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from meshtasks.flows.analytics.rows import Table

#: Other readers (Spark, pandas, Trino) support it as well.
COMPRESSION = "zstd"

_TIME = pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False)
_NAMES = [
    pa.field("routing_key", pa.string(), nullable=False),
    pa.field("record_id", pa.string(), nullable=False),
]

#: Columns of each table, in the order of the row's members (see
#: :mod:`meshtasks.flows.analytics.rows`).
SCHEMAS: dict[Table, pa.Schema] = {
    "readings": pa.schema(
        [
            _TIME,
            pa.field("kind", pa.string(), nullable=False),
            pa.field("sensor_id", pa.string(), nullable=False),
            pa.field("location", pa.string()),
            pa.field("value", pa.float64(), nullable=False),
            pa.field("unit", pa.string()),
            *_NAMES,
        ]
    ),
    "metrics": pa.schema(
        [
            _TIME,
            pa.field("name", pa.string(), nullable=False),
            pa.field("field", pa.string(), nullable=False),
            pa.field("value", pa.float64()),
            pa.field("text", pa.string()),
            pa.field("tags", pa.map_(pa.string(), pa.string())),
            *_NAMES,
        ]
    ),
    "events": pa.schema(
        [
            _TIME,
            pa.field("entity", pa.string()),
            pa.field("record", pa.string(), nullable=False),
            *_NAMES,
        ]
    ),
}


def fault_of_file(path: Path) -> str | None:
    """Return why a Parquet file cannot be read; None if all of it can."""
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches():
                pass
    except (OSError, ValueError, pa.ArrowException) as error:
        return str(error)
    return None


def parquet_of(table: Table, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Return a Parquet file with these rows; the same rows always give the same bytes.

    Args:
        table: table of the rows.
        rows: at least one row.
    """
    schema = SCHEMAS[table]
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    sink = io.BytesIO()
    content = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(content, sink, compression=COMPRESSION)
    return sink.getvalue()
