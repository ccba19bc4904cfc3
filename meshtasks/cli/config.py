"""``meshtasks config``: check the configuration, and explain its effect."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.config_findings import error_finding, findings
from meshtasks.cli.terminal import fail, say
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import ConfigError
from meshtasks.flows.loading import load_flows
from meshtasks.observation.explain import exchanges_for, explain, is_known

app = typer.Typer(help="The files of config/.", no_args_is_help=True)

_EX_USAGE = 2


@app.callback()
def _group() -> None:
    """A callback keeps the group from becoming its one command."""


@app.command()
def check(
    *,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="ROUTING_KEY",
            help="Tell what a message with this routing key would meet: queues, "
            "handlers, sinks, rules, workflows, alerts, the archive.",
        ),
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --explain: the exchange it is published to, if the routing "
            "key does not tell.",
        ),
    ] = None,
    allow_warnings: Annotated[
        bool, typer.Option("--allow-warnings", help="Exit code 0 with warnings, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for mistakes in config/, config/producers and MESH_… variables.

    All are named, with file and line. Nothing is connected to (`meshtasks doctor`
    does that). An error stops the start; a warning is of something that can never
    work as it is written; a note is good to know.

    Exit codes: 0 no errors and no warnings; 1 warnings; 78 errors.
    """
    if explain is not None:
        _explain(load_settings(), explain, exchange, as_json=as_json)
    elif exchange is not None:
        fail("--exchange needs --explain", _EX_USAGE)
    else:
        _check(as_json=as_json, allow_warnings=allow_warnings)


def _check(*, as_json: bool, allow_warnings: bool) -> None:
    try:
        found = findings(load_settings())
    except ConfigError as error:  # of the environment, or of a flow
        found = [error_finding(fault) for fault in (error, *error.more)]
    levels = [finding.level for finding in found]
    if as_json:
        say(json.dumps([finding.as_json() for finding in found], indent=2))
    else:
        for finding in found:
            say(f"{finding.place}: {finding.level}: {finding.key}: {finding.text}")
        errors, warnings = levels.count("error"), levels.count("warning")
        counts = [_count(errors, "error"), _count(warnings, "warning")]
        if notes := levels.count("note"):
            counts.append(_count(notes, "note"))
        say(", ".join(counts))
    if "error" in levels:
        sys.exit(ConfigError.exit_code)
    if "warning" in levels and not allow_warnings:
        sys.exit(1)


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"


def _explain(
    settings: Settings, routing_key: str, exchange: str | None, *, as_json: bool
) -> None:
    topology = settings.read(TOPOLOGY)
    if exchange is None:
        candidates = exchanges_for(topology, routing_key)
        if len(candidates) != 1:
            hint = ", ".join(candidates or (each.name for each in topology.exchanges))
            fail(f"which exchange? Give --exchange, one of {hint}", _EX_USAGE)
        (exchange,) = candidates
    elif not is_known(topology, exchange):
        fail(f"topology.yaml declares no exchange {exchange}", _EX_USAGE)
    found = explain(settings, load_flows(), exchange, routing_key)
    if as_json:
        say(json.dumps(found.as_json(), indent=2))
        return
    say("\n".join(found.lines(settings.env.receivers)))
