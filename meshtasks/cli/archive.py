"""``meshtasks archive``: list, verify, repair and replay the archive."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

import typer

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    moment_of,
    say,
    stopping_on_signals,
    tell_place,
)
from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.config.urls import is_base_url
from meshtasks.errors import ConfigError, Transient, Unroutable
from meshtasks.flows.analytics.dataset import Dataset
from meshtasks.flows.analytics.layout import DAMAGED_PREFIX, damaged_files
from meshtasks.flows.archive.garage import Garage
from meshtasks.flows.archive.objects import ObjectStore, open_store
from meshtasks.flows.archive.reading import Found, Period, objects_in, parse_name
from meshtasks.observation.archived import (
    ArchiveReplay,
    Router,
    Verified,
    calendar_of,
    checked,
)

if TYPE_CHECKING:
    from meshtasks.flows.analytics.repair import Day, Repair, Repaired

#: Exit code if an object is damaged, or a record matched no queue.
_EXIT_KEPT = 1

app = typer.Typer()

_Start = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="TIME",
        help="Start: 2026-11-20, 2026-11-20T13:00, or 7d (that long ago).",
    ),
]
_End = Annotated[
    str, typer.Option("--to", metavar="TIME", help="End, as --from; not included.")
]
_Domains = Annotated[
    list[str] | None,
    typer.Option(
        "--domain", metavar="NAME", help="Domain, such as sensors. Can be repeated."
    ),
]


def _period(start: str, end: str) -> Period:
    """The period that the options select."""
    now = time.time()
    return Period(
        moment_of(start, now, "--from") if start else -math.inf,
        moment_of(end, now, "--to") if end else math.inf,
    )


@app.command()
def garage(
    *,
    admin_url: Annotated[
        str, typer.Option(metavar="URL", help="URL of Garage's administration API.")
    ] = "http://127.0.0.1:3903",
    wait: Annotated[
        int,
        typer.Option(
            metavar="SECONDS", min=1, help="Time to wait until Garage has started."
        ),
    ] = 120,
) -> None:
    """Create layout, bucket and key in your own Garage, if they are missing.

    The bucket is that of MESH_ARCHIVE_URL. The key MESH_MINIO_ACCESS_KEY can read and
    write this bucket only. A key that this command created for the bucket before is
    deleted. MESH_GARAGE_ADMIN_TOKEN must be set.

    Exit codes: 0; 69 Garage cannot be reached; 78 bad configuration.
    """
    env = load_settings().env
    scheme, _, bucket = env.archive_url.partition("://")
    if scheme != "s3" or not bucket:
        expected = f"expected s3://bucket, such as s3://mesh, not {env.archive_url!r}"
        raise ConfigError("environment", "MESH_ARCHIVE_URL", expected)
    if not is_base_url(admin_url):
        expected = "expected a URL such as http://127.0.0.1:3903"
        raise typer.BadParameter(expected, param_hint="--admin-url")
    server = Garage(admin_url, env.garage_admin_token.get_secret_value(), wait)
    key_id = env.minio_access_key.get_secret_value()
    made = server.prepare(bucket, key_id, env.minio_secret_key.get_secret_value())
    with closing(open_store(env)) as store:
        store.probe()
    say("\n".join(f"made: {each}" for each in made) or "nothing is missing")


@app.command("list")
def list_(*, start: _Start = "", end: _End = "", domain: _Domains = None) -> None:
    """Show archived objects and bytes, by domain and UTC date.

    Exit codes: 0; 69 the archive cannot be read.
    """
    env = load_settings().env
    tell_place(env, "archive_url")
    with closing(open_store(env)) as store:
        calendar = calendar_of(store, _period(start, end), domain or ())
    days = [
        (name, day, found)
        for day, domains in calendar.days.items()
        for name, found in domains.items()
    ]
    for name, day, found in sorted(days, key=itemgetter(0, 1)):
        mb = found.size_bytes / 1e6
        say(f"{name:<12} {day} {found.objects:>8,} objects {mb:>10.2f} MB")
    if days:
        count = sum(found.objects for _, _, found in days)
        mb = sum(found.size_bytes for _, _, found in days) / 1e6
        say(f"{'all':<23} {count:>8,} objects {mb:>10.2f} MB")
    else:
        say("nothing is archived")
    if calendar.foreign:
        say(f"and {calendar.foreign:,} objects that are not the mesh's")


@app.command()
def verify(
    *,
    start: _Start = "",
    end: _End = "",
    domain: _Domains = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Write damaged or missing objects again, from the dataset.",
        ),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="With --repair: show what would be written, and write nothing.",
        ),
    ] = False,
) -> None:
    """Read the archive and check that every object is unchanged.

    The name of an object is made from the ids and times of its records. If the store
    keeps metadata (S3 does), sha256 and count are compared as well. Files that
    compaction or a repair moved to damaged/ are listed, too; they can be deleted.

    With --repair, objects that are damaged, or are missing but known to the dataset,
    are written again from the rows of the dataset. Intact objects are not changed. A
    repair can be interrupted and repeated.

    Exit codes: 0; 1 some objects are damaged (with --repair: and cannot be repaired);
    69 the archive cannot be read or written; 78 --repair needs the extra analytics.
    """
    settings, period, domains = load_settings(), _period(start, end), domain or ()
    if dry and not repair:
        message = "--dry-run is for --repair"
        raise typer.BadParameter(message)
    if repair:
        require("analytics", "`meshtasks archive verify --repair`")
    tell_place(settings.env, "archive_url")
    with closing(open_store(settings.env)) as store:
        # Read the dataset first: every row in it is in the archive already.
        partitions = Dataset(store).partitions(with_sources=True) if repair else {}
        objects = objects_in(store, period, domains)
        faults = _faults(store, objects)
        aside = _set_aside(store, period, domains)
        for name, what in aside.items():
            say(f"{name}: {what}")
        damaged = len(faults)
        if repair:
            from meshtasks.flows.analytics.repair import Repair  # noqa: PLC0415 - slow

            # All objects: the rows of a whole day are in one file.
            names = [found.info.name for found in objects_in(store, Period(), ())]
            run = Repair(
                settings, store, partitions, names, set(faults), period, dry=dry
            )
            foreign = sum(parse_name(name) is None for name in faults)
            damaged = _repair(run, run.days(domains), foreign, dry=dry)
    if damaged:
        raise typer.Exit(_EXIT_KEPT)


def _faults(store: ObjectStore, objects: list[Found]) -> dict[str, str]:
    """The faults of objects, by name; they are printed, too."""
    verified = Verified()
    with counting("verifying") as bar:
        for found, result in checked(store, objects):
            verified.add(found, result)
            if result.fault:
                say(f"{found.info.name}: {result.fault}")
            bar.update(verified.objects, len(objects))
    say(verified.summary)
    return verified.faults


def _set_aside(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> dict[str, str]:
    """Files and objects that were moved to damaged/: name there → description."""
    aside = {
        name: "a damaged file of the dataset, moved here by compaction"
        for name, file in damaged_files(store)
        if period.meets_day(file.partition.date)
        and (not domains or file.partition.domain in domains)
    }
    for info in store.list(DAMAGED_PREFIX):
        parsed = parse_name(info.name.removeprefix(DAMAGED_PREFIX))
        if (
            parsed
            and period.meets_hour(parsed.hour)
            and (not domains or parsed.domain in domains)
        ):
            aside[info.name] = "a damaged object of the archive, moved here by --repair"
    return aside


def _repair(run: Repair, days: list[Day], foreign: int, *, dry: bool) -> int:
    """Restore objects from the dataset.

    Args:
        foreign: number of damaged objects that are not the mesh's.

    Returns:
        Number of objects and files that are still damaged.
    """
    records, left = 0, foreign
    with counting("repairing") as bar:
        for number, day in enumerate(days, 1):
            done = run.run(day)
            say(*_repaired(done, dry=dry))
            records += done.records
            left += len(done.lost) + len(done.faults)
            bar.update(number, len(days), f"{records:,} records")
    say(
        f"{records:,} records {_would(dry, 'restored')}; "
        + (f"{left:,} STILL DAMAGED" if left else "nothing is left to repair")
    )
    return left


def _repaired(done: Repaired, *, dry: bool) -> Iterator[str]:
    """Lines about the repair of one day."""
    for name in done.restored:
        same = ", to the byte" if name in done.same_bytes else ""
        yield f"{name}: {_would(dry, 'restored')}{same}"
    for name in done.others:
        text = "for records whose object is not known"
        yield f"{name}: {_would(dry, 'written')}, {text}"
    yield from (*done.aside, *done.lost)
    for text in done.faults:
        yield f"its rows cannot be had: {text}"


def _would(dry: bool, done: str) -> str:  # noqa: FBT001 - chooses a word
    return f"would be {done}" if dry else done


@app.command()
def replay(  # noqa: PLR0913 - its parameters are its options
    *,
    start: _Start,
    end: _End = "",
    domain: _Domains = None,
    to_queue: Annotated[
        str,
        typer.Option(metavar="QUEUE", help="Publish to this queue only."),
    ] = "",
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="N", help="Maximum rate, in records per second."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Count the records, and publish nothing.")
    ] = False,
    with_effects: Annotated[
        bool,
        typer.Option("--with-effects", help="Send alerts and call webhooks again."),
    ] = False,
    even_if_dropped: Annotated[
        bool,
        typer.Option(
            "--even-if-dropped",
            help="Publish records, too, that are older than the time-series store's "
            "retention.",
        ),
    ] = False,
) -> None:
    """Publish archived records again, one message per record.

    Each record goes to the queues that it went to before, marked as replayed. Its
    points are stored (as the same points, if they still exist); the record is not
    archived again. Alerts and webhooks are left out, unless --with-effects is set.

    Exit codes: 0; 1 some records matched no queue, or an object is damaged; 69 the
    archive or the broker cannot be reached; 130 interrupted.

    Example: meshtasks archive replay --from 2026-11-20 --to 2026-11-21 --domain sensors
    """
    settings = load_settings()
    period = _period(start, end)
    names = settings.read(TOPOLOGY).names_of(to_queue)
    if to_queue and missing_queues(settings.env.amqp_url, names):
        fail(f"the broker has no queue {to_queue}", _EXIT_KEPT)
    with closing(open_store(settings.env)) as store, stopping_on_signals() as stopping:
        objects = objects_in(store, period, domain or ())
        run = ArchiveReplay(
            store,
            period,
            Router(settings, to_queue, even_if_dropped=even_if_dropped),
            rate,
            stopping,
            quiet=not with_effects,
            dry=dry,
        )
        _publish(run, settings.env.amqp_url, objects)
    for count, what in run.counts():
        say(f"{count:>9,} {what}")
    for fault in run.damaged:
        say(f"not sent: {fault}", err=True)
    if not (run.sent or run.kept or run.damaged):
        say("nothing is archived of that time")
    if stopping.is_set():
        fail(f"interrupted; {run.how_to_go_on}", EXIT_INTERRUPTED)
    if run.kept or run.damaged:
        raise typer.Exit(_EXIT_KEPT)


def _publish(run: ArchiveReplay, url: str, objects: list[Found]) -> None:
    """Run the replay, with a progress bar.

    Raises:
        typer.Exit: a queue was deleted, or a service cannot be reached; the reason and
            how to continue are printed.
    """
    try:
        with counting("replaying") as bar:
            run.run(url, objects, bar.update)
    except Unroutable as error:
        fail(f"{error}; {run.how_to_go_on}", _EXIT_KEPT)
    except Transient as error:
        fail(f"{error}; {run.how_to_go_on}", os.EX_UNAVAILABLE)
