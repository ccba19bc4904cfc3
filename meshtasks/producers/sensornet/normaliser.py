"""Turns messages of devices into records, or says why not; no I/O."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, SchemaMismatch, UnknownUnit
from meshtasks.outcome import Dead
from meshtasks.producers.sensornet import discovery, formats
from meshtasks.producers.sensornet.announcements import Announcements
from meshtasks.producers.sensornet.config import Device, SensorNet
from meshtasks.producers.sensornet.discovery import Announced
from meshtasks.producers.sensornet.kinds import name
from meshtasks.producers.sensornet.message_records import (
    MessageRecords,
    Published,
    Sensor,
)
from meshtasks.producers.sensornet.payload import UNAVAILABLE, Ignored, Path
from meshtasks.producers.sensornet.report import (
    UNIT,
    MessageReport,
    Reading,
    ValueCounts,
    read,
)

logger = logging.getLogger(__name__)

_NO_DEVICE = Device()
_IMPOSSIBLE = "value that cannot be"

_MOST_MOTION_SENSORS = 10_000


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
