"""``meshtasks archive``: what is archived, whether it is sound, and replaying it."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from threading import Event
from typing import Annotated, NamedTuple

import typer

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.archive_garage import garage
from meshtasks.cli.archive_verify import Domains, End, Start, period_of, verify
from meshtasks.cli.places import tell_place
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    say,
    stopping_on_signals,
)
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import SchemaMismatch, SinkRejected, Transient, Unroutable
from meshtasks.flows.archive.objects import ObjectStore, open_store
from meshtasks.flows.archive.reading import (
    ArchivedRecord,
    Found,
    Period,
    content_of,
    objects_in,
    read_line,
)
from meshtasks.flows.archive.replay import replayed, way_back
from meshtasks.flows.loading import load_flows
from meshtasks.flows.retention import retention_of
from meshtasks.flows.sinks import TIMESERIES
from meshtasks.flows.victoriametrics import look

_EXIT_KEPT = 1
#: Messages that are published together.
_BATCH = 500
_DAMAGED_LINE = "a line is damaged; meshtasks archive verify names its object"

app = typer.Typer(
    help="The archive (MESH_ARCHIVE_URL): look, verify, replay.", no_args_is_help=True
)
app.command()(garage)


@app.command("list")
def list_(*, start: Start = "", end: End = "", domain: Domains = None) -> None:
    """Show what is archived: objects and bytes, by domain and UTC date.

    Exit codes: 0; 69 the archive cannot be read.
    """
    totals: dict[tuple[str, date], list[int]] = defaultdict(lambda: [0, 0])
    foreign = 0
    env = load_settings().env
    tell_place(env, "archive_url")
    with closing(open_store(env)) as store:
        for found in objects_in(store, period_of(start, end), domain or ()):
            if found.parsed is None:
                foreign += 1
                continue
            total = totals[found.parsed.domain, found.parsed.day]
            total[0] += 1
            total[1] += found.info.size_bytes
    if not totals:
        say("nothing is archived")
    for (name, day), (count, size_bytes) in sorted(totals.items()):
        say(f"{name:<12} {day} {count:>8,} objects {size_bytes / 1e6:>10.2f} MB")
    if totals:
        count, size_bytes = map(sum, zip(*totals.values(), strict=True))
        say(f"{'all':<23} {count:>8,} objects {size_bytes / 1e6:>10.2f} MB")
    if foreign:
        say(f"and {foreign:,} objects that are not the mesh's")


app.command()(verify)


@app.command()
def replay(  # noqa: PLR0913 - its parameters are its options
    *,
    start: Start,
    end: End = "",
    domain: Domains = None,
    to_queue: Annotated[
        str,
        typer.Option(metavar="QUEUE", help="To this queue only."),
    ] = "",
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="N", help="Records a second, at most."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Count, and send nothing.")
    ] = False,
    with_effects: Annotated[
        bool,
        typer.Option("--with-effects", help="Send alerts and call webhooks again."),
    ] = False,
    even_if_dropped: Annotated[
        bool,
        typer.Option(
            "--even-if-dropped",
            help="Send also what is older than the time-series store keeps.",
        ),
    ] = False,
) -> None:
    """Send archived records through the mesh once more, each by itself.

    They go to the queues that they once reached, marked as replayed: points are stored
    (the same points, if they are there still), and nothing is archived again. No alerts
    are sent and no webhooks called, unless --with-effects is set.

    Exit codes: 0; 1 some had nowhere to go, or an object is damaged; 69 the archive or
    the broker cannot be reached; 130 interrupted.

    Example: meshtasks archive replay --from 2026-11-20 --to 2026-11-21 --domain sensors
    """
    settings = load_settings()
    period = period_of(start, end)
    names = settings.read(TOPOLOGY).names_of(to_queue)
    if to_queue and missing_queues(settings.env.amqp_url, names):
        fail(f"the broker has no queue {to_queue}", _EXIT_KEPT)
    with closing(open_store(settings.env)) as store, stopping_on_signals() as stopping:
        objects = objects_in(store, period, domain or ())
        run = _Replay(
            store,
            period,
            _Router(settings, to_queue, even_if_dropped=even_if_dropped),
            rate,
            stopping,
            quiet=not with_effects,
            dry=dry,
        )
        try:
            run.run(settings.env.amqp_url, [found for found in objects if found.parsed])
        except Unroutable as error:
            fail(f"{error}; {run.how_to_go_on}", _EXIT_KEPT)
        except Transient as error:
            fail(f"{error}; {run.how_to_go_on}", os.EX_UNAVAILABLE)
    for name, count in run.sent.most_common():
        say(f"{count:>9,} {'would go' if dry else 'sent'} to {name}")
    for reason, count in run.kept.most_common():
        say(f"{count:>9,} not sent: {reason}")
    for fault in run.damaged:
        say(f"not sent: {fault}", err=True)
    if not (run.sent or run.kept or run.damaged):
        say("nothing is archived of that time")
    if stopping.is_set():
        fail(f"interrupted; {run.how_to_go_on}", EXIT_INTERRUPTED)
    if run.kept or run.damaged:
        raise typer.Exit(_EXIT_KEPT)


class _Route(NamedTuple):
    """Where a record goes: its name, and the queues that get it."""

    name: str
    queues: tuple[str, ...]


class _Router:
    """Where records go."""

    def __init__(
        self, settings: Settings, to_queue: str, *, even_if_dropped: bool
    ) -> None:
        self._to_queue = to_queue
        self._topology = settings.read(TOPOLOGY)
        self._queues_of = way_back(self._topology)
        self._handlers = load_flows().handlers(settings)
        self._kept = None
        if not even_if_dropped:
            state = look(settings.env.influx_url)
            self._kept = retention_of(settings.env, state)
        self._oldest = self._kept.oldest() if self._kept else -math.inf

    def route(self, record: ArchivedRecord) -> _Route | str:
        """Where to, or why there is no way."""
        if self._to_queue:
            route = _Route(self._to_queue, (self._to_queue,))
        else:
            queues = self._queues_of(record.exchange, record.routing_key)
            if not queues:
                key = ".".join(record.routing_key.split(".")[:2])
                return f"no queue of topology.yaml gets {key} from {record.exchange!r}"
            route = _Route(record.exchange, queues)
        if (
            self._kept is not None
            and record.time < self._oldest
            and any(map(self._writes_points, route.queues))
        ):
            return (
                f"older than the time-series store keeps, {self._kept.fate}, "
                "or use --even-if-dropped"
            )
        return route

    def ways(self, route: _Route, record: ArchivedRecord) -> Iterator[tuple[str, str]]:
        """Exchange and routing key that lead to each queue of a route."""
        for queue in route.queues:
            yield self._topology.way_to(queue, record.routing_key)

    def _writes_points(self, queue: str) -> bool:
        handler = self._handlers.get(queue)
        return handler is not None and TIMESERIES in handler.sinks


class _Batch(NamedTuple):
    """Records that are sent together: their messages, and how many by where to."""

    messages: list[Outgoing]
    sent: Counter[str]


@dataclass(slots=True)
class _Replay:
    """A replay, and what became of the records.

    Attributes:
        rate: records a second, at most.
        stopping: ends it when it is set.
        quiet: see :func:`~meshtasks.flows.archive.replay.replayed`.
        dry: count, and send nothing.
        sent: confirmed, by where to.
        kept: not sent, by the reason.
        damaged: what is wrong with objects, none of whose records was sent.
        hour: all records of the hours before it are sent.
    """

    store: ObjectStore
    period: Period
    router: _Router
    rate: float | None
    stopping: Event
    quiet: bool
    dry: bool
    sent: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    hour: datetime | None = None

    def run(self, url: str, objects: list[Found]) -> None:
        """Send the records of these objects.

        Args:
            url: AMQP URL.
            objects: in the order of their hours.

        Raises:
            SinkUnavailable: the store cannot be read.
            Transient: the connection to the broker was lost.
            Unroutable: a queue was deleted meanwhile.
        """
        size = _BATCH if self.rate is None else max(1, min(_BATCH, int(self.rate / 4)))
        with closing(Publisher(url)) as publisher, counting("replaying") as bar:
            for number, found in enumerate(objects, 1):
                if self.stopping.is_set() or found.parsed is None:
                    return
                self.hour = found.parsed.hour
                for batch in self._batches(found.info.name, size):
                    self._send(publisher, batch)
                    if self.stopping.is_set():
                        return
                bar.update(number, len(objects), f"{self.sent.total():,} records")

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
            route = self.router.route(record)
            if isinstance(route, str):
                self.kept[route] += 1
                continue
            batch.sent[route.name] += 1
            batch.messages.extend(
                replayed(record, way, quiet=self.quiet)
                for way in self.router.ways(route, record)
            )
            if len(batch.messages) >= size:
                yield batch
                batch = _Batch([], Counter())
        if batch.messages:
            yield batch

    def _send(self, publisher: Publisher, batch: _Batch) -> None:
        began = time.monotonic()
        if not self.dry:
            publisher.publish(batch.messages)
        self.sent.update(batch.sent)
        if self.rate is not None and not self.dry:
            rest = batch.sent.total() / self.rate - (time.monotonic() - began)
            self.stopping.wait(max(0.0, rest))
