"""One message of a device becomes messages of the mesh; no I/O."""

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
from meshtasks.producers.sensornet.payload import UNAVAILABLE, Ignored, Path
from meshtasks.producers.sensornet.records import (
    MessageRecords,
    Published,
    RepeatedMotion,
    Sensor,
)
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
            logger.exception(
                "a message of %s was not understood", published.routing_key
            )
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
            called, location = (
                self._called(device, own, [reading.entity])
                if reading.entity
                else of_topic
            )
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
        unit = reading.unit or configured or reading.usual or kind.unit
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
