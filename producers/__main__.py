"""``python -m producers NAME``: one command per source.

A source is a module or a package of that name, so that ``python -m producers.NAME``
works as well: at its end, or in its ``__main__.py``, stands ``main("NAME")``.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType

import typer

from meshtasks.errors import ConfigError
from producers.homeassistant.command import homeassistant
from producers.prometheus.command import prometheus
from producers.sensornet.command import sensornet
from producers.simulator.command import simulator
from producers.system.command import system
from producers.triton.command import triton

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Publish to the mesh from one source, until it ends or SIGTERM or Ctrl-C. "
    "The broker is MESH_BROKER_URL. What it does not take waits in MESH_STATE_DIR.",
)


# With a callback typer keeps a program of one command from becoming that command.
app.callback()(lambda: None)
app.command("homeassistant")(homeassistant)
app.command("sensornet")(sensornet)
app.command("simulator")(simulator)
app.command("system")(system)
app.command("prometheus")(prometheus)
app.command("triton")(triton)


def main(*name: str) -> None:
    """Run one producer; SIGTERM and SIGINT end it in order.

    Args:
        name: of the producer; by default the command line begins with it.
    """
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    stop = threading.Event()

    def end(signal_number: int, _frame: FrameType | None) -> None:
        stop.set()
        # A second one ends it at once.
        signal.signal(signal_number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        app([*name, *sys.argv[1:]], prog_name="python -m producers", obj=stop)
    except ConfigError as error:
        typer.echo(f"configuration: {error}", err=True)
        sys.exit(ConfigError.exit_code)


if __name__ == "__main__":
    main()
