"""The console script. A command's module is imported when the command is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from meshtasks.cli.terminal import reflow, run, say, show_version
from meshtasks.errors import ConfigError, Transient

#: Every command and the first paragraph of its help. The module of the same name has a
#: group as ``app``, or a function of that name, perhaps an ``EPILOG``, a ``CONTEXT``.
COMMANDS = {
    "demo": "Run the mesh on private services with a simulated house, and watch it.",
    "init": "Write configuration, passwords and what starts the mesh into a directory.",
    "worker": "Consume queues, as `celery -A meshtasks worker` does, in 10 MB less "
    "memory.",
    "gateway": "Serve events, commands and their outcomes over HTTP, until told to "
    'stop; with the extra "console" the pages of the console, too.',
    "doctor": "Look at everything the mesh needs: configuration, broker, topology, "
    "sinks, webhooks, receivers, clocks, disks.",
    "status": "Show what the mesh does: queues, retries, dead letters, circuits, "
    "alerts, workers. Nothing is taken from any queue.",
    "publish": "Publish messages and wait until the broker has stored them.",
    "tap": "Watch copies of messages as they pass the exchanges, until Ctrl-C.",
    "why": "Say why a sensor has a hole in its curve, or no alarm came.",
    "sensors": "Show every sensor: its latest reading, how old it is, and its gaps.",
    "query": "Ask what the mesh has kept, in DuckDB's SQL.",
    "report": "Write one HTML page about the house and its mesh.",
    "secrets": "Make the passwords that docker-compose.yml needs, and the broker's "
    "accounts.",
    "certificates": "Make the certificate of broker and proxy, and the authority that "
    "signs it.",
    "influxdb": "Make the tokens of workers and of Grafana, where they are missing.",
    "alerts": "The alerts in the state (MESH_STATE_URL): look, silence, acknowledge.",
    "state": "What workers share (MESH_STATE_URL): upgrade, check, export, import.",
    "topology": "Exchanges, queues and bindings: config/topology.yaml and the broker.",
    "archive": "The archive (MESH_ARCHIVE_URL): look, verify, replay.",
    "config": "The files of config/.",
    "flow": "Flows: what the mesh does with its queues.",
    "dlq": "Dead letters: messages that could not be processed, with the reason.",
    "analytics": "The Parquet files beside the archive, which `meshtasks query` reads.",
}


def load(name: str) -> Any:
    """A command with its options and subcommands; imports its module."""
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
    """Lists commands by name and summary, and loads the one that is to run."""

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
    epilog="Exit codes everywhere: 2 wrong usage, 69 a service cannot be reached, "
    "74 the output cannot be written, 78 the configuration cannot be used.",
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
    """The data mesh a homelab runs its house on."""


def loaded() -> TyperGroup:
    """The console script with every command loaded, to be described or checked."""
    group = typer.main.get_group(app)
    group.commands = {name: load(name) for name in COMMANDS}
    return group


def main() -> None:
    """Run a command; what went wrong is one plain message and an exit code."""
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
