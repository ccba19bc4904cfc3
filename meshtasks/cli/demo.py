"""``meshtasks demo``: the whole mesh on this machine, with simulated sensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from meshtasks.cli.terminal import say
from meshtasks.config.extras import Extra, installed
from meshtasks.demo.packages import administrator_command, missing
from meshtasks.demo.subreaper import under_subreaper
from meshtasks.errors import ConfigError

_DEFAULT_RATE = 200.0
_EXTRAS: tuple[Extra, ...] = ("alerts", "flower", "gateway", "triton")


def demo(
    *,
    for_seconds: Annotated[
        float | None,
        typer.Option(
            "--for",
            min=1.0,
            metavar="SECONDS",
            help="Let the house speak for so long, then check that nothing was lost.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1.0, metavar="N", help="Simulated messages per second.")
    ] = _DEFAULT_RATE,
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Where everything is kept.")
    ] = Path(".mesh/demo"),
) -> None:
    """Run the mesh on private services with a simulated house, and watch it.

    It starts RabbitMQ, VictoriaMetrics, Triton where it runs, workers for all
    queues, Flower, a stand-in for n8n and for the phone, and a house in which
    some devices send nonsense. All listen on this machine only; a mesh of yours
    is not touched. Ctrl-C stops what it started, a second Ctrl-C at once. The
    data are kept.

    With --for it ends by itself with a summary: every record published is stored
    or a dead letter, and every message of every queue is accounted for.

    Exit codes: 0 stopped, or the summary balances; 1 it does not; 69 something
    could not be started, or ended by itself; 130 interrupted before there was a
    summary.
    """
    if lacking := [extra for extra in _EXTRAS if not installed(extra)]:
        expected = (
            "are not installed; `meshtasks demo` needs them: "
            f"pip install 'meshtasks[{','.join(lacking)}]'"
        )
        extras = f"extras {', '.join(lacking)}"
        raise ConfigError("Python environment", extras, expected)
    if programs := missing("demo"):
        names = ", ".join(program.package for program in programs)
        command = administrator_command(programs)
        say(
            f"meshtasks: this machine lacks {names}. On Debian and Ubuntu an "
            f"administrator installs them with\n{command}",
            err=True,
        )
        raise typer.Exit(os.EX_UNAVAILABLE)
    # No other command needs what this loads, a sixth of a second's worth.
    from meshtasks.demo.session import Options, run  # noqa: PLC0415

    options = Options(state, rate, for_seconds)
    raise typer.Exit(under_subreaper(lambda: run(options)))
