"""The console script. The module of a command is imported only when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from meshtasks.cli.terminal import run, say, show_version
from meshtasks.command_help import reflow
from meshtasks.errors import ConfigError, Transient

#: Name of every command → first paragraph of its help. The module of the same name has
#: a group ``app``, or a function of that name with optional ``EPILOG`` and ``CONTEXT``.
COMMANDS = {
    "demo": "Run the whole mesh on private services, with a simulated house.",
    "init": "Write configuration, passwords, and docker-compose.yml or systemd units "
    "into a directory.",
    "worker": "Consume queues like `celery -A meshtasks worker`, with 10 MB less "
    "memory.",
    "gateway": 'Serve the HTTP API and, with the extra "console", the web pages of '
    "the console.",
    "doctor": "Check everything that the mesh needs: configuration, broker, topology, "
    "sinks, webhooks, receivers, clocks, disks.",
    "status": "Show queues, retries, dead letters, circuits, alerts and workers.",
    "publish": "Publish messages and wait for the broker's confirms.",
    "tap": "Show copies of messages as they are published, until Ctrl-C.",
    "why": "Show why a sensor's curve has a gap, or why no alert came.",
    "sensors": "Show every sensor: its latest reading, the age of the reading, gaps.",
    "query": "Query archived records in SQL (DuckDB).",
    "report": "Write an HTML page about the house and the mesh.",
    "secrets": "Generate the passwords for docker-compose.yml and the accounts of the "
    "broker.",
    "certificates": "Create the certificate of broker and proxy, and the authority "
    "that signs it.",
    "influxdb": "Create the InfluxDB tokens of workers and of Grafana, if they are "
    "missing.",
    "alerts": "Alerts in the state (MESH_STATE_URL): list, silence, acknowledge.",
    "state": "The database that workers share (MESH_STATE_URL): upgrade, check, "
    "export, import.",
    "topology": "Exchanges, queues and bindings: config/topology.yaml and the broker.",
    "archive": "The archive (MESH_ARCHIVE_URL): list, verify, replay.",
    "config": "The configuration files in config/.",
    "flow": "Flows: what the mesh does with the records of its queues.",
    "dlq": "Dead letters (messages that could not be processed): list, show, replay, "
    "delete.",
    "analytics": "The dataset that `meshtasks query` reads: Parquet files beside the "
    "archive.",
}


def load(name: str) -> Any:
    """Import the module of a command; return it with its options and subcommands."""
    module = import_module(f"{__name__}.{name}")
    parent = typer.Typer()
    if group := getattr(module, "app", None):
        parent.add_typer(group, name=name, help=COMMANDS[name], no_args_is_help=True)
    else:
        function, epilog = getattr(module, name), getattr(module, "EPILOG", None)
        context = getattr(module, "CONTEXT", None)
        parent.command(name, epilog=epilog, context_settings=context)(function)
    return typer.main.get_group(parent).commands[name]


class _LazyGroup(TyperGroup):
    """A group that knows commands by name and summary, and loads the one to run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()
        }

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, known, rest = super().resolve_command(ctx, args)
        if known is None or name is None:
            return name, None, rest
        command = load(name)
        reflow(command)
        return name, command, rest


app = typer.Typer(
    name="meshtasks",
    cls=_LazyGroup,
    epilog="Exit codes of all commands: 2 wrong usage; 69 a service cannot be "
    "reached; 74 the output cannot be written; 78 bad configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """A data mesh for a homelab."""


def loaded() -> TyperGroup:
    """The console script with all commands loaded, for documentation and tests."""
    group = typer.main.get_group(app)
    group.commands = {name: load(name) for name in COMMANDS}
    return group


def main() -> None:
    """Run a command. A failure prints one message and sets the exit code."""
    try:
        run(app)
    except ConfigError as error:
        _fail((error, *error.more), ConfigError.exit_code)
    except Transient as error:
        _fail((error,), os.EX_UNAVAILABLE)


def _fail(errors: Iterable[Exception], exit_code: int) -> None:
    for error in errors:
        say(f"meshtasks: {error}", err=True)
    sys.exit(exit_code)
