"""The weather, and the air in the rooms it surrounds.

Temperatures are closed functions of the time, not simulated step by step: any
moment can be computed, at any speed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

_DAY_SECONDS = 86_400.0

#: Magnus formula with the constants of Alduchov and Eskridge (1996), equation 21.
_MAGNUS_A = 17.625
_MAGNUS_B_CELSIUS = 243.04


def relative_humidity_percent(celsius: float, dew_point_celsius: float) -> float:
    """Relative humidity of air at a temperature and dew point, 0 to 100."""

    def saturation(temperature: float) -> float:
        return math.exp(_MAGNUS_A * temperature / (_MAGNUS_B_CELSIUS + temperature))

    ratio = saturation(dew_point_celsius) / saturation(celsius)
    return min(100.0, max(0.0, 100.0 * ratio))


class Weather:
    """A temperate climate: seasons, days, and fronts that pass in days. Times are epoch
    seconds; the sun is that of UTC."""

    def __init__(self, rng: random.Random) -> None:
        # Periods that share no common multiple: the sequence does not repeat.
        self._fronts = [
            (days, rng.uniform(0.8, 2.2), rng.uniform(0.0, math.tau))
            for days in (2.3, 5.1, 9.7)
        ]

    def outdoor_celsius(self, seconds: float) -> float:
        """Air temperature outside: coldest mid-January and at 3 in the morning."""
        day = math.cos(math.tau * (_hour(seconds) - 15.0) / 24.0)
        return self._mean_celsius(seconds) + 4.0 * day

    def dew_point_celsius(self, seconds: float) -> float:
        """Dew point outside; it hardly follows the day."""
        return self._mean_celsius(seconds) - 3.5

    def _mean_celsius(self, seconds: float) -> float:
        days = seconds / _DAY_SECONDS
        season = -9.0 * math.cos(math.tau * (days - 15.0) / 365.25)
        fronts = sum(
            strength * math.sin(math.tau * days / period + phase)
            for period, strength, phase in self._fronts
        )
        return 10.0 + season + fronts


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that happens every day: cooking, a shower.

    Attributes:
        hour: its middle, hour of the day.
        width_hours: standard deviation of its course.
        dew_point_celsius: how much it raises the dew point.
    """

    hour: float
    width_hours: float
    celsius: float
    dew_point_celsius: float

    def strength(self, seconds: float) -> float:
        """0 to 1, over the day."""
        apart = (_hour(seconds) - self.hour + 12.0) % 24.0 - 12.0
        return math.exp(-0.5 * (apart / self.width_hours) ** 2)


@dataclass(frozen=True, slots=True)
class Room:
    """A room and how it follows the day.

    Attributes:
        celsius: mean temperature at 10 °C outside.
        swing_celsius: half the difference between day and night.
        exposure: share of a change outside that arrives inside, 0 to 1.
        moisture_celsius: dew point above the one outside.
    """

    name: str
    celsius: float
    swing_celsius: float = 0.8
    exposure: float = 0.05
    moisture_celsius: float = 5.0
    episode: Episode | None = None


@dataclass(frozen=True, slots=True)
class Overheating:
    """A room that overheats again and again, so that there is something to alert on.

    It warms within four seconds, stays hot for forty, and is back to normal half
    a minute later.
    """

    room: str
    from_seconds: float
    peak_celsius: float = 45.0
    period_seconds: float = 300.0

    def celsius(self, seconds: float) -> float:
        """How much warmer the room is at this moment."""
        if seconds < self.from_seconds:
            return 0.0
        since = (seconds - self.from_seconds) % self.period_seconds
        share = min(since / 4.0, 1.0, max(0.0, 1.0 - (since - 44.0) / 30.0))
        return self.peak_celsius * share


@dataclass(frozen=True, slots=True)
class Climate:
    """The air in every room at every moment."""

    weather: Weather
    overheating: Overheating | None

    def celsius(self, room: Room, seconds: float) -> float:
        """Air temperature in a room."""
        day = math.cos(math.tau * (_hour(seconds) - 17.0) / 24.0)
        outside = self.weather.outdoor_celsius(seconds) - 10.0
        value = room.celsius + room.swing_celsius * day + room.exposure * outside
        if room.episode:
            value += room.episode.celsius * room.episode.strength(seconds)
        if self.overheating and self.overheating.room == room.name:
            value += self.overheating.celsius(seconds)
        return value

    def humidity_percent(self, room: Room, seconds: float) -> float:
        """Relative humidity in a room: the moisture outside and of its use, at the
        temperature inside."""
        dew_point = self.weather.dew_point_celsius(seconds) + room.moisture_celsius
        if room.episode:
            raised = room.episode.dew_point_celsius
            dew_point += raised * room.episode.strength(seconds)
        return relative_humidity_percent(self.celsius(room, seconds), dew_point)


def _hour(seconds: float) -> float:
    return seconds % _DAY_SECONDS / 3_600.0
