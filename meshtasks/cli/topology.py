"""``meshtasks topology``: the topology in the configuration and on the broker."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from meshtasks.amqp.accounts import definitions
from meshtasks.amqp.connecting import connected, unopened
from meshtasks.amqp.declare import changes, declare_missing
from meshtasks.amqp.drift import compare
from meshtasks.amqp.entities import (
    PREDECLARED_EXCHANGES,
    Binding,
    ExchangeDefaults,
    Queue,
    QueueDefaults,
    RetryQueue,
)
from meshtasks.amqp.management import read
from meshtasks.amqp.repartition import Repartition
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli import asyncapi
from meshtasks.cli.terminal import ManagementUrl, say
from meshtasks.config.settings import load_settings
from meshtasks.flows.loading import load_flows
from meshtasks.observation.flow_map import DOMAIN_COLOURS, SYSTEM_COLOUR

app = typer.Typer()


@app.command()
def apply(
    management_url: ManagementUrl = None,
    within: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time for workers to empty partitions that change.",
        ),
    ] = 60.0,
) -> None:
    """Declare on the broker what is missing.

    Nothing is changed or deleted, except the number of partitions of a queue. The
    command can be repeated; every worker does the same at its start. If a queue has
    another number of partitions than in topology.yaml, the command waits until the
    running workers have emptied them, moves the bindings to the new ones, and deletes
    surplus partitions and their retry queues when they are empty. Restart the workers
    afterwards; a worker with the old file does not start.

    Exit codes: 0 everything is declared; 69 the broker cannot be reached, or messages
    are left in partitions that are to change (run it again); 78 bad configuration,
    or something on the broker has other arguments.
    """
    settings = load_settings()
    topology = settings.read(TOPOLOGY)
    address = management_url or settings.env.management_url
    with connected(settings.env.amqp_url) as connection:
        found = changes(connection, topology)
        urls = settings.env.amqp_url, address
        change_of = Repartition(connection, topology, urls, within, say)
        for change in found:
            change_of.empty(change)
        declare_missing(connection, topology)
        for change in found:
            change_of.remove(change)
            say(f"{change.queue.name}: restart its workers, with this topology.yaml")
        vhost = connection.virtual_host
    say(
        f"virtual host {vhost}: {len(topology.all_exchanges)} exchanges, "
        f"{len(topology.all_queues)} queues and {len(topology.all_bindings)} "
        "bindings are in place"
    )


@app.command()
def check(management_url: ManagementUrl = None) -> None:
    """Compare the broker with the configuration and list every difference.

    The command reads the management API (plugin rabbitmq_management) with the account
    of MESH_BROKER_URL, and changes nothing. Entities that do not belong to the mesh are
    listed, but are no difference.

    Exit codes: 0 no difference; 1 differences; 69 the API cannot be reached; 78 bad
    configuration, or the API rejects the account.
    """
    settings = load_settings()
    topology = settings.read(TOPOLOGY)
    address = management_url or settings.env.management_url
    live = read(settings.env.amqp_url, address)
    drift = compare(topology, live)
    say(*drift.differences)
    for line in drift.notes:
        say(f"note: {line}")
    if not drift.differences:
        say("no difference")
        return
    say(
        f"differences: {len(drift.differences)}. `meshtasks topology apply` creates "
        "what is missing; a queue or exchange with other arguments has to be emptied "
        "and deleted first, an extra binding to be removed by hand, a policy to be "
        "changed by whoever set it.",
        err=True,
    )
    raise typer.Exit(1)


@app.command()
def show(
    *,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart instead.")
    ] = False,
) -> None:
    """Print the configured topology as a tree. No broker is needed.

    Exit codes: 0; 78 bad configuration.
    """
    topology = load_settings().read(TOPOLOGY)
    if as_mermaid:
        say(mermaid(topology))
    else:
        # Without a terminal, Rich would wrap lines at 80 columns.
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
            help="Virtual host of the definitions. Default: that of MESH_BROKER_URL."
        ),
    ] = None,
    *,
    as_asyncapi: Annotated[
        bool,
        typer.Option(
            "--asyncapi",
            help="Write an AsyncAPI 3.0.0 document with the schemas of records "
            "instead.",
        ),
    ] = False,
) -> None:
    """Write the topology as a RabbitMQ definitions file.

    Import the file with `rabbitmqctl import_definitions FILE` or on the management
    pages. It contains no users: a new broker that loads it by `load_definitions` has no
    account, not even guest, unless you add one to the file.

    With --asyncapi the document is for authors of publishers and consumers: routing
    keys, bodies, headers. This needs no broker, and no MESH_BROKER_URL.

    Exit codes: 0; 78 bad configuration.
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


_SYSTEM = "system"


def tree(topology: Topology) -> Tree:
    """The topology as a tree: exchanges with their bindings, then queues.

    Properties that most entities share are shown once.
    """
    usual = topology.defaults
    root = Tree("mesh")
    exchanges = root.add(f"exchanges [dim]{_alternate(usual.exchange)}[/]")
    alternates = {each.name: _alternate(each) for each in topology.exchanges}
    for name, what in _exchanges(topology):
        own = alternates.get(name, _alternate(usual.exchange))
        unusual = "" if own == _alternate(usual.exchange) else f", {own}"
        branch = exchanges.add(f"{_coloured(name)} [dim]{what}{unusual}[/]")
        for binding in topology.bindings:
            if binding.exchange == name:
                branch.add(_way(binding))
    queues = root.add(f"queues [dim]{_settings(usual.queue)}[/]")
    for queue in topology.named_queues:
        own = _settings(queue)
        unusual = "" if own == _settings(usual.queue) else f" [dim]{own}[/]"
        parts = f" [dim]{queue.partitions} partitions[/]" if queue.partitions else ""
        queues.add(_coloured(queue.name) + unusual + parts)
    answers = topology.answers_queue
    queues.add(f"{_coloured(answers.name)} [dim]what became of commands[/]")
    retries = root.add(
        "retry queues [dim]back to the queue that failed, after a wait[/]"
    )
    for retry in topology.retry_queues:
        retries.add(f"{retry.name} [dim]{retry.seconds} s[/]")
    return root


def mermaid(topology: Topology) -> str:
    """The topology as a Mermaid flowchart, for a Markdown page."""
    lines = ["flowchart LR"]
    for name, what in _exchanges(topology):
        lines.append(f'  {_id("x", name)}{{{{"{name}<br/>{what}"}}}}:::{_domain(name)}')
    for title, queues in (
        ("queues", [*_names(topology.named_queues), topology.answers_queue.name]),
        ("retries", _names(topology.retry_queues)),
    ):
        lines.append(f"  subgraph {title}")
        for name in queues:
            node = f'{_id("q", name)}["{name}"]'
            lines.append(f"    {node}:::{_domain(name)}")
        lines.append("  end")
    for binding in topology.bindings:
        ends = (
            _id("x", binding.exchange),
            _id("q" if binding.queue else "x", binding.destination),
        )
        lines.append(f"  {ends[0]} -- {_quoted(binding.routing_key)} --> {ends[1]}")
    lines += [f"  {edge}" for edge in _other_ways(topology)]
    for domain, colour in {**DOMAIN_COLOURS, _SYSTEM: SYSTEM_COLOUR}.items():
        lines.append(f"  classDef {domain} fill:{colour},color:#000")
    return "\n".join(lines)


def _names(queues: Iterable[Queue | RetryQueue]) -> list[str]:
    return [queue.name for queue in queues]


def _other_ways(topology: Topology) -> Iterator[str]:
    """Edges of the flowchart that are not bindings."""
    for alternate in dict.fromkeys(each.alternate for each in topology.exchanges):
        if alternate:
            sources = (e.name for e in topology.exchanges if e.alternate == alternate)
            ids = " & ".join(_id("x", name) for name in sources)
            yield f"{ids} -. unroutable .-> {_id('x', alternate)}"
    for exchange in dict.fromkeys(
        each.dead_letter_exchange for each in topology.queues
    ):
        if exchange:
            yield f'queues -. "dead letters" .-> {_id("x", exchange)}'
    yield 'queues -. "transient faults" .-> retries'
    yield 'retries -. "after a wait" .-> queues'


def _exchanges(topology: Topology) -> Iterator[tuple[str, str]]:
    """Names and descriptions of the exchanges that have bindings."""
    for exchange in topology.exchanges:
        yield exchange.name, exchange.type
    used = {binding.exchange for binding in topology.bindings}
    for name, kind in PREDECLARED_EXCHANGES.items():
        if name in used:
            yield name, f"{kind}, the broker's own"


def _way(binding: Binding) -> str:
    kind = "" if binding.queue else "exchange "
    key = binding.routing_key or "any key"
    return f"{escape(key)} → {kind}{_coloured(binding.destination)}"


def _alternate(exchange: ExchangeDefaults) -> str:
    if exchange.alternate:
        return f"unroutable → {escape(exchange.alternate)}"
    return "no alternate"


def _settings(queue: QueueDefaults) -> str:
    limit, end = queue.delivery_limit, queue.dead_letter_exchange
    deliveries = f"at most {limit} deliveries" if limit else "any number of deliveries"
    ending = f"dead letters → {escape(end)}" if end else "dead letters end here"
    return f"{queue.kind}, {deliveries}, {ending}"


def _domain(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in DOMAIN_COLOURS else _SYSTEM


def _coloured(name: str) -> str:
    colour = DOMAIN_COLOURS.get(_domain(name), SYSTEM_COLOUR)
    return f"[{colour}]{escape(name)}[/]"


def _id(kind: str, name: str) -> str:
    """Id of a node: only letters, digits and underscores."""
    return f"{kind}_{re.sub('[^0-9A-Za-z]', '_', name)}"


def _quoted(key: str) -> str:
    """A label in quotes; # is escaped, as it begins an entity in Mermaid."""
    return '"' + (key or "any key").replace("#", "#35;") + '"'
