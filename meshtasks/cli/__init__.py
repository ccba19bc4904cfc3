"""F6: the console script. Each command group is a module that is added here."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from meshtasks.cli import (
    alerts,
    analytics,
    archive,
    config,
    demo,
    dlq,
    doctor,
    gateway,
    publish,
    query,
    report,
    secrets,
    status,
    topology,
)
from meshtasks.cli.terminal import run, say, show_version
from meshtasks.errors import ConfigError, Transient

_EX_UNAVAILABLE = 69  # sysexits.h: a service is not there

app = typer.Typer(
    name="meshtasks",
    epilog="Exit codes everywhere: 2 wrong usage, 69 a service cannot be reached, "
    "78 the configuration cannot be used.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(alerts.app, name="alerts")
app.add_typer(topology.app, name="topology")
app.add_typer(archive.app, name="archive")
app.add_typer(config.app, name="config")
app.command("demo")(demo.demo)
app.add_typer(dlq.app, name="dlq")
app.command("gateway")(gateway.gateway)
app.command("doctor")(doctor.doctor)
app.command("status")(status.status)
app.command("publish")(publish.publish)
app.add_typer(analytics.app, name="analytics")
app.command("query", epilog=query.EPILOG)(query.query)
app.command("report")(report.report)
app.command("secrets")(secrets.secrets)


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


def main() -> None:
    """Run a command; what went wrong is one plain message and an exit code."""
    try:
        run(app)
    except ConfigError as error:
        _fail((error, *error.more), ConfigError.exit_code)
    except Transient as error:
        _fail((error,), _EX_UNAVAILABLE)


def _fail(errors: Iterable[Exception], exit_code: int) -> None:
    for error in errors:
        say(f"meshtasks: {error}", err=True)
    sys.exit(exit_code)
