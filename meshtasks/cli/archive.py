"""``meshtasks archive``: what is archived, whether it is sound, and replaying it."""

from __future__ import annotations

import os
from contextlib import closing
from operator import itemgetter
from typing import Annotated

import typer

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.archive_verify import Domains, End, Start, period_of, verify
from meshtasks.cli.places import tell_place
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    say,
    stopping_on_signals,
)
from meshtasks.config.settings import load_settings
from meshtasks.config.urls import is_base_url
from meshtasks.errors import ConfigError, Transient, Unroutable
from meshtasks.flows.archive.garage import Garage
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.archive.reading import objects_in
from meshtasks.observation.archived import ArchiveReplay, Router, calendar_of

_EXIT_KEPT = 1

app = typer.Typer(
    help="The archive (MESH_ARCHIVE_URL): look, verify, replay.", no_args_is_help=True
)


@app.command()
def garage(
    *,
    admin_url: Annotated[
        str, typer.Option(metavar="URL", help="Of Garage's administration API.")
    ] = "http://127.0.0.1:3903",
    wait: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="Time for Garage to start.")
    ] = 120,
) -> None:
    """Make layout, bucket and key in a Garage of one's own, where they are missing.

    The bucket is that of MESH_ARCHIVE_URL; the key MESH_MINIO_ACCESS_KEY may read and
    write this bucket and no other. A key that this command made for the bucket before
    is deleted. Needs MESH_GARAGE_ADMIN_TOKEN.

    Exit codes: 0; 69 Garage cannot be reached; 78 the configuration cannot be used.
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
def list_(*, start: Start = "", end: End = "", domain: Domains = None) -> None:
    """Show what is archived: objects and bytes, by domain and UTC date.

    Exit codes: 0; 69 the archive cannot be read.
    """
    env = load_settings().env
    tell_place(env, "archive_url")
    with closing(open_store(env)) as store:
        calendar = calendar_of(store, period_of(start, end), domain or ())
    days = [
        (name, day, found)
        for day, domains in calendar.days.items()
        for name, found in domains.items()
    ]
    if not days:
        say("nothing is archived")
    for name, day, found in sorted(days, key=itemgetter(0, 1)):
        mb = found.size_bytes / 1e6
        say(f"{name:<12} {day} {found.objects:>8,} objects {mb:>10.2f} MB")
    if days:
        count = sum(found.objects for _, _, found in days)
        mb = sum(found.size_bytes for _, _, found in days) / 1e6
        say(f"{'all':<23} {count:>8,} objects {mb:>10.2f} MB")
    if calendar.foreign:
        say(f"and {calendar.foreign:,} objects that are not the mesh's")


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
        run = ArchiveReplay(
            store,
            period,
            Router(settings, to_queue, even_if_dropped=even_if_dropped),
            rate,
            stopping,
            quiet=not with_effects,
            dry=dry,
        )
        try:
            with counting("replaying") as bar:
                run.run(settings.env.amqp_url, objects, bar.update)
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
