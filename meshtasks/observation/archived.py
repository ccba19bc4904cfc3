"""The archive by day, its verification, and the replay of its records."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache, partial
from itertools import islice
from threading import Event
from typing import NamedTuple

from meshtasks.amqp import headers
from meshtasks.amqp.entities import PREDECLARED_EXCHANGES
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import ARCHIVE_EXCHANGE, TOPOLOGY, Topology
from meshtasks.config.settings import Settings
from meshtasks.errors import PublishUnconfirmed, SchemaMismatch, SinkRejected
from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import (
    ArchivedRecord,
    Checked,
    Found,
    Period,
    check,
    content_of,
    objects_in,
    read_line,
)
from meshtasks.flows.loading import load_flows
from meshtasks.flows.sinks import TIMESERIES
from meshtasks.flows.timeseries_queries import retention_of, victoriametrics_state

#: Objects that are read at once: each small object costs a round trip.
_READS_AT_ONCE = 8
#: Messages of one publish.
_BATCH = 500
#: If the broker becomes unavailable: how long publishing is tried again, and at which
#: interval.
_PATIENCE_SECONDS, _AGAIN_SECONDS = 60.0, 0.5
_DAMAGED_LINE = "a line is damaged; meshtasks archive verify names its object"


@dataclass(slots=True)
class ArchivedDay:
    """The archived records of one domain and UTC date.

    Attributes:
        objects: number of objects.
        size_bytes: their size in the store.
        hours: UTC hours that have an object.
        names: names of the objects.
    """

    objects: int = 0
    size_bytes: int = 0
    hours: set[int] = field(default_factory=set)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Calendar:
    """The archived records by UTC date and domain. Empty dates are left out.

    Attributes:
        days: in order of date.
        foreign: number of objects whose names are not of the mesh's form.
    """

    days: Mapping[date, Mapping[str, ArchivedDay]]
    foreign: int

    def gaps(self) -> list[date]:
        """The dates between the first and the last without any object."""
        dates = list(self.days)
        if not dates:
            return []
        whole = range((dates[-1] - dates[0]).days)
        every = (dates[0] + timedelta(days=number) for number in whole)
        return [each for each in every if each not in self.days]


def calendar_of(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> Calendar:
    """List the archive by date and domain.

    Args:
        store: the archive.
        period: the hours to list.
        domains: the domains to list; empty for all.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    days: dict[date, dict[str, ArchivedDay]] = {}
    foreign = 0
    for found in objects_in(store, period, domains):
        if found.parsed is None:
            foreign += 1
            continue
        of_day = days.setdefault(found.parsed.day, {})
        day = of_day.setdefault(found.parsed.domain, ArchivedDay())
        day.objects += 1
        day.size_bytes += found.info.size_bytes
        day.hours.add(found.parsed.hour.hour)
        day.names.append(found.info.name)
    ordered = {each: dict(sorted(days[each].items())) for each in sorted(days)}
    return Calendar(ordered, foreign)


def checked(
    store: ObjectStore, objects: Iterable[Found]
) -> Generator[tuple[Found, Checked]]:
    """Check objects, several at once, and yield the results in their order. A caller
    that stops early must close the generator.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    waiting = iter(objects)
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="verify") as reading:
        while group := list(islice(waiting, 4 * _READS_AT_ONCE)):
            names = [found.info.name for found in group]
            checks = reading.map(partial(check, store), names)
            yield from zip(group, checks, strict=True)


@dataclass(slots=True)
class Verified:
    """The results of checking objects.

    Attributes:
        objects: number of objects checked.
        size_bytes: their total size.
        records: number of records by object name.
        faults: faults of damaged objects, by object name.
    """

    objects: int = 0
    size_bytes: int = 0
    records: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, found: Found, checked: Checked) -> None:
        """Add the result of one object."""
        self.objects += 1
        self.size_bytes += found.info.size_bytes
        self.records[found.info.name] = checked.records
        if checked.fault:
            self.faults[found.info.name] = checked.fault

    @property
    def summary(self) -> str:
        """The results in one line."""
        return (
            f"{self.objects:,} objects, {self.records.total():,} records, "
            f"{self.size_bytes / 1e6:.2f} MB: "
            + (f"{len(self.faults):,} DAMAGED" if self.faults else "all sound")
        )


class Router:
    """Decides to which queues archived records are replayed.

    Args:
        to_queue: the only queue; empty for the queues that the records first reached.
        even_if_dropped: also replay records that the time-series store would drop
            because of its retention.
    """

    def __init__(
        self, settings: Settings, to_queue: str, *, even_if_dropped: bool
    ) -> None:
        self.to_queue = to_queue
        self._topology = settings.read(TOPOLOGY)
        self._queues_of = way_back(self._topology)
        self._handlers = load_flows().handlers(settings)
        self._kept = None
        if not even_if_dropped:
            state = victoriametrics_state(settings.env.influx_url)
            self._kept = retention_of(settings.env, state)
        self._oldest = self._kept.oldest() if self._kept else -math.inf

    def ways(self, record: ArchivedRecord) -> list[tuple[str, str]] | str:
        """The exchange and routing key that lead to each queue, or the reason why the
        record is not replayed."""
        if self.to_queue:
            queues: tuple[str, ...] = (self.to_queue,)
        else:
            queues = self._queues_of(record.exchange, record.routing_key)
        if not queues:
            key = ".".join(record.routing_key.split(".")[:2])
            return f"no queue of topology.yaml gets {key} from {record.exchange!r}"
        if (
            self._kept is not None
            and record.time < self._oldest
            and any(
                TIMESERIES in self._handlers[queue].sinks
                for queue in self._handlers.keys() & {*queues}
            )
        ):
            return (
                f"older than the time-series store keeps, {self._kept.fate}, "
                "or use --even-if-dropped"
            )
        return [self._topology.way_to(queue, record.routing_key) for queue in queues]


class _Batch(NamedTuple):
    """Records that are sent together: their messages, and their number by target."""

    messages: list[Outgoing]
    sent: Counter[str]


@dataclass(slots=True)
class ArchiveReplay:
    """A replay, its progress and its results.

    Attributes:
        store: the archive.
        period: records of these times are replayed.
        router: finds their queues.
        rate: records per second at most; None for no limit.
        stopping: stops the replay when set.
        quiet: see :func:`replayed`.
        dry: count the records without sending them.
        sent: confirmed records by target: the queue, or the first exchange.
        kept: records that were not sent, by reason.
        damaged: faults of damaged objects; none of their records was sent.
        hour: the current hour; the records of all hours before it are sent.
    """

    store: ObjectStore
    period: Period
    router: Router
    rate: float | None
    stopping: Event
    quiet: bool
    dry: bool
    sent: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    hour: datetime | None = None

    def run(
        self,
        url: str,
        objects: list[Found],
        report: Callable[[int, int, str], None],
    ) -> None:
        """Send the records of these objects.

        Args:
            url: of the broker.
            objects: in the order of their hours.
            report: called with the objects done, their total number, and a note.

        Raises:
            SinkUnavailable: the store cannot be read.
            Transient: the connection to the broker was lost.
            Unroutable: a queue was deleted meanwhile.
        """
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 4)))
        with closing(Publisher(url)) as publisher:
            for number, found in enumerate(objects, 1):
                if self.stopping.is_set() or found.parsed is None:  # foreign: last
                    return
                self.hour = found.parsed.hour
                for batch in self._batches(found.info.name, size):
                    self._send(publisher, batch)
                    if self.stopping.is_set():
                        return
                report(number, len(objects), f"{self.sent.total():,} records")

    def counts(self) -> Iterator[tuple[int, str]]:
        """Numbers of records that were sent, and that were not, each with its text."""
        for name, count in self.sent.most_common():
            yield count, f"{'would go' if self.dry else 'sent'} to {name}"
        for reason, count in self.kept.most_common():
            yield count, f"not sent: {reason}"

    @property
    def how_to_go_on(self) -> str:
        """The number of sent records, and the option that sends the rest."""
        sent = f"{self.sent.total():,} records were sent"
        if self.hour is None:
            return sent
        hour = f"{self.hour.astimezone():%Y-%m-%dT%H:%M%z}"
        return f"{sent}, all of those before {hour}: go on with --from {hour}"

    def _batches(self, name: str, size: int) -> Iterator[_Batch]:
        batch = _Batch([], Counter())
        try:
            lines = content_of(self.store, name).splitlines()
        except SinkRejected as error:
            self.damaged.append(str(error))
            return
        for line in lines:
            try:
                record = read_line(line)
            except SchemaMismatch:
                self.kept[_DAMAGED_LINE] += 1
                continue
            if not self.period.start <= record.time < self.period.end:
                continue
            ways = self.router.ways(record)
            if isinstance(ways, str):
                self.kept[ways] += 1
                continue
            batch.sent[self.router.to_queue or record.exchange] += 1
            batch.messages.extend(
                replayed(record, way, quiet=self.quiet) for way in ways
            )
            if len(batch.messages) >= size:
                yield batch
                batch = _Batch([], Counter())
        if batch.messages:
            yield batch

    def _send(self, publisher: Publisher, batch: _Batch) -> None:
        began = time.monotonic()
        if not self.dry:
            self._publish(publisher, batch.messages)
        self.sent.update(batch.sent)
        if self.rate is not None and not self.dry:
            rest = batch.sent.total() / self.rate - (time.monotonic() - began)
            self.stopping.wait(max(0.0, rest))

    def _publish(self, publisher: Publisher, messages: list[Outgoing]) -> None:
        """Publish messages. After a first success, an unavailable broker is retried:
        the cluster may be electing a leader."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                publisher.publish(messages)
            except PublishUnconfirmed:
                is_over = not self.sent or time.monotonic() > deadline
                if is_over or self.stopping.wait(_AGAIN_SECONDS):
                    raise
            else:
                return


def replayed(record: ArchivedRecord, way: tuple[str, str], *, quiet: bool) -> Outgoing:
    """The message that brings a record to a queue again.

    Its headers hold the record's first exchange and routing key, its time (the
    archive's for a record without one), and its id in the archive. It is published to
    an exchange on which these headers are trusted (:mod:`meshtasks.amqp.delivery`).

    Args:
        record: the archived record.
        way: exchange and routing key that lead to the target queue alone
            (:meth:`~meshtasks.amqp.topology.Topology.way_to`).
        quiet: the message must cause no alert and no webhook.
    """
    table: dict[str, object] = {
        headers.ARCHIVED: record.id,
        headers.EXCHANGE: record.exchange,
        headers.ROUTING_KEY: record.routing_key,
        headers.RECEIVED_AT: record.time,
    }
    if quiet:
        table[headers.QUIET] = 1
    return Outgoing(
        *way,
        record.record,
        message_id=record.id,
        # AMQP timestamps are whole seconds. A record with whole seconds probably had
        # this property, and the alert manager identifies alerts by it.
        timestamp=record.time if record.time.is_integer() else None,
        headers=table,
    )


def way_back(topology: Topology) -> Callable[[str, str], tuple[str, ...]]:
    """Return a function that finds the mesh's queues for a first exchange and routing
    key; its result is empty if no binding leads to a queue.

    Messages of devices were published to an exchange of the broker, such as
    ``amq.topic``. They are replayed to the exchange that is bound to it, because other
    devices subscribe to the first one.
    """
    declared = {each.name for each in topology.exchanges} - {ARCHIVE_EXCHANGE}

    @cache
    def find(exchange: str, routing_key: str) -> tuple[str, ...]:
        candidates = [exchange]
        if exchange in PREDECLARED_EXCHANGES:
            candidates = [
                binding.to_exchange
                for binding in topology.all_bindings
                if binding.exchange == exchange and binding.to_exchange
            ]
        for each in candidates:
            if each in declared:
                reached = topology.queues_reached(each, routing_key)
                if queues := tuple(n for n in topology.domain_queues if n in reached):
                    return queues
        return ()

    return find
