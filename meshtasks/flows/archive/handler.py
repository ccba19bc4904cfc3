"""Handlers of the archive: each batch becomes one object per domain and hour."""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from meshtasks.amqp.dead_letters import sensor_of
from meshtasks.amqp.queues import QUEUES
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, SinkRejected, SinkUnavailable
from meshtasks.flows.archive.layout import (
    ArchiveObject,
    BadEntry,
    Entry,
    entries_of,
    objects_of,
)
from meshtasks.flows.archive.objects import (
    FOLLOWERS,
    OBJECTS,
    ObjectStore,
    compress,
    open_store,
)
from meshtasks.flows.archive.reading import content_of, fault_of, read_line
from meshtasks.flows.contract import Batch, Flow, Handler, handles
from meshtasks.flows.diagnosis import Check, Doubt, Verdict, can_occur, disk
from meshtasks.flows.excerpts import ARCHIVE, ArchiveClass
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.outcome import DONE, Outcome, Retry, outcome_of
from meshtasks.state.sensor_activity import Seen

if TYPE_CHECKING:
    from meshtasks.state.archive_journal import ArchiveJournal

logger = logging.getLogger(__name__)

#: Maximum number of repeated records of a batch that are recorded.
_MOST_AGAIN = 200


def _open_journal(sinks: Sinks) -> ArchiveJournal:
    # loads SQLAlchemy
    from meshtasks.state.archive_journal import ArchiveJournal  # noqa: PLC0415
    from meshtasks.state.database import StateLocation  # noqa: PLC0415

    return ArchiveJournal(StateLocation.of(sinks.settings.env))


#: Lists the records that are archived.
JOURNAL = SinkKey("journal", _open_journal)
_SINKS = (OBJECTS, JOURNAL)
#: Outcome of a record that another worker has claimed: that worker stores it, or
#: releases it.
_BUSY = Retry("another worker is storing this record", tried=False)


@handles("archive.events", record=Any, sinks=_SINKS, gathers=True)
def archive_events(batch: Batch[Any], sinks: Sinks) -> list[Outcome]:
    """Archive records of the class events."""
    return _archive_batch("events", batch, sinks)


@handles("archive.metrics", record=Any, sinks=_SINKS, gathers=True)
def archive_metrics(batch: Batch[Any], sinks: Sinks) -> list[Outcome]:
    """Archive records of the class metrics."""
    return _archive_batch("metrics", batch, sinks)


def _archive_batch(
    archive_class: ArchiveClass, batch: Batch[Any], sinks: Sinks
) -> list[Outcome]:
    class_of = sinks.settings.read(ARCHIVE).class_of
    entries: dict[str, Entry] = {}
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    indexes: dict[str, list[int]] = {}
    for index, entry in entries_of(
        batch.records,
        batch.envelopes,
        batch.indexes,
        lambda domain: class_of(domain) == archive_class,
    ):
        if isinstance(entry, BadEntry):
            outcomes[index] = entry.dead
            continue
        entries[entry.id] = entry
        indexes.setdefault(entry.id, []).append(index)
    twice = [entries[name] for name, several in indexes.items() if len(several) > 1]
    sinks.seen += _again(twice[:_MOST_AGAIN])
    for name, outcome in _store(archive_class, entries, sinks).items():
        for index in indexes[name]:
            if not isinstance(outcomes[index], Retry):  # set by another of its entries
                outcomes[index] = outcome
    return outcomes


def _store(
    archive_class: ArchiveClass, entries: dict[str, Entry], sinks: Sinks
) -> dict[str, Outcome]:
    """Store records that are not stored yet; return outcomes other than Done, by id."""
    if not entries:
        return {}
    journal = sinks[JOURNAL]
    try:
        with journal.hold():
            _resolve_pending(sinks)
            with journal.claim(entries) as claim:
                new = [entry for name, entry in entries.items() if name in claim.new]
                objects = list(objects_of(archive_class, new))
                claim.intend({item.name: item.ids for item in objects})
                stored = entries.keys() - claim.new - claim.busy
            sinks.seen += _again(entries[name] for name in sorted(stored)[:_MOST_AGAIN])
            return _put(objects, sinks) | dict.fromkeys(claim.busy, _BUSY)
    except SinkUnavailable as error:
        return dict.fromkeys(entries, outcome_of(error))


def _again(entries: Iterable[Entry]) -> Iterator[Seen]:
    """Yield the activity of records that came again and are not stored again."""
    now = time()
    for entry in entries:
        line = read_line(entry.line)
        sensor_id = sensor_of(line.record, line.routing_key)
        yield (line.routing_key, sensor_id, "", "", "", None, (), now, 0.0, 0.0, 1, "")


def _resolve_pending(sinks: Sinks) -> None:
    """Find out whether the pending objects that no worker is storing are stored. None
    of them blocks later objects."""
    journal, store = sinks[JOURNAL], sinks[OBJECTS]
    for name in journal.abandoned():
        if store.stat(name) is None:
            journal.forget([name])
            continue
        try:
            content = content_of(store, name)
        except SinkRejected as error:
            content, fault = b"", str(error)
        else:
            fault = fault_of(name, content) or ""
        if fault:
            logger.warning(
                "the archive object %s is damaged and left as it is; its records "
                "come again and are stored in another one: %s",
                name,
                fault,
            )
            journal.set_aside(name, fault)
        else:
            _follow(name, content, sinks)
            journal.finish([name])


def _put(objects: list[ArchiveObject], sinks: Sinks) -> dict[str, Outcome]:
    """Store the objects; return outcomes other than Done, by record id.

    A stored object is done, even if the journal fails now: the object stays pending,
    and :func:`_resolve_pending` finds it. If its records were retried instead, they
    would be stored twice if the journal is replaced by an empty one.
    """
    journal, store = sinks[JOURNAL], sinks[OBJECTS]
    level = sinks.settings.read(ARCHIVE).compression_level
    failures: dict[str, Outcome] = {}
    for index, item in enumerate(objects):
        data = compress(item.content, level)
        metadata = {**item.metadata, "sha256": hashlib.sha256(data).hexdigest()}
        try:
            store.put(item.name, data, metadata)
            _follow(item.name, item.content, sinks)
        except SinkRejected as error:
            with suppress(SinkUnavailable):
                journal.forget([item.name])
            failures.update(dict.fromkeys(item.ids, outcome_of(error)))
        except SinkUnavailable as error:  # it may be stored: it stays pending
            failures.update(dict.fromkeys(item.ids, outcome_of(error)))
            with suppress(SinkUnavailable):
                journal.release(item.name)
            if _is_unavailable(store):
                rest = objects[index + 1 :]
                with suppress(SinkUnavailable):
                    journal.forget([untried.name for untried in rest])
                ids = (name for untried in rest for name in untried.ids)
                return failures | dict.fromkeys(ids, outcome_of(error))
        else:
            with suppress(SinkUnavailable):
                journal.finish([item.name])
    return failures


def _follow(name: str, content: bytes, sinks: Sinks) -> None:
    """Give a stored object to the followers of the archive."""
    for key in FOLLOWERS:
        sinks[key].add(name, content)


def _is_unavailable(store: ObjectStore) -> bool:
    """Whether the other objects would fail for the same reason."""
    try:
        store.probe()
    except SinkUnavailable:
        return True
    return False


_LARGEST_PROBE_BYTES = 8 << 20


def _validate(settings: Settings) -> Iterable[ConfigError]:
    open_store(settings.env).close()
    return ()


def _archive(settings: Settings) -> Verdict:
    name = f"doctor/{uuid.uuid4()}"
    limits = settings.read(QUEUES).for_queue(archive_metrics.queue)
    # As large as an object of a batch may be: a store that is nearly full accepts small
    # objects.
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
    queues = {  # the queues of the archive match every key
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
        if binding.destination not in alternates  # no flow handles what comes there
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
