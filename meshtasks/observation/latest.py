"""The latest value of every sensor, from copies of what is published."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from pydantic_core import from_json

from meshtasks.amqp.receiving import Message
from meshtasks.errors import InvalidMessage
from meshtasks.flows.analytics.rows import Reading, reading_of
from meshtasks.records.kinds import KindsConfig
from meshtasks.state.sensor_activity import Sensor

#: Sensors that are remembered; those that were silent longest are forgotten.
_MOST_SENSORS = 10_000
#: Messages that are kept of a routing key, how much of each, and of how many keys.
_RAW, _RAW_BYTES, _MOST_RAW = 10, 1_000, 2_000


class SensorKey(NamedTuple):
    """What tells one row of values from another."""

    room: str
    kind: str
    sensor_id: str


class LatestValue(NamedTuple):
    """The last reading of a sensor.

    Attributes:
        value: in ``unit``.
        unit: the kind's canonical unit, if there is one.
        at: when it was read or published, epoch seconds.
        routing_key: it was published with.
    """

    value: float
    unit: str
    at: float
    routing_key: str


class RawMessage(NamedTuple):
    """A message as it came, shortened; at epoch seconds."""

    at: float
    body: bytes


class LatestValues:
    """The latest value of every sensor; thread-safe.

    Args:
        kinds: the units of each kind.
    """

    def __init__(self, kinds: KindsConfig) -> None:
        self._kinds = kinds
        self._values: OrderedDict[SensorKey, LatestValue] = OrderedDict()
        self._raw: OrderedDict[str, deque[RawMessage]] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, message: Message, now: float) -> None:
        """Take the readings of a message; what is none is passed over."""
        self._keep(message, now)
        try:
            document = from_json(message.body)
        except ValueError:
            return
        records = document if isinstance(document, list) else [document]
        readings = []
        for record in records:
            with suppress(InvalidMessage):
                readings.append(
                    reading_of(
                        record, message.routing_key, int(now * 1000), self._kinds
                    )
                )
        self.add(readings)

    def add(self, readings: Iterable[Reading]) -> None:
        """Take readings; one that is older than what is known is passed over."""
        with self._lock:
            for reading in readings:
                room = reading.location or reading.sensor_id
                key = SensorKey(room, reading.kind, reading.sensor_id)
                at = reading.time_ms / 1000
                known = self._values.get(key)
                if known is not None and known.at > at:
                    continue
                self._values[key] = LatestValue(
                    reading.value, reading.unit or "", at, reading.routing_key
                )
                self._values.move_to_end(key)
            while len(self._values) > _MOST_SENSORS:
                self._values.popitem(last=False)

    def know(self, sensors: Iterable[Sensor]) -> None:
        """Take what is known of sensors already."""
        with self._lock:
            for sensor in sensors:
                if sensor.value is None or not sensor.time:
                    continue
                room = sensor.location or sensor.sensor_id
                key = SensorKey(room, sensor.kind, sensor.sensor_id)
                known = self._values.get(key)
                if known is None or known.at < sensor.time:
                    self._values[key] = LatestValue(
                        sensor.value, sensor.unit, sensor.time, sensor.routing_key
                    )

    def raw(self, routing_key: str) -> list[RawMessage]:
        """The last messages with a routing key; the latest first."""
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
        """All of them, by room, kind and sensor."""
        with self._lock:
            return dict(sorted(self._values.items()))
