"""Every sensor: its latest reading, how old it is, and its gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from meshtasks.config.durations import span_text
from meshtasks.observation.remembered import Remembered
from meshtasks.observation.sensor_facts import Facts
from meshtasks.state.sensor_activity import Gap, Incident, Sensor

_DAY = 86_400.0


class SensorLine(NamedTuple):
    """A sensor in a list.

    Attributes:
        sensor: what is known of it.
        age_seconds: of the latest reading.
        is_silent: for longer than usual.
        gaps: of the last 24 hours.
        refused: readings in the last 24 hours, by cause.
    """

    sensor: Sensor
    age_seconds: float
    is_silent: bool
    gaps: Sequence[Gap]
    refused: dict[str, int]

    @property
    def gap_seconds(self) -> float:
        """How long its gaps were together."""
        return sum(gap.ends_at - gap.begins_at for gap in self.gaps)

    def as_json(self) -> dict[str, Any]:
        """Plain data; times are epoch seconds."""
        return {
            **self.sensor._asdict(),
            "age_seconds": self.age_seconds,
            "is_silent": self.is_silent,
            "gaps": [[gap.begins_at, gap.ends_at] for gap in self.gaps],
            "refused": self.refused,
        }

    @property
    def state(self) -> str:
        """What wants attention, in a few words."""
        parts = ["silent"] if self.is_silent else []
        if self.gaps:
            number = len(self.gaps)
            parts.append(
                f"{number} gap{'s' * (number != 1)}, {span_text(self.gap_seconds)}"
            )
        parts += [f"{number:,} {cause}" for cause, number in self.refused.items()]
        return "; ".join(parts)


def sensor_lines(remembered: Remembered, now: float) -> list[SensorLine]:
    """All sensors, by routing key.

    Args:
        remembered: what the state has of the last 24 hours at least.
        now: epoch seconds.
    """
    gaps: dict[tuple[str, str], list[Gap]] = {}
    for gap in remembered.gaps:
        if gap.ends_at >= now - _DAY:
            gaps.setdefault(gap[:2], []).append(gap)
    incidents: dict[tuple[str, str], list[Incident]] = {}
    for incident in remembered.incidents:
        if incident.ends_at >= now - _DAY:
            incidents.setdefault(incident[:2], []).append(incident)
    lines = []
    for sensor in remembered.sensors:
        own = incidents.get(sensor[:2], [])
        refused = Counter[str]()
        for incident in own:
            refused[incident.cause] += incident.number
        lines.append(
            SensorLine(
                sensor,
                max(0.0, now - sensor.time),
                Facts(sensor, now).silence is not None,
                gaps.get(sensor[:2], ()),
                dict(refused),
            )
        )
    return lines
