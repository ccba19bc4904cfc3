"""Run handlers without a worker: real sinks, and batches as the worker makes them."""

from __future__ import annotations

import importlib
import itertools
import json
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

import meshtasks.flows
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Batch
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import Outcome, outcome_of
from meshtasks.records.envelope import Envelope
from meshtasks.worker.decode import Decoder
from tests.support import batches

#: Those of queues that the flows know by themselves, by queue.
HANDLERS = load_flows().fixed

NOW = 1_795_440_000.0  # 2026-11-23T13:20:00Z

for _module in pkgutil.iter_modules(meshtasks.flows.__path__, "meshtasks.flows."):
    importlib.import_module(_module.name)  # it registers its handlers

_numbers = itertools.count(1)


def settings_of(env: Mapping[str, str], **fields: Any) -> Settings:
    """Settings from ``MESH_*`` variables, and further fields of the environment."""
    named = {name.removeprefix("MESH_").lower(): env[name] for name in env}
    return Settings(Environment(**named | fields))


@contextmanager
def opened(settings: Settings) -> Iterator[Sinks]:
    """Sinks, closed at the end."""
    sinks = Sinks(settings)
    try:
        yield sinks
    finally:
        sinks.close()


def message(queue: str, routing_key: str, content: Any, **changes: Any) -> Envelope:
    """A message in a queue, received now; its content is JSON or is made to be."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    fields: dict[str, Any] = {
        "body": body,
        "exchange": queue.partition(".")[0],
        "routing_key": routing_key,
        "queue": queue,
        "message_id": f"m{next(_numbers)}",
        "timestamp": None,
        "received_at": NOW,
        "headers": {},
    }
    return Envelope(**fields | changes)


def handle(sinks: Sinks, *messages: Envelope) -> list[Outcome]:
    """Decode messages of one queue and give their good records to its handler.

    Returns:
        One outcome for each record, in order.
    """
    handler = HANDLERS[messages[0].queue]
    decoder = Decoder(handler)
    batch: Batch[Any] = Batch(handler.queue, [], [], [])
    outcomes: list[Outcome | None] = []
    for each in messages:
        try:
            decoded = decoder.decode(each.body)
        except InvalidMessage as error:
            outcomes.append(outcome_of(error))
            continue
        dead = {member.place: member.dead for member in decoded.bad}
        if decoded.several is not None:
            each = replace(each, body=decoded.several.array)  # noqa: PLW2901
        count = len(decoded.records) + len(decoded.bad)
        outcomes.extend(dead.get(place) for place in range(count))
        batches.add_members(batch, each, decoded.records, decoded.places)
    decided = iter(handler.handle(batch, sinks) if batch.records else [])
    return [next(decided) if each is None else each for each in outcomes]
