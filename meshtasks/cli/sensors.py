"""``meshtasks sensors``: every sensor, its latest reading, and its gaps."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtasks.amqp.routing import topic_matches
from meshtasks.cli.terminal import say
from meshtasks.config.durations import span_text
from meshtasks.config.settings import load_settings
from meshtasks.observation.remembered import Remembered
from meshtasks.observation.sensors import SensorLine, sensor_lines
from meshtasks.text import printable

_DAY = 86_400.0
#: Of a table that goes to a file or a pipe.
_WIDTH_CHARS = 200


def sensors(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Of routing keys: * stands for one word, # for any number of words."
        ),
    ] = "#",
    *,
    silent: Annotated[
        bool, typer.Option("--silent", help="Only those that are silent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every sensor: its latest reading, how old it is, and its gaps.

    Gaps, refused readings and what else was wrong are of the last 24 hours. A sensor
    is silent when nothing has come for three times as long as usual. `meshtasks why`
    says why.

    Exit codes: 0; 1 there is none; 69 the state cannot be read; 78 the configuration
    cannot be used.
    """
    settings = load_settings()
    now = time.time()
    lines = [
        line
        for line in sensor_lines(Remembered.read(settings, now - _DAY), now)
        if topic_matches(pattern, line.sensor.routing_key)
        and (line.is_silent or not silent)
    ]
    if as_json:
        say(json.dumps([line.as_json() for line in lines], ensure_ascii=False))
    elif lines:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_WIDTH_CHARS)
        console.print(_table(lines))
    if not lines:
        say("no sensor is known here that sends so", err=True)
        raise typer.Exit(1)


def _table(lines: list[SensorLine]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("routing key", "sensor", "location"):
        table.add_column(name, overflow="fold")
    table.add_column("latest", justify="right")
    table.add_column("age", justify="right")
    table.add_column("every", justify="right")
    table.add_column("last 24 h", overflow="fold")
    for line in lines:
        sensor = line.sensor
        value = "" if sensor.value is None else f"{sensor.value:.4g} {sensor.unit}"
        usual = span_text(sensor.usual_seconds) if sensor.usual_seconds else ""
        age = span_text(line.age_seconds) if sensor.time else "never"
        cells = (*sensor[:2], sensor.location, value, age, usual, line.state)
        style = "dim" if line.is_silent else ""
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    return table
