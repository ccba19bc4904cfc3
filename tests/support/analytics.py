"""What tests of the analytics dataset share: records in, rows out."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from meshtasks.flows.analytics.dataset import Dataset
from meshtasks.flows.analytics.rows import TABLES, Table
from meshtasks.flows.archive.handler import archive_events, archive_metrics
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.contract import Batch
from meshtasks.flows.excerpts import ARCHIVE, archive_messages, excerpt
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE
from tests.support.archive import NOON, batch_of, message


def excerpts(
    routing_key: str,
    *records: Any,
    start: float = NOON,
    seconds_apart: float = 1.0,
    name: str = "m",
) -> Batch[Any]:
    """A batch of one message: what a handler publishes of records."""
    exchange = routing_key.partition(".")[0]
    made = []
    for number, record in enumerate(records):
        time = start + number * seconds_apart
        body = json.dumps(record, ensure_ascii=False).encode()
        original = message(body, routing_key, f"{name}-{number}", exchange=exchange)
        made.append(excerpt(original, [time], [None]))
    (parts,) = archive_messages(made, ".".join(routing_key.split(".")[:2]))
    return batch_of(message(parts.body, parts.routing_key, headers=parts.headers))


def archive(sinks: Sinks, routing_key: str, *records: Any, **options: Any) -> None:
    """Archive records; see :func:`excerpts`. Each call makes an object per hour."""
    metrics = routing_key.partition(".")[0] in sinks.settings.read(ARCHIVE).metrics
    handler = archive_metrics if metrics else archive_events
    outcomes = handler(excerpts(routing_key, *records, **options), sinks)
    assert outcomes == [DONE] * len(records)


def rows_in(store: ObjectStore, table: Table) -> list[dict[str, Any]]:
    """The rows of a table, as a reader sees them."""
    return [
        row
        for split in Dataset(store).partitions([table]).values()
        for file in split.live
        for row in pq.read_table(io.BytesIO(store.get(file.name))).to_pylist()
    ]


def ids_in(store: ObjectStore) -> Counter[str]:
    """How often each record is in the dataset; a metric here has one field."""
    return Counter(
        row["record_id"] for table in TABLES for row in rows_in(store, table)
    )


def parquet_names(store: ObjectStore) -> list[str]:
    """Names of all Parquet files, replaced ones too."""
    names = (each.name for each in store.list("analytics/"))
    return [name for name in names if name.endswith(".parquet")]
