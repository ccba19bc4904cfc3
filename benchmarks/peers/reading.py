"""The job that all peers share: a validated reading as a point in °C. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, FiniteFloat

#: Where the time-series store takes line protocol.
WRITE_PATH = "/api/v2/write?org=home&bucket=mesh&precision=ms"

#: unit → (scale, offset) of °C = value * scale + offset.
_TO_CELSIUS = {"C": (1.0, 0.0), "F": (5 / 9, -160 / 9), "K": (1.0, -273.15)}


class Reading(BaseModel):
    """A temperature as sensors publish it."""

    sensor_id: Annotated[str, Field(min_length=1)]
    value: FiniteFloat
    unit: Literal["C", "F", "K"]
    timestamp: AwareDatetime
    location: Annotated[str, Field(min_length=1)]


def to_line(reading: Reading) -> str:
    """The reading as a point in line protocol, with milliseconds."""
    scale, offset = _TO_CELSIUS[reading.unit]
    celsius = round(reading.value * scale + offset, 6)
    tags = f"location={reading.location},sensor_id={reading.sensor_id}"
    time_ms = round(reading.timestamp.timestamp() * 1000)
    return f"temperature,{tags} celsius={celsius} {time_ms}"
