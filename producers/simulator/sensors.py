"""Sensors as they are found in houses: every maker has a format of its own."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import NamedTuple

from typing_extensions import override


class Emission(NamedTuple):
    """What a source says at one moment.

    Attributes:
        exchange: where to.
        routing_key: as what.
        timestamp: epoch seconds; of the message, and so of records without one.
        records: the JSON records. Several are one array message.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object]


class Source(ABC):
    """Something in the house that speaks now and then.

    No two of its records are of the same moment, so each stays a point of its own
    in a store.

    Args:
        interval_ms: it speaks once in so long at most, by the house's clock.
    """

    def __init__(self, interval_ms: int = 1) -> None:
        self._interval_ms = interval_ms
        self._last: int | None = None

    def emit(self, now_ms: int) -> Emission | None:
        """What it says at this moment, epoch milliseconds; None for nothing."""
        moment = now_ms // self._interval_ms
        if moment == self._last:
            return None
        self._last = moment
        return self._say(now_ms)

    @abstractmethod
    def _say(self, now_ms: int) -> Emission | None:
        """What it says at a moment that it has not spoken at."""


def utc_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, as UTC."""
    moment = datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, an hour ahead of UTC."""
    moment = datetime.fromtimestamp(ms // 1000, timezone(timedelta(hours=1)))
    moment += timedelta(milliseconds=ms % 1000)
    return moment.isoformat(timespec="milliseconds")


class Fault(StrEnum):
    """A kind of sensor fault."""

    #: The value freezes for a while.
    STUCK = "stuck"
    #: One reading is far off.
    SPIKE = "spike"
    #: No readings for a while.
    DROPOUT = "dropout"


_DURATION_SECONDS = {
    Fault.STUCK: (20.0, 120.0),
    Fault.SPIKE: (0.0, 0.0),
    Fault.DROPOUT: (5.0, 60.0),
}
_SPIKE_SIZE = (8.0, 20.0)


class FaultySensor:
    """Lets faults happen to the values of one sensor, one at a time.

    Args:
        mean_interval_seconds: mean time from the end of a fault to the next.
        happened: counts the faults by name.
    """

    def __init__(
        self,
        rng: random.Random,
        mean_interval_seconds: float,
        happened: Counter[str],
    ) -> None:
        self._rng = rng
        self._mean_interval_seconds = mean_interval_seconds
        self._happened = happened
        self._next_at: float | None = None
        self._until = 0.0
        self._fault: Fault | None = None
        self._stuck_at = 0.0

    def read(self, seconds: float, value: float) -> float | None:
        """What the sensor says at this moment, the true value given.

        Returns:
            The value it shows; None while it shows nothing.
        """
        if self._next_at is None:
            self._schedule(seconds)
        if self._fault and seconds >= self._until:
            self._fault = None
            self._schedule(seconds)
        if not self._fault and self._next_at is not None and seconds >= self._next_at:
            self._begin(seconds, value)
        match self._fault:
            case Fault.STUCK:
                return self._stuck_at
            case Fault.SPIKE:
                size = self._rng.uniform(*_SPIKE_SIZE)
                return value + self._rng.choice((-size, size))
            case Fault.DROPOUT:
                return None
            case None:
                return value

    def _schedule(self, seconds: float) -> None:
        self._next_at = seconds + self._rng.expovariate(1 / self._mean_interval_seconds)

    def _begin(self, seconds: float, value: float) -> None:
        self._fault = self._rng.choice(tuple(Fault))
        self._until = seconds + self._rng.uniform(*_DURATION_SECONDS[self._fault])
        self._stuck_at = value
        self._happened[self._fault] += 1


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


class MotionSensor(Source):
    """Sees somebody and nobody in turn.

    Args:
        room: where it is.
        complete: it gives its id, its place and the time; else the routing key and
            the message say all that.
    """

    def __init__(self, room: str, *, complete: bool = True) -> None:
        super().__init__()
        self._room = room
        self._complete = complete
        self._motion = False

    @override
    def _say(self, now_ms: int) -> Emission | None:
        self._motion = not self._motion
        record: dict[str, object] = {"motion": self._motion}
        if self._complete:
            sensor_id, moment = f"{self._room}-pir", utc_time(now_ms)
            record = motion_record(self._room, sensor_id, moment) | record
        key = motion_key(self._room)
        return Emission(EXCHANGE, key, now_ms / 1000, [record])


def motion_key(room: str) -> str:
    """The routing key of a room's motion sensors."""
    return f"sensors.motion.{room}"


def motion_record(room: str, sensor_id: str, timestamp: object) -> dict[str, object]:
    """Somebody is there."""
    return {
        "sensor_id": sensor_id,
        "motion": True,
        "timestamp": timestamp,
        "location": room,
    }
