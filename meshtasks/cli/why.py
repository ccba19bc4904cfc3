"""``meshtasks why``: one answer, in sentences, to why a curve has a hole."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from meshtasks.cli.terminal import moment_of, say
from meshtasks.config.settings import load_settings
from meshtasks.flows.loading import load_flows
from meshtasks.observation.why import EXPLAINED, UNKNOWN, UNKNOWN_TIME, WELL, ask

#: By the state of the answer.
_EXIT_CODES = {WELL: 0, EXPLAINED: 1, UNKNOWN_TIME: 3, UNKNOWN: 4}


def why(
    sensor: Annotated[
        str,
        typer.Argument(
            metavar="SENSOR_OR_ROUTING_KEY",
            help="As sensors.temperature.bedroom, sensors/temperature/bedroom, a "
            "sensor id, or a location.",
        ),
    ],
    *,
    at: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="The moment asked about: 14:05, 2026-11-20T14:05, or 30m (so long "
            "ago). Now, if not given.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why a sensor has a hole in its curve, or no alarm came.

    Looks at what workers have noted: when readings came, which were refused and why,
    when sinks, broker and workers were away, clocks that are wrong, ids that two
    devices use, silences of alerts. Without --at also at the queues of this moment.
    Nothing is changed.

    Exit codes: 0 nothing is wrong; 1 there is a cause, and it is named; 2 wrong usage,
    as a time that is yet to come; 3 nothing is remembered of that time; 4 there is no
    such sensor; 69 the state cannot be read; 78 the configuration cannot be used.

    Example: meshtasks why sensors.temperature.bedroom --at 14:05
    """
    settings = load_settings()
    now = time.time()
    moment = moment_of(at, now, "--at") if at else None
    if moment is not None and moment > now:
        message = f"{at} is yet to come"
        raise typer.BadParameter(message, param_hint="--at")
    answer = ask(settings, load_flows(), sensor, moment)
    if as_json:
        say(json.dumps(answer.as_json(), ensure_ascii=False, indent=2))
    else:
        say(*answer.lines())
    raise typer.Exit(_EXIT_CODES[answer.state])
