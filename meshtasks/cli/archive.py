"""``meshtasks archive``: what is archived, whether it is sound, and replaying it."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from functools import partial
from typing import Annotated

import typer

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.archive_replay import Replay, Replayed, Way
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    moment_of,
    say,
    stopping_on_signals,
)
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import Transient, Unroutable
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.archive.reading import (
    ArchivedRecord,
    Found,
    Period,
    check,
    objects_in,
)
from meshtasks.flows.archive.replay import way_back
from meshtasks.flows.builtin import handlers_of
from meshtasks.flows.sinks import TIMESERIES
from meshtasks.flows.victoriametrics import look

_EXIT_DAMAGED = 1
#: Small objects cost a round trip each, and several can be under way.
_READS_AT_ONCE = 8
_EXIT_KEPT = 1

app = typer.Typer(
    help="The archive (MESH_ARCHIVE_URL): look, verify, replay.", no_args_is_help=True
)

_Start = Annotated[
    str,
    typer.Option(
        "--from", metavar="TIME", help="2026-11-20, 2026-11-20T13:00, or 7d ago."
    ),
]
_End = Annotated[
    str, typer.Option("--to", metavar="TIME", help="As --from; not included.")
]
_Domains = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="NAME", help="sensors, say; may be repeated."),
]


@app.command("list")
def list_(*, start: _Start = "", end: _End = "", domain: _Domains = None) -> None:
    """Show what is archived: objects and bytes, by domain and UTC date.

    Exit codes: 0; 69 the archive cannot be read.
    """
    totals: dict[tuple[str, date], list[int]] = defaultdict(lambda: [0, 0])
    foreign = 0
    with closing(open_store(load_settings().env)) as store:
        for found in objects_in(store, _period(start, end), domain or ()):
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


@app.command()
def verify(*, start: _Start = "", end: _End = "", domain: _Domains = None) -> None:
    """Read the archive, and see whether every object is what it was when it was stored.

    An object's name is made of the ids and times of its records; where the store keeps
    metadata (S3 does), sha256 and count are compared as well.

    Exit codes: 0; 1 an object is damaged, which is named; 69 the archive cannot be
    read.
    """
    records = damaged = size_bytes = 0
    with (
        closing(open_store(load_settings().env)) as store,
        ThreadPoolExecutor(_READS_AT_ONCE) as reading,
        counting("verifying") as bar,
    ):
        objects = objects_in(store, _period(start, end), domain or ())
        names = [found.info.name for found in objects]
        looks = reading.map(partial(check, store), names)
        for number, (found, checked) in enumerate(zip(objects, looks, strict=True), 1):
            records += checked.records
            size_bytes += found.info.size_bytes
            if checked.fault:
                damaged += 1
                say(f"{found.info.name}: {checked.fault}")
            bar.update(number, len(objects))
    say(
        f"{len(objects):,} objects, {records:,} records, {size_bytes / 1e6:.2f} MB: "
        + (f"{damaged:,} DAMAGED" if damaged else "all sound")
    )
    if damaged:
        raise typer.Exit(_EXIT_DAMAGED)


@app.command()
def replay(  # noqa: PLR0913 - its parameters are its options
    *,
    start: _Start,
    end: _End = "",
    domain: _Domains = None,
    to_queue: Annotated[
        str,
        typer.Option(metavar="QUEUE", help="To this queue alone, whoever reads it."),
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
        typer.Option(
            "--with-effects", help="Have alerts given and webhooks called once more."
        ),
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
    (the same points, if they are there still), and nothing is archived again. Nobody
    is told again, either: no alerts, no webhooks, unless --with-effects says so.

    Exit codes: 0; 1 some had nowhere to go, or an object is damaged; 69 the archive or
    the broker cannot be reached; 130 interrupted.

    Example: meshtasks archive replay --from 2026-11-20 --to 2026-11-21 --domain sensors
    """
    settings = load_settings()
    period = _period(start, end)
    if to_queue and missing_queues(settings.env.amqp_url, [to_queue]):
        fail(f"the broker has no queue {to_queue}", _EXIT_KEPT)
    result = Replayed()
    oldest = -math.inf if even_if_dropped else _oldest_kept(settings)
    with closing(open_store(settings.env)) as store, stopping_on_signals() as stopping:
        objects = objects_in(store, period, domain or ())
        run = Replay(
            url=settings.env.amqp_url,
            store=store,
            period=period,
            route=_Router(settings, to_queue, oldest).route,
            rate=rate,
            quiet=not with_effects,
            dry=dry,
            stopping=stopping,
        )
        _run(run, [each for each in objects if each.parsed], result)
    for name, count in result.sent.most_common():
        say(f"{count:>9,} {'would go' if dry else 'sent'} to {name}")
    for reason, count in result.kept.most_common():
        say(f"{count:>9,} not sent: {reason}")
    for fault in result.damaged.values():
        say(f"not sent: {fault}", err=True)
    if not (result.sent or result.kept or result.damaged):
        say("nothing is archived of that time")
    if stopping.is_set():
        fail(f"interrupted; {_how_to_go_on(result)}", EXIT_INTERRUPTED)
    if result.kept or result.damaged:
        raise typer.Exit(_EXIT_KEPT)


def _run(run: Replay, objects: list[Found], result: Replayed) -> None:
    try:
        run.run(objects, result)
    except Unroutable as error:
        fail(f"{error}; {_how_to_go_on(result)}", _EXIT_DAMAGED)
    except Transient as error:
        fail(f"{error}; {_how_to_go_on(result)}", os.EX_UNAVAILABLE)


class _Router:
    """Where records go."""

    def __init__(self, settings: Settings, to_queue: str, oldest: float) -> None:
        self._to_queue = to_queue
        self._oldest = oldest
        self._queues_of = way_back(settings.read(TOPOLOGY))
        self._handlers = handlers_of(settings)

    def route(self, record: ArchivedRecord) -> Way | str:
        """Where to, or why there is no way."""
        way = self._way(record)
        if (
            isinstance(way, Way)
            and record.time < self._oldest
            and any(self._writes_points(queue) for queue in way.queues)
        ):
            return (
                "older than the time-series store keeps, which would drop them "
                "without a word: set its -retentionPeriod, or say --even-if-dropped"
            )
        return way

    def _way(self, record: ArchivedRecord) -> Way | str:
        if self._to_queue:
            return Way(self._to_queue, (self._to_queue,))
        queues = self._queues_of(record.exchange, record.routing_key)
        if not queues:
            key = ".".join(record.routing_key.split(".")[:2])
            return f"no queue of topology.yaml gets {key} from {record.exchange!r}"
        return Way(record.exchange, queues)

    def _writes_points(self, queue: str) -> bool:
        handler = self._handlers.get(queue)
        return handler is not None and TIMESERIES in handler.sinks


def _oldest_kept(settings: Settings) -> float:
    """The oldest point that the time-series store keeps, as far as it says."""
    state = look(settings.env.influx_url)
    return time.time() - state.retention_seconds if state else -math.inf


def _how_to_go_on(result: Replayed) -> str:
    sent = f"{result.sent.total():,} records were sent"
    if result.hour is None:
        return sent
    hour = f"{result.hour.astimezone():%Y-%m-%dT%H:%M%z}"
    return f"{sent}, all of those before {hour}: go on with --from {hour}"


def _period(start: str, end: str) -> Period:
    now = time.time()
    return Period(
        moment_of(start, now, "--from") if start else -math.inf,
        moment_of(end, now, "--to") if end else math.inf,
    )
