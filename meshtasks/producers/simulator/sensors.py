"""Sensors as they are found in houses: every maker has a format of its own, and now
and then one fails."""

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
    """What an emitter sends at one moment.

    Attributes:
        timestamp: epoch seconds; of the message, and so of records without one.
        records: the JSON records. Several are one array message.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object]


class Emitter:
    """Something in the house that sends messages now and then.

    No two of its records are of the same moment, so each stays a point of its own
    in a store.

    Args:
        send: what it sends at a moment, epoch milliseconds; None for nothing.
        interval_ms: it sends once in so long at most, by the house's clock.
    """

    def __init__(
        self, send: Callable[[int], Emission | None], interval_ms: int = 1
    ) -> None:
        self._send = send
        self._interval_ms = interval_ms
        self._last: int | None = None

    def emit(self, now_ms: int) -> Emission | None:
        """What it sends at this moment, if it may send again."""
        moment = now_ms // self._interval_ms
        if moment == self._last:
            return None
        self._last = moment
        return self._send(now_ms)


def single(exchange: str, key: str, record: Callable[[int], object]) -> Emitter:
    """Sends one record at a time, always with the same routing key."""

    def send(now_ms: int) -> Emission:
        return Emission(exchange, key, now_ms / 1000, [record(now_ms)])

    return Emitter(send)


def utc_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, as UTC."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, an hour ahead of UTC."""
    moment = datetime.fromtimestamp(ms / 1000, timezone(timedelta(hours=1)))
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
    """Lets faults happen to the values of one sensor, one at a time. What it shows
    stays well-formed.

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
        """What the sensor shows for a true value; None while it shows nothing."""
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
        """Whether a reading is complete by itself, so that many fit one message."""
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


#: The first is what our own documents recommend.
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
    """One measuring element.

    Args:
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


def readings(
    kind: str, room: str, probes: Mapping[str, Probe], form: Format
) -> Emitter:
    """Sends the readings of one or more probes, by their ids, in one message."""

    def send(now_ms: int) -> Emission | None:
        records = [
            form.record(sensor_id, room, value, now_ms)
            for sensor_id, probe in probes.items()
            if (value := probe.read(now_ms / 1000)) is not None
        ]
        key = f"sensors.{kind}.{room}"
        return Emission(SENSORS, key, now_ms / 1000, records) if records else None

    # Without a timestamp of its own a reading is of the second that AMQP's timestamp
    # keeps: two in one second would be one point.
    return Emitter(send, interval_ms=1 if form.timestamp else 1000)


def motion_record(room: str, sensor_id: str, timestamp: object) -> dict[str, object]:
    """Motion is detected."""
    return {
        "sensor_id": sensor_id,
        "motion": True,
        "timestamp": timestamp,
        "location": room,
    }


def motion_sensor(room: str, *, complete: bool) -> Emitter:
    """Detects motion and its end in turn; gives its id, its place and the time if it is
    complete, else the motion alone."""
    motion = False

    def record(now_ms: int) -> dict[str, object]:
        nonlocal motion
        motion = not motion
        if not complete:
            return {"motion": motion}
        record = motion_record(room, f"{room}-pir", utc_time(now_ms))
        return record | {"motion": motion}

    return single(SENSORS, f"sensors.motion.{room}", record)
