"""The records of one message of a device: their times, ids and routing keys; no I/O.

A reading whose kind goes to ``sensors`` is a message of its own,
``sensors.<kind>.<name>``, in the unit of the device. The readings of one sensor that go
to ``metrics`` are one metric, ``metrics.system.<name>.device``, in the units in the
names of its fields. An event, such as the press of a button, is a message that starts
automations: ``home.device.<name>.trigger``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from meshtasks.amqp.publisher import Outgoing
from meshtasks.producers.buffer import encode
from meshtasks.producers.sensornet.config import EVENTS_EXCHANGE
from meshtasks.producers.sensornet.kinds import name, word
from meshtasks.producers.sensornet.payload import DeviceTime
from meshtasks.producers.sensornet.report import (
    MessageReport,
    Reading,
    ValueCounts,
)
from meshtasks.records.timestamps import InvalidTimestamp, epoch_seconds
from meshtasks.text import clip

#: Name of the metrics of devices.
METRIC = "device"
#: Furthest that a device's time may be ahead of the receipt: clocks differ that much.
_AHEAD_LIMIT_SECONDS = 300.0
#: Furthest that a device's time may be behind the receipt. An older time comes from a
#: wrong clock, or from a repeated old message.
_BEHIND_LIMIT_SECONDS = 30 * 86_400.0
#: Characters that neither tags nor text fields of points can contain.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]+")
_LONGEST_LOCATION_CHARS = 100


class NotBelieved(ValueError):
    """The time of a device is implausible or cannot be read."""


def moment(stamp: object, received_at: float, zone: ZoneInfo | None) -> float | None:
    """Return the time of a device's timestamp in epoch seconds.

    Args:
        stamp: as in :class:`~meshtasks.producers.sensornet.payload.Payload`.
        received_at: time of receipt in epoch seconds.
        zone: zone of local times; None ignores them.

    Returns:
        The time, or None if there is no timestamp.

    Raises:
        NotBelieved: the timestamp is not a time, or is too far from the receipt: a
            clock that was never set starts in 1970.
    """
    if stamp is None:
        return None
    seconds: float | None
    try:
        if isinstance(stamp, DeviceTime):
            seconds = _local(stamp.text, received_at, zone)
        else:
            seconds = epoch_seconds(stamp, received_at)
    except (InvalidTimestamp, ValueError, OverflowError) as error:
        raise NotBelieved from error
    if seconds is None:
        return None
    if -_BEHIND_LIMIT_SECONDS <= seconds - received_at <= _AHEAD_LIMIT_SECONDS:
        return seconds
    raise NotBelieved


def _local(text: str, received_at: float, zone: ZoneInfo | None) -> float | None:
    """Return the epoch seconds of a time, or None if its zone is unknown.

    Of an hour that occurs twice in autumn, the one nearer to the receipt is taken.

    Raises:
        ValueError, OverflowError: the text is not a time.
    """
    local = datetime.fromisoformat(text)
    if local.tzinfo is None:
        if zone is None:
            return None
        local = local.replace(tzinfo=zone)
    moments = [local.replace(fold=fold).timestamp() for fold in (0, 1)]
    return min(moments, key=lambda seconds: abs(seconds - received_at))


def writable(text: str) -> str:
    """Return a text without characters that points cannot contain. These are control
    characters, backslashes and surrogates."""
    return _UNWRITABLE.sub(" ", text).strip()


class Published(NamedTuple):
    """A message of a device.

    Attributes:
        routing_key: its topic, as translated by the MQTT plugin.
        body: its content.
        received_at: time of receipt in epoch seconds.
    """

    routing_key: str
    body: bytes
    received_at: float


class Sensor(NamedTuple):
    """Name of a sensor, and its location, which may be empty."""

    id: str
    location: str


class MessageRecords:
    """Collects the records of one message.

    Attributes:
        counted: skipped values by reason and name.
        remarks: implausible times by reason and name; their values were used.
    """

    def __init__(
        self, published: Published, report: MessageReport, zone: ZoneInfo | None
    ) -> None:
        self.published = published
        self.counted = report.counted
        self.remarks: ValueCounts = Counter()
        self._zone = zone
        self._received_at = round(published.received_at, 3)  # precision of points
        self._time = self._moment(report.payload.stamp, "time of the device")
        self._taken: set[tuple[str, str]] = set()
        self._outgoing: list[tuple[str, str, dict[str, Any]]] = []
        self._metrics: dict[tuple[str, float], dict[str, Any]] = {}

    def count(self, reason: str, reading: Reading, detail: str = "") -> None:
        """Count a reading that is skipped."""
        shown = f"{reading.name} ({clip(detail, 30)})" if detail else reading.name
        self.counted[reason, shown] += 1

    def sensor_id(self, device: str, reading: Reading) -> str:
        """Return a sensor name that is unique for its kind in this message."""
        found = name(device, reading.meaning.part)
        if (found, reading.kind.name) in self._taken:
            found = name(device, reading.meaning.part, word(reading.name))
        distinct, number = found, 1
        while (distinct, reading.kind.name) in self._taken:
            number += 1
            distinct = f"{found}-{number}"
        self._taken.add((distinct, reading.kind.name))
        return distinct

    def add_event(self, sensor: Sensor, reading: Reading, happened: str) -> None:
        """Add an event."""
        record = {
            "automation": f"device.{sensor.id}",
            "trigger": writable(happened),
            "sensor_id": sensor.id,
            **self._shared(sensor, reading),
        }
        key = f"home.device.{sensor.id.replace('.', '_')}.trigger"
        self._outgoing.append((EVENTS_EXCHANGE, key, record))

    def add_reading(
        self, sensor: Sensor, reading: Reading, values: dict[str, Any]
    ) -> None:
        """Add a reading for ``sensors``: its value and unit, or its state."""
        key = f"sensors.{reading.kind.name}.{sensor.id}"
        shared = self._shared(sensor, reading)
        record = {"sensor_id": sensor.id, **values, **shared}
        self._outgoing.append(("sensors", key, record))

    def add_field(self, sensor: Sensor, reading: Reading, value: float) -> None:
        """Add a field to the sensor's metric."""
        shared = self._shared(sensor, reading)
        time = shared.pop("timestamp")
        metric = self._metrics.setdefault(
            (sensor.id, time),
            {
                "name": METRIC,
                "fields": {},
                "tags": {"sensor_id": sensor.id, **shared},
                "timestamp": time,
            },
        )
        metric["fields"][reading.kind.field] = value

    def messages(self) -> Iterator[Outgoing]:
        """Yield the messages; their ids derive from the body, the topic and the times.
        So a message with a time of its own that is delivered twice gets the same
        ids."""
        everything = self._outgoing + [
            ("metrics", f"metrics.system.{sensor_id}.{METRIC}", record)
            for (sensor_id, _time), record in self._metrics.items()
        ]
        digest = hashlib.blake2b(self.published.body, digest_size=8)
        digest.update(self.published.routing_key.encode("utf-8", "surrogatepass"))
        for index, (exchange, key, record) in enumerate(everything):
            time = record["timestamp"]
            message_id = f"{round(time * 1000):012x}-{digest.hexdigest()}-{index}"
            yield Outgoing(exchange, key, encode(record), message_id, time)

    def _shared(self, sensor: Sensor, reading: Reading) -> dict[str, Any]:
        time = self._time
        if reading.meaning.stamp is not None:
            time = (
                self._moment(reading.meaning.stamp, f"time of {reading.name}") or time
            )
        shared: dict[str, Any] = {"timestamp": time or self._received_at}
        if location := writable(sensor.location)[:_LONGEST_LOCATION_CHARS].strip():
            shared["location"] = location
        return shared

    def _moment(self, stamp: object, called: str) -> float | None:
        try:
            found = moment(stamp, self.published.received_at, self._zone)
        except NotBelieved:
            self.remarks["clock not believed", called] += 1
            return None
        return None if found is None else round(found, 3)
