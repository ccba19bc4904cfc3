"""Batches of requests to models and of their results."""

from __future__ import annotations

import json
from typing import Any

from meshtasks.flows.contract import Batch
from meshtasks.records.envelope import Envelope
from tests.support import batches
from tests.support.triton import DOUBLE, rows

NOW = 1_795_440_000.0  # 2026-11-23T13:20:00Z
REQUESTS = "ai.inference.requests"
RESULTS = "ai.inference.results"


def request(
    name: str = "r1", number: float = 1.0, order: int = DOUBLE, **changes: Any
) -> dict[str, Any]:
    """A request to ``obedient``, of one row."""
    inputs = [rows((number, order))]
    return {"request_id": name, "model": "obedient", "inputs": inputs, **changes}


def envelope(body: Any, routing_key: str, **changes: Any) -> Envelope:
    """The message with this body, received now."""
    fields: dict[str, Any] = {
        "body": json.dumps(body).encode(),
        "exchange": "ai",
        "routing_key": routing_key,
        "queue": REQUESTS,
        "message_id": None,
        "timestamp": None,
        "received_at": NOW,
        "headers": {},
    }
    return Envelope(**fields | changes)


def batch_of(
    *bodies: Any, routing_key: str = "ai.model.obedient", queue: str = REQUESTS
) -> Batch[Any]:
    """A batch as the worker makes it; a list is an array message."""
    batch: Batch[Any] = Batch(queue, [], [], [])
    for number, body in enumerate(bodies):
        message = envelope(body, routing_key, message_id=f"m{number}", queue=queue)
        batches.add(batch, message, body)
    return batch
