"""Sensors of many makers, each with its own format; now and then one fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import NamedTuple

SENSORS = "sensors"


class Emission(NamedTuple):
    """What an emitter sends at one time.

    Attributes:
        timestamp: epoch seconds; time of the message, and of records without one.
        records: JSON records; several are one array message.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object]


class Emitter:
    """A sender in the house.

    It sends at most once in a unit of time, so each record stays a point of its own in
    a store.

    Args:
        send: returns what it sends at a time in epoch milliseconds, or None.
        interval_ms: the unit of time by the house's clock.
    """

    def __init__(
        self, send: Callable[[int], Emission | None], interval_ms: int = 1
    ) -> None:
        self._send = send
        self._interval_ms = interval_ms
        self._last: int | None = None

    def emit(self, now_ms: int) -> Emission | None:
        """Return what it sends at this time, if it has not sent in this interval."""
        moment = now_ms // self._interval_ms
        if moment == self._last:
            return None
        self._last = moment
        return self._send(now_ms)


def single(exchange: str, key: str, record: Callable[[int], object]) -> Emitter:
    """Return an emitter of single records with a fixed routing key."""

    def send(now_ms: int) -> Emission:
        return Emission(exchange, key, now_ms / 1000, [record(now_ms)])

    return Emitter(send)


def utc_time(ms: int) -> str:
    """Return epoch milliseconds as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(ms: int) -> str:
    """Return epoch milliseconds as RFC 3339, one hour ahead of UTC."""
    moment = datetime.fromtimestamp(ms / 1000, timezone(timedelta(hours=1)))
    return moment.isoformat(timespec="milliseconds")


class Fault(StrEnum):
    """A kind of sensor fault."""

    #: The value does not change for a while.
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
    """Applies faults to the values of one sensor, one at a time.

    The records stay valid.

    Args:
        mean_interval_seconds: mean time from the end of a fault to the next.
        happened: counts the faults by name.
    """

    def __init__(
        self, rng: random.Random, mean_interval_seconds: float, happened: Counter[str]
    ) -> None:
        self._rng = rng
        self._mean_interval_seconds = mean_interval_seconds
        self._happened = happened
        self._next_at: float | None = None
        self._until = 0.0
        self._fault: Fault | None = None
        self._stuck_at = 0.0

    def read(self, seconds: float, value: float) -> float | None:
        """Return the measured value for a true value; None during a dropout."""
        if self._next_at is None or (self._fault and seconds >= self._until):
            self._fault = None
            interval = self._rng.expovariate(1 / self._mean_interval_seconds)
            self._next_at = seconds + interval
        if not self._fault and seconds >= self._next_at:
            self._fault = self._rng.choice(tuple(Fault))
            self._until = seconds + self._rng.uniform(*_DURATION_SECONDS[self._fault])
            self._stuck_at = value
            self._happened[self._fault] += 1
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


@dataclass(frozen=True, slots=True)
class Format:
    """The record format of a maker.

    Attributes:
        unit: as in the record; None leaves it out.
        convert: converts °C or percent to that unit.
        decimals: resolution of values.
        timestamp: formats epoch milliseconds; None leaves the timestamp out.
        named: whether the record has id and location.
        bare: whether the message is only the number.
        attributes: other fields of the record.
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
        """Whether a record has id and timestamp, so that records can be packed."""
        return self.named and self.timestamp is not None

    def record(self, sensor_id: str, location: str, value: float, ms: int) -> object:
        """Return the JSON of one reading."""
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


#: The first format is the one that the documentation recommends.
TEMPERATURE_FORMATS = (
    Format("°C", decimals=2, timestamp=utc_time, attributes={"battery": 87}),
    Format("°F", _fahrenheit, timestamp=lambda ms: ms),
    Format("C", timestamp=local_time),
    Format("K", lambda celsius: celsius + 273.15, 2, timestamp=lambda ms: ms / 1000),
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


class Element(NamedTuple):
    """A type of measuring element.

    Attributes:
        lowest: lowest value that it can measure.
        highest: highest value that it can measure.
        noise: standard deviation of a reading.
        drift_per_day: largest drift in a day.
    """

    lowest: float
    highest: float
    noise: float
    drift_per_day: float


THERMISTOR = Element(-40.0, 125.0, noise=0.06, drift_per_day=0.05)
CAPACITIVE_HYGROMETER = Element(0.0, 100.0, noise=0.4, drift_per_day=0.2)


class Probe:
    """One measuring element.

    Args:
        element: its type.
        truth: returns the true value at a time in epoch seconds.
        rng: its own random numbers.
        faults: its faults; None for a probe that never fails.
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
        """Return the measured value at a time; None during a dropout."""
        if self._since is None:
            self._since = seconds
        drift = self._drift_per_day * (seconds - self._since) / 86_400.0
        noise = self._rng.gauss(0.0, self._element.noise)
        value = self._truth(seconds) + drift + noise
        shown = self._faults.read(seconds, value) if self._faults else value
        if shown is None:
            return None
        return min(self._element.highest, max(self._element.lowest, shown))


def readings(
    kind: str, room: str, probes: Mapping[str, Probe], form: Format
) -> Emitter:
    """Return an emitter that sends readings of all probes (by id) in one message."""

    def send(now_ms: int) -> Emission | None:
        records = [
            form.record(sensor_id, room, value, now_ms)
            for sensor_id, probe in probes.items()
            if (value := probe.read(now_ms / 1000)) is not None
        ]
        key = f"sensors.{kind}.{room}"
        return Emission(SENSORS, key, now_ms / 1000, records) if records else None

    # A reading without a timestamp gets that of the AMQP message, which is in whole
    # seconds: two readings in one second would be one point.
    return Emitter(send, interval_ms=1 if form.timestamp else 1000)


def motion_record(room: str, sensor_id: str, timestamp: object) -> dict[str, object]:
    """Return the record of detected motion."""
    return {
        "sensor_id": sensor_id,
        "motion": True,
        "timestamp": timestamp,
        "location": room,
    }


def motion_sensor(room: str, *, complete: bool) -> Emitter:
    """Return an emitter of beginnings and ends of motion, in turn.

    Args:
        complete: whether records have id, location and time, not only the state.
    """
    motion = False

    def record(now_ms: int) -> dict[str, object]:
        nonlocal motion
        motion = not motion
        if not complete:
            return {"motion": motion}
        record = motion_record(room, f"{room}-pir", utc_time(now_ms))
        return record | {"motion": motion}

    return single(SENSORS, f"sensors.motion.{room}", record)
