"""``meshtasks topology``: declare, compare, draw and export the topology."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from meshtasks.amqp.connecting import connected, unopened
from meshtasks.amqp.declare import declare
from meshtasks.amqp.drift import compare
from meshtasks.amqp.management import definitions, read
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli import asyncapi
from meshtasks.cli.terminal import say
from meshtasks.cli.topology_drawing import mermaid, tree
from meshtasks.config.settings import load_settings
from meshtasks.flows.loading import load_flows

app = typer.Typer(
    help="Exchanges, queues and bindings: config/topology.yaml and the broker.",
    no_args_is_help=True,
)


@app.command()
def apply() -> None:
    """Declare on the broker what is missing. Nothing is changed or deleted.

    Running it again does no harm; every worker does the same when it starts.

    Exit codes: 0 all is there; 69 the broker cannot be reached; 78 something
    there has other arguments, or the configuration cannot be used.
    """
    settings = load_settings()
    topology = settings.read(TOPOLOGY)
    with connected(settings.env.amqp_url) as connection:
        declare(connection, topology)
        vhost = connection.virtual_host
    say(
        f"virtual host {vhost}: {len(topology.all_exchanges)} exchanges, "
        f"{len(topology.all_queues)} queues and {len(topology.all_bindings)} "
        "bindings are in place"
    )


@app.command()
def check(
    management_url: Annotated[
        str | None,
        typer.Option(
            help="Where RabbitMQ's management pages are, if neither as "
            "MESH_MANAGEMENT_URL says nor on port 15672 of the broker's host. They "
            "get the account of MESH_BROKER_URL.",
            metavar="URL",
        ),
    ] = None,
) -> None:
    """Compare the broker with the configuration and name every difference.

    It reads the management API (plugin rabbitmq_management) with the account of
    MESH_BROKER_URL and changes nothing. What others added beside the mesh is
    noted, not counted.

    Exit codes: 0 no difference; 1 differences; 69 the API cannot be reached;
    78 it refuses the account, or the configuration cannot be used.
    """
    settings = load_settings()
    topology = settings.read(TOPOLOGY)
    address = management_url or settings.env.management_url or None
    live = read(settings.env.amqp_url, address)
    drift = compare(topology, live)
    for line in drift.differences:
        say(line)
    for line in drift.notes:
        say(f"note: {line}")
    if not drift.differences:
        say("no difference")
        return
    say(
        f"differences: {len(drift.differences)}. `meshtasks topology apply` creates "
        "what is missing; a queue or exchange with other arguments has to be emptied "
        "and deleted first, an extra binding to be removed by hand.",
        err=True,
    )
    raise typer.Exit(1)


@app.command()
def show(
    *,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Write a Mermaid flowchart instead.")
    ] = False,
) -> None:
    """Print the configured topology as a tree. No broker is needed.

    Exit codes: 0; 78 the configuration cannot be used.
    """
    topology = load_settings().read(TOPOLOGY)
    if as_mermaid:
        say(mermaid(topology))
    else:
        # Rich would cut lines at 80 columns where there is no terminal.
        width = None if sys.stdout.isatty() else 200
        Console(width=width, highlight=False).print(tree(topology))


@app.command()
def export(
    output: Annotated[
        typer.FileTextWrite, typer.Option("--output", "-o", help="File to write.")
    ] = "-",  # type: ignore[assignment]  # typer opens what the text names
    vhost: Annotated[
        str | None,
        typer.Option(
            help="Virtual host of the definitions; that of MESH_BROKER_URL by default."
        ),
    ] = None,
    *,
    as_asyncapi: Annotated[
        bool,
        typer.Option(
            "--asyncapi",
            help="Write an AsyncAPI 3.0.0 document with the records' schemas instead.",
        ),
    ] = False,
) -> None:
    """Write the topology as a RabbitMQ definitions file.

    Import it with `rabbitmqctl import_definitions FILE` or on the management
    pages. It holds no users: a new broker that finds it as `load_definitions`
    has no account at all, not even guest, unless you add one to the file.

    With --asyncapi it is for those who write publishers and consumers: routing keys,
    bodies, headers. That needs no broker, not even its URL.

    Exit codes: 0; 78 the configuration cannot be used.
    """
    settings = load_settings()
    if as_asyncapi:
        handlers = load_flows().handlers(settings)
        exported = asyncapi.document(settings.read(TOPOLOGY), handlers)
    else:
        if vhost is None:
            vhost = unopened(settings.env.amqp_url).virtual_host
        exported = definitions(settings.read(TOPOLOGY), vhost)
    json.dump(exported, output, indent=2, ensure_ascii=False)
    output.write("\n")
