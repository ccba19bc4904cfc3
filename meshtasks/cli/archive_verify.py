"""``meshtasks archive verify``: whether the archive is sound, and mending it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Annotated

import typer

from meshtasks.cli.places import tell_place
from meshtasks.cli.terminal import counting, moment_of, say
from meshtasks.config.extras import require
from meshtasks.config.settings import Settings, load_settings
from meshtasks.flows.analytics.dataset import Dataset
from meshtasks.flows.analytics.layout import (
    DAMAGED_PREFIX,
    Partition,
    Split,
    damaged_files,
)
from meshtasks.flows.archive.objects import ObjectStore, open_store
from meshtasks.flows.archive.reading import Found, Period, objects_in, parse_name
from meshtasks.observation.archived import Verified, checked

_EXIT_DAMAGED = 1

Start = Annotated[
    str,
    typer.Option(
        "--from", metavar="TIME", help="2026-11-20, 2026-11-20T13:00, or 7d ago."
    ),
]
End = Annotated[
    str, typer.Option("--to", metavar="TIME", help="As --from; not included.")
]
Domains = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="NAME", help="As sensors; may be repeated."),
]


def period_of(start: str, end: str) -> Period:
    """The period that these options mean."""
    now = time.time()
    return Period(
        moment_of(start, now, "--from") if start else -math.inf,
        moment_of(end, now, "--to") if end else math.inf,
    )


def verify(
    *,
    start: Start = "",
    end: End = "",
    domain: Domains = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make objects that are damaged or missing again, from the dataset.",
        ),
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: write nothing.")
    ] = False,
) -> None:
    """Read the archive, and check that every object is as it was stored.

    An object's name is made of the ids and times of its records; where the store keeps
    metadata (S3 does), sha256 and count are compared as well. What compaction or a
    repair has moved below damaged/ is listed, too: it can be deleted.

    With --repair, objects that are damaged, or missing although the analytics dataset
    knows them, are made again from the dataset's rows; a sound one is never touched.
    It may be interrupted and run again.

    Exit codes: 0; 1 an object is damaged, which is named (with --repair: one that
    cannot be made again); 69 the archive cannot be read or written; 78 --repair needs
    the extra analytics.
    """
    settings, period, domains = load_settings(), period_of(start, end), domain or ()
    if dry and not repair:
        message = "--dry-run is for --repair"
        raise typer.BadParameter(message)
    if repair:
        require("analytics", "`meshtasks archive verify --repair`")
    tell_place(settings.env, "archive_url")
    with closing(open_store(settings.env)) as store:
        # before the archive: what is in the dataset was in the archive before
        partitions = Dataset(store).partitions(with_sources=True) if repair else {}
        objects = objects_in(store, period, domains)
        faults = _faults(store, objects)
        aside = _set_aside(store, period, domains)
        for name, what in aside.items():
            say(f"{name}: {what}")
        damaged = len(faults)
        if repair:
            damaged = _repair(
                settings, store, partitions, faults, period, domains, dry=dry
            )
    if damaged:
        raise typer.Exit(_EXIT_DAMAGED)


def _faults(store: ObjectStore, objects: list[Found]) -> dict[str, str]:
    """What is wrong with objects, by name; said, too."""
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
    """What was moved below damaged/, by its name there."""
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


def _repair(
    settings: Settings,
    store: ObjectStore,
    partitions: Mapping[Partition, Split],
    faults: Mapping[str, str],
    period: Period,
    domains: Collection[str],
    *,
    dry: bool,
) -> int:
    """Make again what can be; the number of objects and files that stay damaged."""
    from meshtasks.flows.analytics.repair import Repair  # noqa: PLC0415 - loads pyarrow

    # of whole days, since the rows of a day stand together
    everything = objects_in(store, Period(-math.inf, math.inf), ())
    names = [found.info.name for found in everything]
    run = Repair(settings, store, partitions, names, set(faults), period, dry=dry)
    foreign = sum(parse_name(name) is None for name in faults)
    records = left = 0
    days = run.days(domains)
    with counting("repairing") as bar:
        for number, day in enumerate(days, 1):
            done = run.run(day)
            for name in done.restored:
                same = ", to the byte" if name in done.same_bytes else ""
                say(f"{name}: {_would(dry, 'restored')}{same}")
            for name in done.others:
                text = "for records whose object is not known"
                say(f"{name}: {_would(dry, 'written')}, {text}")
            for text in (*done.aside, *done.lost):
                say(text)
            for text in done.faults:
                say(f"its rows cannot be had: {text}")
            records += done.records
            left += len(done.lost) + len(done.faults)
            bar.update(number, len(days), f"{records:,} records")
    left += foreign
    say(
        f"{records:,} records {_would(dry, 'restored')}; "
        + (f"{left:,} STILL DAMAGED" if left else "nothing is left to repair")
    )
    return left


def _would(dry: bool, done: str) -> str:  # noqa: FBT001 - of a sentence
    return f"would be {done}" if dry else done
