"""What tests of the archive share: stores to write to, and a reader."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from minio import Minio

from meshtasks.amqp import headers
from meshtasks.config.environment import Environment
from meshtasks.flows.archive.layout import Entry, entries_of
from meshtasks.flows.archive.objects import ObjectStore, archived_objects, decompress
from meshtasks.flows.contract import Batch
from meshtasks.records.envelope import Envelope
from tests.support import batches
from tests.support.s3 import S3Target

ROOT = Path(__file__).parents[2]
NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z

_numbers = itertools.count(1)


def directory_environment(tmp_path: Path, **changes: Any) -> Environment:
    """A mesh whose archive is a directory."""
    fields: dict[str, Any] = {
        "archive_url": f"file://{tmp_path / 'archive'}",
        "config_dir": ROOT / "config",
        "state_dir": tmp_path / "state",
    }
    return Environment(**fields | changes)


def bucket_environment(target: S3Target, tmp_path: Path, **changes: Any) -> Environment:
    """A mesh whose archive is a bucket of its own, which is made."""
    bucket = f"archive-{next(_numbers)}"
    client(target).make_bucket(bucket)
    fields: dict[str, Any] = {
        "archive_url": f"s3://{bucket}",
        "minio_endpoint": target.endpoint,
        "minio_access_key": target.access_key,
        "minio_secret_key": target.secret_key,
    }
    return directory_environment(tmp_path, **fields | changes)


def client(target: S3Target) -> Minio:
    """A client to look at an S3 service with, past our own store."""
    return Minio(target.endpoint, target.access_key, target.secret_key, secure=False)


def lines_in(store: ObjectStore, prefix: str = "") -> list[dict[str, Any]]:
    """Every archived line below a prefix, by object and then as it stands there."""
    return [
        json.loads(line)
        for found in archived_objects(store)
        if found.name.startswith(prefix)
        for line in decompress(store.get(found.name)).splitlines()
    ]


def lines_sent(body: bytes) -> list[dict[str, Any]]:
    """The lines that the archive makes of a message of excerpts."""
    excerpts = json.loads(body)
    carrier = message(body, headers={headers.EXCERPTS: 1})
    count = len(excerpts)
    entries = entries_of(excerpts, [carrier] * count, range(count))
    return [json.loads(entry.line) for _, entry in entries if isinstance(entry, Entry)]


def message(
    body: bytes, routing_key: str = "home.door", name: str | None = None, **changes: Any
) -> Envelope:
    """A message on the exchange ``archive``, received at noon."""
    fields: dict[str, Any] = {
        "body": body,
        "exchange": "archive",
        "routing_key": routing_key,
        "queue": "archive.events",
        "message_id": name,
        "timestamp": None,
        "received_at": NOON,
        "headers": {},
    }
    return Envelope(**fields | changes)


def batch_of(*messages: Envelope) -> Batch[Any]:
    """The batch that the worker makes of these messages."""
    batch: Batch[Any] = Batch("archive.events", [], [], [])
    for each in messages:
        batches.add(batch, each, json.loads(each.body))
    return batch
