"""Makes records of one message of a device, with names, times and ids; no I/O.

A reading whose kind goes to ``sensors`` is a message of its own,
``sensors.<kind>.<name>``, in the unit of the device. The readings of one sensor that go
to ``metrics`` are one metric, ``metrics.system.<name>.device``, in the units in the
names of its fields. An event, such as the press of a button, is a message that starts
automations: ``home.device.<name>.trigger``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, SchemaMismatch, UnknownUnit
from meshtasks.outcome import Dead
from meshtasks.producers.buffer import encode
from meshtasks.producers.sensornet import discovery, formats
from meshtasks.producers.sensornet.announcements import Announcements
from meshtasks.producers.sensornet.config import EVENTS_EXCHANGE, Device, SensorNet
from meshtasks.producers.sensornet.discovery import Announced
from meshtasks.producers.sensornet.kinds import name, word
from meshtasks.producers.sensornet.payload import UNAVAILABLE, DeviceTime, Ignored, Path
from meshtasks.producers.sensornet.report import (
    UNIT,
    MessageReport,
    Reading,
    ValueCounts,
    read,
)
from meshtasks.records.timestamps import InvalidTimestamp, epoch_seconds
from meshtasks.text import clip

logger = logging.getLogger(__name__)

#: Name of the metrics of devices.
METRIC = "device"
_NO_DEVICE = Device()
_IMPOSSIBLE = "value that cannot be"

#: Furthest that a device's time may be ahead of the receipt: clocks differ that much.
_AHEAD_LIMIT_SECONDS = 300.0
#: Furthest that a device's time may be behind the receipt. An older time comes from a
#: wrong clock, or from a repeated old message.
_BEHIND_LIMIT_SECONDS = 30 * 86_400.0
#: Characters that neither tags nor text fields of points can contain.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]+")
_LONGEST_LOCATION_CHARS = 100
_MOST_MOTION_SENSORS = 10_000


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


class RepeatedMotion:
    """Detects repeated states of motion sensors.

    Zigbee2MQTT repeats ``"occupancy": true`` with each change of brightness, and each
    repetition would start a workflow. After ``repeat_seconds`` a repetition counts
    again, because some sensors never send false.

    Args:
        repeat_seconds: time within which the same state is a repetition.
    """

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._last: dict[str, tuple[bool, float]] = {}

    def is_repeated(self, sensor_id: str, at: float, *, state: bool) -> bool:
        """Return whether a state is a repetition; if not, remember it.

        Args:
            at: time in epoch seconds.
        """
        before, since = self._last.get(sensor_id, (not state, at))
        if before is state and 0 <= at - since < self._repeat_seconds:
            return True
        if len(self._last) >= _MOST_MOTION_SENSORS:  # more than a house has
            self._last.clear()
        self._last[sensor_id] = state, at
        return False


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


@dataclass(frozen=True, slots=True)
class Normalised:
    """Result of normalising one message.

    Every value of the message is in exactly one of: a record of ``messages``,
    ``counted``, ``faults``, ``described``.

    Attributes:
        messages: to be published.
        dead: reason of the dead letter, if there is one. A message with good and bad
            values has both ``messages`` and ``dead``.
        counted: reason and name → number of values skipped on purpose; an empty name is
            the message as a whole.
        remarks: reason and name → number of implausible times; their values were used.
        faults: number of values that could not be read.
        described: number of values that describe others: a time, a unit or an address.
    """

    messages: tuple[Outgoing, ...] = ()
    dead: Dead | None = None
    counted: ValueCounts = field(default_factory=Counter)
    remarks: ValueCounts = field(default_factory=Counter)
    faults: int = 0
    described: int = 0

    @property
    def skipped(self) -> Counter[str]:
        """Return reason → number skipped."""
        found: Counter[str] = Counter()
        for (reason, _name), count in self.counted.items():
            found[reason] += count
        return found


class Normaliser:
    """Normalises messages in the order of their receipt.

    Args:
        announcements: entities announced so far; discovery messages update them.
    """

    def __init__(self, config: SensorNet, announcements: Announcements) -> None:
        self._config = config
        self._announcements = announcements
        self._motion = RepeatedMotion(config.motion_repeat_seconds)

    def normalise(self, published: Published) -> Normalised:
        """Return the records of a device's message.

        It never raises: a message that cannot be read is dead, with the reason.
        """
        try:
            report = self._read(published)
            if isinstance(report, Ignored):
                return Normalised(counted=Counter([(report.reason, "")]))
            return self._normalised(published, report)
        except InvalidMessage as error:
            return Normalised(dead=Dead(str(error), type(error).__name__))
        except Exception as error:
            # A bug must not end the producer: the message would be redelivered, and
            # would block all later ones.
            key = published.routing_key
            logger.exception("a message of %s was not understood", key)
            reason = f"an unforeseen {type(error).__name__} while it was read"
            return Normalised(dead=Dead(reason, type(error).__name__))

    def _read(self, published: Published) -> MessageReport | Ignored:
        key = published.routing_key
        source = self._config.source_of(key)
        if source is None:
            message = f"no source in sensornet.yaml has the topic of {key}"
            raise SchemaMismatch(message)
        levels = source.levels_of(key)
        if not any(levels):
            return Ignored("no device")
        if source.format == "discovery":
            found = discovery.parse(levels, published.body)
            if isinstance(found, Ignored):
                return found
            has_room = self._announcements.put(key, found)
            return Ignored("discovery" if has_room else "one announcement too many")
        if not published.body.strip():
            return Ignored("cleared")  # an empty message deletes a retained one
        announced = self._announcements.at(key)
        payload = formats.parse(source, levels, published.body, announced)
        if isinstance(payload, Ignored):
            return payload
        everything: list[tuple[Path, Announced]] = [((), each) for each in announced]
        for elsewhere, path in payload.elsewhere.items():
            everything += [(path, each) for each in self._announcements.at(elsewhere)]
        return read(payload, everything)

    def _normalised(self, published: Published, report: MessageReport) -> Normalised:
        device = report.payload.device
        announced = self._announcements.at(published.routing_key)
        own = self._config.devices_by_name.get(name(device), _NO_DEVICE)
        records = MessageRecords(published, report, self._config.zone)
        of_topic = self._called(device, own, announced)
        for reading in report.readings:
            called, location = of_topic
            if reading.entity:
                called, location = self._called(device, own, [reading.entity])
            sensor = Sensor(records.sensor_id(called, reading), location)
            self._add(records, sensor, reading, own)
        messages = tuple(records.messages())
        counted = +records.counted
        if not messages and not report.faults and not counted:
            counted["no reading", ""] += 1
        return Normalised(
            messages,
            _dead(report.faults),
            counted,
            records.remarks,
            len(report.faults),
            report.described,
        )

    def _called(
        self, device: str, own: Device, announced: Sequence[Announced]
    ) -> tuple[str, str]:
        """Return name and location of a device that announced these entities."""
        called = own.name or self._announcements.device_name(announced) or device
        area = next((each.area for each in announced if each.area), "")
        return called, own.location or area

    def _add(
        self, records: MessageRecords, sensor: Sensor, reading: Reading, own: Device
    ) -> None:
        """Add a reading to the records, or count it as skipped."""
        kind, value = reading.kind, reading.value
        destination = self._config.kinds.get(kind.name, "ignore")
        if destination == "ignore":
            records.count(f"kind {kind.name}", reading)
        elif isinstance(value, str):
            records.add_event(sensor, reading, value)
        elif kind.form == "number":
            self._add_number(records, sensor, reading, own)
        elif destination == "metrics":
            records.add_field(sensor, reading, bool(value))
        elif kind.name == "motion" and self._motion.is_repeated(
            sensor.id, records.published.received_at, state=bool(value)
        ):
            records.count("repeated motion", reading)
        else:
            records.add_reading(sensor, reading, {kind.name: bool(value)})

    def _add_number(
        self, records: MessageRecords, sensor: Sensor, reading: Reading, own: Device
    ) -> None:
        kind, value = reading.kind, float(reading.value)
        configured = own.units.get(kind.name)
        unit = reading.meaning.unit or configured or reading.meaning.usual or kind.unit
        try:
            converted = kind.converted(value, unit)
        except UnknownUnit:
            records.count(UNIT, reading, unit)
            return
        if value in kind.no_value or converted in kind.no_value:
            records.count(UNAVAILABLE, reading)
        elif not kind.lowest <= converted <= kind.highest:
            records.count(_IMPOSSIBLE, reading)
        elif self._config.kinds[kind.name] == "metrics":
            records.add_field(sensor, reading, converted)
        else:
            records.add_reading(sensor, reading, {"value": value, "unit": unit})


def _dead(faults: Sequence[InvalidMessage]) -> Dead | None:
    if not faults:
        return None
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Dead(f"{first}{more}", type(first).__name__)
