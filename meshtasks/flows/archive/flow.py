"""What the flow of the archive gives to the mesh."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.archive.handler import JOURNAL, archive_events, archive_metrics
from meshtasks.flows.archive.objects import OBJECTS, open_store
from meshtasks.flows.contract import Flow, Handler
from meshtasks.flows.diagnosis import Check, Doubt, Verdict, can_occur, disk
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.sinks import Sinks

_LARGEST_PROBE_BYTES = 8 << 20


def _validate(settings: Settings) -> Iterable[ConfigError]:
    open_store(settings.env).close()
    return ()


def _archive(settings: Settings) -> Verdict:
    name = f"doctor/{uuid.uuid4()}"
    limits = settings.read(QUEUES).for_queue(archive_metrics.queue)
    # as large as one of a batch may be: a store that is nearly full takes small ones
    content = secrets.token_bytes(min(limits.batch.bytes, _LARGEST_PROBE_BYTES))
    with closing(Sinks(settings)) as sinks:
        store = sinks[OBJECTS]
        store.put(name, content, {})
        found = store.get(name)
        store.delete(name)
    if found != content:
        text = "an object that was stored reads differently"
        return Verdict("failed", text, "look into the object store")
    return Verdict("ok", "an object was stored, read and deleted")


def _journal(settings: Settings) -> Verdict:
    with closing(Sinks(settings)) as sinks:
        journal, store = sinks[JOURNAL], sinks[OBJECTS]
        journal.probe()
        damaged = [name for name in journal.damaged() if store.stat(name)]
    if damaged:
        text = f"{len(damaged)} damaged objects in the archive: {damaged[0]}, …"
        remedy = "meshtasks archive verify; their records were stored in other objects"
        return Verdict("warning", text, remedy)
    return Verdict("ok", "answers")


def _checks(settings: Settings) -> Iterator[Check]:
    yield Check("archive", partial(_archive, settings))
    yield Check("journal", partial(_journal, settings))
    scheme, _, directory = settings.env.archive_url.partition("://")
    if scheme == "file":
        yield Check("disk of archive", partial(disk, Path(directory)))


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    topology, policy = settings.read(TOPOLOGY), settings.read(ARCHIVE)
    queues = {  # those of the archive take every key
        binding.queue
        for binding in topology.bindings
        if binding.queue in handlers and binding.exchange != ARCHIVE_EXCHANGE
    }
    for index, selection in enumerate(policy.select):
        if not can_occur(selection.pattern, topology, queues):
            text = f"{selection.pattern} matches no routing key of the mesh"
            yield Doubt("warning", ARCHIVE, f"select.{index}.pattern", text)
    alternates = {exchange.alternate for exchange in topology.exchanges}
    domains = {
        binding.routing_key.partition(".")[0]
        for binding in topology.bindings
        if binding.destination not in alternates  # nobody takes what comes there
    } | {exchange.name for exchange in topology.exchanges}
    for domain in sorted(policy.metrics - domains):
        text = f"no routing key of the mesh begins with {domain}"
        yield Doubt("warning", ARCHIVE, "metrics", text)


FLOW = Flow(
    "archive",
    handlers=(archive_events, archive_metrics),
    files=(ARCHIVE,),
    validate=_validate,
    checks=_checks,
    doubts=_doubts,
)
