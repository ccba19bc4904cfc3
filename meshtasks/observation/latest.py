"""The latest value of every sensor, from copies of published messages."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic_core import from_json

from meshtasks.amqp.entities import tail_of
from meshtasks.amqp.receiving import Message
from meshtasks.errors import InvalidMessage
from meshtasks.flows.analytics.rows import Reading, reading_of
from meshtasks.observation.sensor_facts import is_silent
from meshtasks.records.kinds import KindsConfig
from meshtasks.records.timestamps import InvalidTimestamp, any_moment
from meshtasks.state.sensor_activity import BATTERY, BATTERY_LOW, FULL_PERCENT, Sensor

#: Sensors kept; beyond this the least recently updated are dropped.
_MOST_SENSORS = 10_000
#: Messages kept per routing key, bytes kept of each, and routing keys kept.
_RAW, _RAW_BYTES, _MOST_RAW = 10, 1_000, 2_000
#: Longest usual pause of a sensor whose interval is not known, seconds.
UNKNOWN_GAP_SECONDS = 3 * 3600.0
#: Fields of readings and events with the battery level of their device, percent.
_LEVELS = ("battery", "battery_percent", "battery_level")


class SensorKey(NamedTuple):
    """The key of a sensor's values."""

    room: str
    kind: str
    sensor_id: str


class LatestValue(NamedTuple):
    """The latest reading of a sensor.

    Attributes:
        value: in ``unit``.
        unit: the kind's canonical unit, if it has one.
        at: when it was read or published, epoch seconds.
        routing_key: routing key of its message.
        gap_seconds: the sensor's longest usual pause.
    """

    value: float
    unit: str
    at: float
    routing_key: str
    gap_seconds: float = UNKNOWN_GAP_SECONDS

    def is_silent(self, now: float) -> bool:
        """Whether the sensor is silent for longer than usual."""
        return is_silent(self.at, self.gap_seconds, now)


class RawMessage(NamedTuple):
    """A message as it came, its body truncated; ``at`` in epoch seconds."""

    at: float
    body: bytes


class LatestValues:
    """The latest value of every sensor; thread-safe."""

    def __init__(self, kinds: KindsConfig) -> None:
        self._kinds = kinds
        self._values: OrderedDict[SensorKey, LatestValue] = OrderedDict()
        self._raw: OrderedDict[str, deque[RawMessage]] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, message: Message, now: float) -> None:
        """Add the readings of a message; other records are ignored."""
        self._keep(message, now)
        try:
            document = from_json(message.body)
        except ValueError:
            return
        records = document if isinstance(document, list) else [document]
        readings = []
        for record in records:
            key, time_ms = message.routing_key, int(1000 * _moment(record, now))
            with suppress(InvalidMessage):
                readings.append(reading_of(record, key, time_ms, self._kinds))
            readings += _batteries(record, key, time_ms)
        self.add(readings)

    def add(self, readings: Iterable[Reading]) -> None:
        """Add readings; a reading older than the known one is ignored."""
        with self._lock:
            for reading in readings:
                room = reading.location or reading.sensor_id
                key = SensorKey(room, reading.kind, reading.sensor_id)
                at = reading.time_ms / 1000
                known = self._values.get(key)
                if known is not None and known.at > at:
                    continue
                gap_seconds = known.gap_seconds if known else UNKNOWN_GAP_SECONDS
                value = reading.value, reading.unit or "", at, reading.routing_key
                self._values[key] = LatestValue(*value, gap_seconds)
                self._values.move_to_end(key)
            while len(self._values) > _MOST_SENSORS:
                self._values.popitem(last=False)

    def know(self, sensors: Iterable[Sensor]) -> None:
        """Add sensors from the state, with their usual intervals."""
        with self._lock:
            for sensor in sensors:
                if sensor.value is None or not sensor.time:
                    continue
                room = sensor.location or sensor.sensor_id
                key = SensorKey(room, sensor.kind, sensor.sensor_id)
                latest = LatestValue(
                    sensor.value, sensor.unit, sensor.time, sensor.routing_key
                )
                known = self._values.get(key)
                if known is not None and known.at >= sensor.time:
                    latest = known
                self._values[key] = latest._replace(gap_seconds=sensor.gap_seconds)

    def raw(self, routing_key: str) -> list[RawMessage]:
        """The last messages with a routing key, newest first."""
        with self._lock:
            return list(reversed(self._raw.get(routing_key, ())))

    def _keep(self, message: Message, now: float) -> None:
        with self._lock:
            kept = self._raw.setdefault(message.routing_key, deque(maxlen=_RAW))
            kept.append(RawMessage(now, message.body[:_RAW_BYTES]))
            self._raw.move_to_end(message.routing_key)
            while len(self._raw) > _MOST_RAW:
                self._raw.popitem(last=False)

    def values(self) -> dict[SensorKey, LatestValue]:
        """All values by room, kind and sensor."""
        with self._lock:
            return dict(self._values)


def _moment(record: Any, now: float) -> float:
    """The time of a record, epoch seconds; now if it has none, an invalid one, or one
    in the future."""
    stamp = record.get("timestamp") if isinstance(record, dict) else None
    if stamp is not None:
        with suppress(InvalidTimestamp, OverflowError):
            return min(any_moment(stamp), now)
    return now


def _batteries(record: Any, routing_key: str, time_ms: int) -> Iterator[Reading]:
    """The battery values of a record, as readings."""
    if not isinstance(record, dict):
        return
    named, location = record.get("sensor_id"), record.get("location")
    sensor_id = named if isinstance(named, str) and named.strip() else ""
    sensor_id = sensor_id or tail_of(routing_key)
    room = location if isinstance(location, str) and location.strip() else None
    level = next((record[name] for name in _LEVELS if name in record), None)
    low = record.get(BATTERY_LOW)
    if isinstance(level, bool):  # a binary sensor: true means low
        level, low = None, level
    what = sensor_id, room
    if isinstance(level, int | float) and 0 <= level <= FULL_PERCENT:
        yield Reading(time_ms, BATTERY, *what, float(level), "%", routing_key, "")
    elif isinstance(low, bool):
        yield Reading(time_ms, BATTERY_LOW, *what, float(low), None, routing_key, "")
