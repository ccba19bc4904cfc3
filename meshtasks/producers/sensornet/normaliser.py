"""One message of a device becomes records of the mesh, with names, times and ids; no
I/O.

A reading whose kind goes to ``sensors`` is a message of its own,
``sensors.<kind>.<name>``, in the device's unit. All others of the same sensor that go
to ``metrics`` are one metric, ``metrics.system.<name>.device``, in the units that its
fields name. What happened, a button that was pressed, starts automations:
``home.device.<name>.trigger``.
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
from meshtasks.producers.sensornet.config import EVENTS_EXCHANGE, Device, SensorNet
from meshtasks.producers.sensornet.discovery import Announced, Announcements
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

#: Nothing is measured after it was received; clocks differ by as much.
_AHEAD_LIMIT_SECONDS = 300.0
#: What is older was not measured then: the clock is wrong, or the value repeats an
#: old time.
_BEHIND_LIMIT_SECONDS = 30 * 86_400.0
#: What no tag of a point can hold, nor a text field.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]+")
_LONGEST_LOCATION_CHARS = 100
_MOST_MOTION_SENSORS = 10_000


class NotBelieved(ValueError):
    """A device's clock is wrong, or gives no time that can be read."""


def moment(stamp: object, received_at: float, zone: ZoneInfo | None) -> float | None:
    """The moment a device's timestamp stands for, epoch seconds.

    Args:
        stamp: as of :class:`~meshtasks.producers.sensornet.payload.Payload`.
        received_at: epoch seconds.
        zone: of times that name none; without one those are passed over.

    Returns:
        None when there is no timestamp.

    Raises:
        NotBelieved: there is one, but no device has measured then; a clock that was
            never set counts from 1970. A reading is worth more than its device's
            clock.
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
    """A time that perhaps names no zone; of the hour that autumn repeats, the one
    nearer to the receipt. None without any zone.

    Raises:
        ValueError, OverflowError: it is not a time.
    """
    local = datetime.fromisoformat(text)
    if local.tzinfo is None:
        if zone is None:
            return None
        local = local.replace(tzinfo=zone)
    moments = [local.replace(fold=fold).timestamp() for fold in (0, 1)]
    return min(moments, key=lambda seconds: abs(seconds - received_at))


def writable(text: str) -> str:
    """A text that points can hold: without control characters and backslashes."""
    return _UNWRITABLE.sub(" ", text).strip()


class RepeatedMotion:
    """Remembers the last state of each motion sensor.

    Zigbee2MQTT repeats ``"occupancy": true`` with every change of the light, and each
    would start a workflow. Sensors that never send false count again after a while.

    Args:
        repeat_seconds: how long the same state is a repetition.
    """

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._last: dict[str, tuple[bool, float]] = {}

    def is_repeated(self, sensor_id: str, at: float, *, state: bool) -> bool:
        """Whether the sensor had this state within the time; else it is remembered,
        with the epoch seconds."""
        before, since = self._last.get(sensor_id, (not state, at))
        if before is state and 0 <= at - since < self._repeat_seconds:
            return True
        if len(self._last) >= _MOST_MOTION_SENSORS:  # of names that are made up
            self._last.clear()
        self._last[sensor_id] = state, at
        return False


class Published(NamedTuple):
    """What a device published.

    Attributes:
        routing_key: its topic, as the MQTT plugin translates it.
        received_at: epoch seconds.
    """

    routing_key: str
    body: bytes
    received_at: float


class Sensor(NamedTuple):
    """Name and location of what gave a reading; the location may be empty."""

    id: str
    location: str


class MessageRecords:
    """The records that come of one message of a device.

    Attributes:
        counted: values that are passed over, by reason and name.
        remarks: the same of what was not believed though something became of it.
    """

    def __init__(
        self, published: Published, report: MessageReport, zone: ZoneInfo | None
    ) -> None:
        self.published = published
        self.counted = report.counted
        self.remarks: ValueCounts = Counter()
        self._zone = zone
        self._received_at = round(published.received_at, 3)  # as points have it
        self._time = self._moment(report.payload.stamp, "time of the device")
        self._taken: set[tuple[str, str]] = set()
        self._outgoing: list[tuple[str, str, dict[str, Any]]] = []
        self._metrics: dict[tuple[str, float], dict[str, Any]] = {}

    def count(self, reason: str, reading: Reading, detail: str = "") -> None:
        """Pass a reading over."""
        shown = f"{reading.name} ({clip(detail, 30)})" if detail else reading.name
        self.counted[reason, shown] += 1

    def sensor_id(self, device: str, reading: Reading) -> str:
        """The name of a reading's sensor, which no other of its kind has here."""
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
        """Something that happened."""
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
        """A reading for ``sensors``: its value and unit, or its state."""
        key = f"sensors.{reading.kind.name}.{sensor.id}"
        shared = self._shared(sensor, reading)
        record = {"sensor_id": sensor.id, **values, **shared}
        self._outgoing.append(("sensors", key, record))

    def add_field(self, sensor: Sensor, reading: Reading, value: float) -> None:
        """A field of the sensor's metric."""
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
        """The messages with ids that follow from what was published and when.

        So a message that a device or the broker delivers twice, with a time of its own,
        has the same ids both times.
        """
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
        """What every record has."""
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
    """What becomes of a device's message.

    Every value of the message is in a reading, a field of a metric or an event, or it
    is counted, or one of ``faults``, or it describes others.

    Attributes:
        messages: to be published.
        dead: why it goes to the dead letters too, if it does. One with a bad value
            among good ones has both.
        counted: reason and name → how many values of it, or messages as a whole (with
            an empty name), were passed over on purpose.
        remarks: the same of what was not believed though something became of it.
        faults: how many values could not be read.
        described: how many are a time, a unit or an address of others.
    """

    messages: tuple[Outgoing, ...] = ()
    dead: Dead | None = None
    counted: ValueCounts = field(default_factory=Counter)
    remarks: ValueCounts = field(default_factory=Counter)
    faults: int = 0
    described: int = 0

    @property
    def skipped(self) -> Counter[str]:
        """Reason → how many were passed over."""
        found: Counter[str] = Counter()
        for (reason, _name), count in self.counted.items():
            found[reason] += count
        return found


class Normaliser:
    """Normalises messages, one after the other, in the order they came.

    Args:
        announcements: what devices announced so far; added to.
    """

    def __init__(self, config: SensorNet, announcements: Announcements) -> None:
        self._config = config
        self._announcements = announcements
        self._motion = RepeatedMotion(config.motion_repeat_seconds)

    def normalise(self, published: Published) -> Normalised:
        """The mesh's messages for one of a device's.

        Never raises: whatever cannot be read is dead, with the reason.
        """
        try:
            report = self._read(published)
            if isinstance(report, Ignored):
                return Normalised(counted=Counter([(report.reason, "")]))
            return self._normalised(published, report)
        except InvalidMessage as error:
            return Normalised(dead=Dead(str(error), type(error).__name__))
        except Exception as error:
            # A fault of this program must not end it: the message would come again,
            # and no other would get past it.
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
            return Ignored("cleared")  # a retained message was withdrawn
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
        """Name and location of a device that announced these entities."""
        called = own.name or self._announcements.device_name(announced) or device
        area = next((each.area for each in announced if each.area), "")
        return called, own.location or area

    def _add(
        self, records: MessageRecords, sensor: Sensor, reading: Reading, own: Device
    ) -> None:
        """One reading becomes a message, a field of one, or is counted."""
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
