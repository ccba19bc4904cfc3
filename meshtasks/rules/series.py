"""What a rule watches, and the words that the texts of its alerts may use."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field


class Series(NamedTuple):
    """What a rule watches.

    Attributes:
        key: its name in the state; measurement, tags and field.
        kind: sensor kind, or name of the metric; the measurement.
        unit: canonical unit of its values; empty for a metric.
        sensor_id: the sensor; empty for a metric.
        location: where it is; empty when not known.
        field: of the metric; empty for a sensor.
        tags: name and value, of the metric.
    """

    key: str
    kind: str
    unit: str
    sensor_id: str = ""
    location: str = ""
    field: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """What people call it."""
        host = dict(self.tags).get("host")
        return self.location or self.sensor_id or host or self.kind

    @property
    def labels(self) -> dict[str, str]:
        """What an alert is about, less the rule."""
        named = {
            "kind": self.kind,
            "sensor_id": self.sensor_id,
            "location": self.location,
            "field": self.field,
        }
        known = {name: value for name, value in named.items() if value}
        return dict(self.tags) | known


class Tags(dict[str, str]):
    """Tags for templates; one that a metric lacks is empty."""

    def __missing__(self, name: str) -> str:
        return ""


_SAMPLE_TEXT = {
    "rule": "name",
    "kind": "temperature",
    "sensor_id": "sensor",
    "location": "room",
    "place": "room",
    "field": "used_percent",
    "tags": Tags(),
    "value": 21.5,
    "unit": "°C",
    "limit": 20.0,
    "low": 10.0,
    "high": 20.0,
    "minutes": 5.0,
}
_TAG_NAME = re.compile(r"tags\[[^]]+\]")


def _template(text: str) -> str:
    for _, name, _, _ in Formatter().parse(text):
        if name is None or _TAG_NAME.fullmatch(name):
            continue
        if name not in _SAMPLE_TEXT or name == "tags":
            words = ", ".join(word for word in _SAMPLE_TEXT if word != "tags")
            message = f"{{{name}}} is not known; expected {words} or tags[…]"
            raise ValueError(message)
    text.format_map(_SAMPLE_TEXT)  # a bad format, such as {sensor_id:.1f}
    return text


Template = Annotated[str, Field(min_length=1), AfterValidator(_template)]
