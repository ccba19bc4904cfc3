"""Batches as the worker makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshtasks.flows.contract import Batch
from meshtasks.records.envelope import Envelope


def add(batch: Batch[Any], message: Envelope, content: Any) -> None:
    """Add a message's records: all of an array's, or the one that it is."""
    if isinstance(content, list):
        add_members(batch, message, content, range(len(content)))
    else:
        add_members(batch, message, [content], [None])


def add_members(
    batch: Batch[Any],
    message: Envelope,
    records: Sequence[Any],
    places: Sequence[int | None],
) -> None:
    """Add some of a message's records, by their places in its array."""
    batch.records.extend(records)
    batch.envelopes.extend([message] * len(records))
    batch.indexes.extend(places)
