"""``python -m meshtasks.producers NAME``: one command per source.

A source is a module of that name, or a package whose ``__main__.py`` contains the
command, so ``python -m meshtasks.producers.NAME`` works as well. Only the requested
source is imported.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FrameType

import typer

from meshtasks.command_help import reflow
from meshtasks.errors import ConfigError

#: Source → its line in ``--help``: the first line of its command's docstring.
SUMMARIES: Mapping[str, str] = {
    "homeassistant": "Publish events and readings of Home Assistant.",
    "sensornet": "Publish MQTT messages of devices as records of the mesh.",
    "simulator": "Publish the messages of a simulated house.",
    "system": "Publish metrics of this machine: processors, memory, disks, network, …",
    "prometheus": "Publish metrics of services that have a page for Prometheus or "
    "OpenMetrics.",
    "triton": "Publish metrics of Triton Inference Server.",
}


def command(name: str) -> Callable[..., None]:
    """Import a source and return its command."""
    module = import_module(f"meshtasks.producers.{name}")
    if hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.__main__")
    found: Callable[..., None] = getattr(module, name)
    return found


def application(name: str = "") -> typer.Typer:
    """Return the application. Only the command ``name`` is imported and can run."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Publish to the mesh from one source, until SIGTERM or Ctrl-C. "
        "MESH_BROKER_URL is the broker. While it is unavailable, messages wait on "
        "disk, in MESH_STATE_DIR.",
    )
    for source, summary in SUMMARIES.items():
        if source == name:
            app.command(name)(command(name))
        else:
            app.command(source, help=summary)(lambda: None)
    return app


def main(*name: str) -> None:
    """Run one producer until it ends, or until SIGTERM or SIGINT stops it cleanly.

    Args:
        name: producer to run; by default the first argument of the command line.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    stop = threading.Event()

    def end(signal_number: int, _frame: FrameType | None) -> None:
        stop.set()
        # A second signal kills the process.
        signal.signal(signal_number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        arguments = [*name, *sys.argv[1:]]
        app = typer.main.get_command(application(next(iter(arguments), "")))
        reflow(app)
        app(arguments, prog_name="python -m meshtasks.producers", obj=stop)
    except ConfigError as error:
        typer.echo(f"configuration: {error}", err=True)
        sys.exit(ConfigError.exit_code)


if __name__ == "__main__":
    main()
