"""What the archive holds by day, whether it is sound, and sending its records through
the mesh once more."""

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

#: Small objects cost a round trip each, and several can be under way.
_READS_AT_ONCE = 8
#: Messages that are published together.
_BATCH = 500
#: A broker that goes away is waited for so long, and tried so often.
_PATIENCE_SECONDS, _AGAIN_SECONDS = 60.0, 0.5
_DAMAGED_LINE = "a line is damaged; meshtasks archive verify names its object"


@dataclass(slots=True)
class ArchivedDay:
    """What is archived of one domain and UTC date.

    Attributes:
        objects: how many.
        size_bytes: as stored.
        hours: UTC hours that have an object.
        names: of the objects.
    """

    objects: int = 0
    size_bytes: int = 0
    hours: set[int] = field(default_factory=set)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Calendar:
    """What is archived, by UTC date and domain; a date without anything is not there.

    Attributes:
        days: in order.
        foreign: objects whose names the mesh does not give.
    """

    days: Mapping[date, Mapping[str, ArchivedDay]]
    foreign: int

    def gaps(self) -> list[date]:
        """The dates between the first and the last that have nothing."""
        dates = list(self.days)
        if not dates:
            return []
        whole = range((dates[-1] - dates[0]).days)
        every = (dates[0] + timedelta(days=number) for number in whole)
        return [each for each in every if each not in self.days]


def calendar_of(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> Calendar:
    """Look what is archived.

    Args:
        period: whose hours.
        domains: of these; of all if there are none.

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
    """Look into objects, in their order; several at once. Whoever takes no more of them
    closes it.

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
    """What was found by looking into objects.

    Attributes:
        objects: that were looked at.
        size_bytes: of all of them.
        records: in all of them, by the object's name.
        faults: what is wrong with objects, by name.
    """

    objects: int = 0
    size_bytes: int = 0
    records: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, found: Found, checked: Checked) -> None:
        """Note one."""
        self.objects += 1
        self.size_bytes += found.info.size_bytes
        self.records[found.info.name] = checked.records
        if checked.fault:
            self.faults[found.info.name] = checked.fault

    @property
    def summary(self) -> str:
        """All of it as a line."""
        return (
            f"{self.objects:,} objects, {self.records.total():,} records, "
            f"{self.size_bytes / 1e6:.2f} MB: "
            + (f"{len(self.faults):,} DAMAGED" if self.faults else "all sound")
        )


class Router:
    """Where records go.

    Args:
        to_queue: to this queue only; empty, to those that they once reached.
        even_if_dropped: also those that the time-series store would drop.
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
        """Exchange and routing key that lead to each queue, or why there is no way."""
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
    """Records that are sent together: their messages, and how many by where to."""

    messages: list[Outgoing]
    sent: Counter[str]


@dataclass(slots=True)
class ArchiveReplay:
    """A replay, and what became of the records.

    Attributes:
        rate: records a second, at most.
        stopping: ends it when it is set.
        quiet: see :func:`replayed`.
        dry: count, and send nothing.
        sent: confirmed, by where to.
        kept: not sent, by the reason.
        damaged: what is wrong with objects, none of whose records was sent.
        hour: all records of the hours before it are sent.
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
            objects: in the order of their hours.
            report: is told how many objects are done, of how many, and a note.

        Raises:
            SinkUnavailable: the store cannot be read.
            Transient: the connection to the broker was lost.
            Unroutable: a queue was deleted meanwhile.
        """
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 4)))
        with closing(Publisher(url)) as publisher:
            for number, found in enumerate(objects, 1):
                if self.stopping.is_set() or found.parsed is None:  # foreign, the last
                    return
                self.hour = found.parsed.hour
                for batch in self._batches(found.info.name, size):
                    self._send(publisher, batch)
                    if self.stopping.is_set():
                        return
                report(number, len(objects), f"{self.sent.total():,} records")

    @property
    def how_to_go_on(self) -> str:
        """What was sent, and the option that sends the rest."""
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
        """Publish messages. Once some were sent, a broker that goes away, as while its
        cluster elects a leader, is waited for."""
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
    """The message that brings a record to a queue once more.

    Its headers hold where the record was first published, when it was made (the time
    of a record without one of its own), and its id in the archive. It goes by an
    exchange on which these headers are trusted (:mod:`meshtasks.amqp.delivery`).

    Args:
        way: exchange and routing key that lead to its queue alone
            (:meth:`~meshtasks.amqp.topology.Topology.way_to`).
        quiet: no alerts and no webhooks.
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
        # AMQP's has whole seconds: what has them probably had one, and the alert
        # manager tells alerts apart by it.
        timestamp=record.time if record.time.is_integer() else None,
        headers=table,
    )


def way_back(topology: Topology) -> Callable[[str, str], tuple[str, ...]]:
    """A function that gives the queues of the mesh that a record of this exchange and
    routing key goes to; none if no binding leads to one.

    What devices published to one of the broker's own exchanges goes where the exchange
    behind it leads to: other devices listen there.
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
