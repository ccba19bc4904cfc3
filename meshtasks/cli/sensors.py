"""``meshtasks sensors``: all sensors with their latest reading and their gaps."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtasks.amqp.entities import topic_matches
from meshtasks.cli.terminal import AsJson, say, tell_place
from meshtasks.config.durations import span_text
from meshtasks.config.settings import load_settings
from meshtasks.observation.sensor_facts import Facts, Remembered
from meshtasks.state.sensor_activity import Gap, Sensor
from meshtasks.text import printable

_DAY = 86_400.0


class SensorLine(NamedTuple):
    """A sensor in a list.

    Attributes:
        sensor: the sensor and its latest reading.
        age_seconds: age of the latest reading.
        is_silent: whether nothing has come for longer than usual.
        gaps: gaps in the last 24 hours.
        refused: number of faulty readings in the last 24 hours, by cause.
    """

    sensor: Sensor
    age_seconds: float
    is_silent: bool
    gaps: Sequence[Gap]
    refused: dict[str, int]

    @property
    def gap_seconds(self) -> float:
        """Total length of the gaps."""
        return sum(gap.ends_at - gap.begins_at for gap in self.gaps)

    def as_json(self) -> dict[str, Any]:
        """The values for JSON; times are epoch seconds."""
        return {
            **self.sensor._asdict(),
            "age_seconds": self.age_seconds,
            "is_silent": self.is_silent,
            "gaps": [[gap.begins_at, gap.ends_at] for gap in self.gaps],
            "refused": self.refused,
        }

    @property
    def state(self) -> str:
        """Short text about what needs attention; empty if nothing does."""
        parts = ["silent"] if self.is_silent else []
        if self.gaps:
            number = len(self.gaps)
            parts.append(
                f"{number} gap{'s' * (number != 1)}, {span_text(self.gap_seconds)}"
            )
        parts += [f"{number:,} {cause}" for cause, number in self.refused.items()]
        return "; ".join(parts)


def sensor_lines(remembered: Remembered, now: float) -> list[SensorLine]:
    """The lines of all sensors, by routing key.

    Args:
        remembered: data of the state, of at least the last 24 hours.
        now: current time in epoch seconds.
    """
    since = now - _DAY
    gaps = defaultdict[tuple[str, str], list[Gap]](list)
    for gap in remembered.gaps:
        if gap.ends_at >= since:
            gaps[gap[:2]].append(gap)
    refused = defaultdict[tuple[str, str], Counter[str]](Counter)
    for incident in remembered.incidents:
        if incident.ends_at >= since:
            refused[incident[:2]][incident.cause] += incident.number
    return [
        SensorLine(
            sensor,
            max(0.0, now - sensor.time),
            Facts(sensor, now).silence is not None,
            gaps[sensor[:2]],
            dict(refused[sensor[:2]]),
        )
        for sensor in remembered.sensors
    ]


#: Width of a table that is written to a file or a pipe.
_WIDTH_CHARS = 200


def sensors(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Pattern of routing keys: * is one word, # is any number of words."
        ),
    ] = "#",
    *,
    silent: Annotated[
        bool, typer.Option("--silent", help="Show only silent sensors.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every sensor: its latest reading, the age of the reading, gaps.

    Gaps, rejected readings and other faults are those of the last 24 hours. A sensor is
    silent if nothing came for three times its usual interval. `meshtasks why` shows the
    cause.

    Exit codes: 0; 1 no sensor found; 69 the state cannot be read; 78 bad configuration.
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
        width = None if sys.stdout.isatty() else _WIDTH_CHARS
        Console(highlight=False, width=width).print(_table(lines))
    if not lines:
        tell_place(settings.env, "state_url")
        which = "silent sensor" if silent else "sensor"
        named = "" if pattern == "#" else f" whose routing key fits {pattern}"
        say(f"the state has no {which}{named}", err=True)
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
