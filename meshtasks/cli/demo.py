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
            help="Run for this time, then check that nothing was lost.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1.0, metavar="N", help="Simulated messages per second.")
    ] = _DEFAULT_RATE,
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of all data.")
    ] = Path(".mesh/demo"),
) -> None:
    """Run the whole mesh on private services, with a simulated house.

    The demo starts RabbitMQ, VictoriaMetrics, Triton (if it is available), workers for
    all queues, Flower, stand-ins for n8n and for a phone, and a house in which some
    devices send bad messages. All services listen on this machine only; an existing
    mesh is not affected. Ctrl-C stops what the demo started; a second Ctrl-C stops it
    at once. The data are kept.

    With --for the demo ends by itself and reconciles all counts: every published record
    is stored or a dead letter, and every message of every queue is accounted for.

    Exit codes: 0 stopped, or the counts agree; 1 the counts differ; 69 a service could
    not be started, or ended by itself; 130 interrupted before the summary.
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
    # Imported here: it takes a sixth of a second, and other commands do not need it.
    from meshtasks.demo.session import Options, run  # noqa: PLC0415

    options = Options(state, rate, for_seconds)
    raise typer.Exit(under_subreaper(lambda: run(options)))
