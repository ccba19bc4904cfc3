"""``meshtasks why``: why a curve has a gap."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from meshtasks.cli.terminal import AsJson, moment_of, say
from meshtasks.config.settings import load_settings
from meshtasks.flows.loading import load_flows
from meshtasks.observation.why import EXPLAINED, UNKNOWN, UNKNOWN_TIME, WELL, ask

#: Exit codes by the state of the answer.
_EXIT_CODES = {WELL: 0, EXPLAINED: 1, UNKNOWN_TIME: 3, UNKNOWN: 4}


def why(
    sensor: Annotated[
        str,
        typer.Argument(
            metavar="SENSOR_OR_ROUTING_KEY",
            help="Routing key, MQTT topic, sensor id or location: "
            "sensors.temperature.bedroom, sensors/temperature/bedroom, bedroom.",
        ),
    ],
    *,
    at: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Time to explain: 14:05, 2026-11-20T14:05, or 30m (that long ago). "
            "Default: now.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show why a sensor's curve has a gap, or why no alert came.

    The command reads what workers have recorded: when readings came, which were
    rejected and why, when sinks, broker and workers were unavailable, wrong clocks, ids
    that two devices use, silences of alerts. Without --at it also reads the queues. It
    changes nothing.

    Exit codes: 0 nothing is wrong; 1 there is a cause; 2 wrong usage, such as a time in
    the future; 3 nothing is recorded of that time; 4 there is no such sensor; 69 the
    state cannot be read; 78 bad configuration.

    Example: meshtasks why sensors.temperature.bedroom --at 14:05
    """
    settings = load_settings()
    now = time.time()
    moment = moment_of(at, now, "--at") if at else None
    if moment is not None and moment > now:
        message = f"{at} is in the future"
        raise typer.BadParameter(message, param_hint="--at")
    answer = ask(settings, load_flows(), sensor, moment)
    if as_json:
        say(json.dumps(answer.as_json(), ensure_ascii=False, indent=2))
    else:
        say(*answer.lines())
    raise typer.Exit(_EXIT_CODES[answer.state])
