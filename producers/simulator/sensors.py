"""Sensors as they are found in houses: every maker has a format of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from producers.simulator.faults import FaultySensor
from producers.simulator.sources import Emission, Source, local_time, utc_time

EXCHANGE = "sensors"


@dataclass(frozen=True, slots=True)
class Format:
    """How one maker's sensors write a reading.

    Attributes:
        unit: as written; None when it is left out.
        convert: from °C or percent into that unit.
        decimals: its resolution.
        timestamp: how it writes epoch milliseconds; None when it leaves it out.
        named: whether it gives its id and place.
        bare: the message is the number alone.
        attributes: other fields it sends.
    """

    unit: str | None
    convert: Callable[[float], float] = lambda value: value
    decimals: int = 1
    timestamp: Callable[[int], object] | None = None
    named: bool = True
    bare: bool = False
    attributes: Mapping[str, object] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether a reading says all by itself, so that many fit one message."""
        return self.named and self.timestamp is not None

    def record(self, sensor_id: str, location: str, value: float, ms: int) -> object:
        """The JSON of one reading."""
        number = round(self.convert(value), self.decimals)
        if self.bare:
            return number
        record: dict[str, object] = {"sensor_id": sensor_id} if self.named else {}
        record["value"] = number
        if self.unit is not None:
            record["unit"] = self.unit
        if self.timestamp:
            record["timestamp"] = self.timestamp(ms)
        if self.named:
            record["location"] = location
        return {**record, **self.attributes}


def _fahrenheit(celsius: float) -> float:
    return celsius * 9.0 / 5.0 + 32.0


def _kelvin(celsius: float) -> float:
    return celsius + 273.15


#: The first is what our own documents recommend.
TEMPERATURE_FORMATS = (
    Format("°C", decimals=2, timestamp=utc_time, attributes={"battery": 87}),
    Format("°F", _fahrenheit, timestamp=lambda ms: ms),
    Format("C", timestamp=local_time),
    Format("K", _kelvin, decimals=2, timestamp=lambda ms: ms / 1000),
    Format(None, timestamp=utc_time),
    Format("F", _fahrenheit, named=False),
    Format(None, named=False, bare=True),
)
HUMIDITY_FORMATS = (
    Format("%", timestamp=utc_time, attributes={"battery": 87}),
    Format(None, timestamp=lambda ms: ms / 1000),
    Format("%RH", decimals=0, timestamp=lambda ms: ms),
    Format("%", named=False),
    Format(None, named=False, bare=True),
)


@dataclass(frozen=True, slots=True)
class Element:
    """A type of measuring element.

    Attributes:
        lowest: the least it can show.
        highest: the most it can show.
        noise: standard deviation of a reading.
        drift_per_day: the most that one of them drifts away in a day.
    """

    lowest: float
    highest: float
    noise: float
    drift_per_day: float


THERMISTOR = Element(-40.0, 125.0, noise=0.06, drift_per_day=0.05)
CAPACITIVE_HYGROMETER = Element(0.0, 100.0, noise=0.4, drift_per_day=0.2)


class Probe:
    """One measuring element in its place.

    Args:
        element: what it is.
        truth: the true value at a moment, epoch seconds.
        rng: its own source of chance.
        faults: what happens to it; None for a probe that never fails.
    """

    def __init__(
        self,
        element: Element,
        truth: Callable[[float], float],
        rng: random.Random,
        faults: FaultySensor | None,
    ) -> None:
        self._element = element
        self._truth = truth
        self._rng = rng
        self._drift_per_day = element.drift_per_day * rng.uniform(-1.0, 1.0)
        self._since: float | None = None
        self._faults = faults

    def read(self, seconds: float) -> float | None:
        """What it shows at this moment; None while it shows nothing."""
        if self._since is None:
            self._since = seconds
        drift = self._drift_per_day * (seconds - self._since) / 86_400.0
        noise = self._rng.gauss(0.0, self._element.noise)
        value = self._truth(seconds) + drift + noise
        shown = self._faults.read(seconds, value) if self._faults else value
        if shown is None:
            return None
        return min(self._element.highest, max(self._element.lowest, shown))


class Sensor(Source):
    """Sends one reading per message."""

    def __init__(
        self, kind: str, room: str, sensor_id: str, probe: Probe, form: Format
    ) -> None:
        # Without a timestamp of its own a reading is of the second that AMQP's
        # timestamp keeps: two in one second would be one point.
        super().__init__(interval_ms=1 if form.timestamp else 1000)
        self._routing_key = f"sensors.{kind}.{room}"
        self._room = room
        self._sensor_id = sensor_id
        self._probe = probe
        self._format = form

    @override
    def _say(self, now_ms: int) -> Emission | None:
        if (value := self._probe.read(now_ms / 1000)) is None:
            return None
        record = self._format.record(self._sensor_id, self._room, value, now_ms)
        return Emission(EXCHANGE, self._routing_key, now_ms / 1000, [record])


class Logger(Source):
    """Reads several probes at once and sends them as one array message."""

    def __init__(
        self, kind: str, room: str, probes: Mapping[str, Probe], form: Format
    ) -> None:
        super().__init__()
        self._routing_key = f"sensors.{kind}.{room}"
        self._room = room
        self._probes = probes
        self._format = form

    @override
    def _say(self, now_ms: int) -> Emission | None:
        records = [
            self._format.record(sensor_id, self._room, value, now_ms)
            for sensor_id, probe in self._probes.items()
            if (value := probe.read(now_ms / 1000)) is not None
        ]
        if not records:
            return None
        return Emission(EXCHANGE, self._routing_key, now_ms / 1000, records)
