"""One message of a device becomes messages of the mesh; no I/O.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, SchemaMismatch, UnknownUnit
from meshtasks.outcome import Dead
from meshtasks.text import clip
from producers.buffer import encode
from producers.sensornet import discovery
from producers.sensornet.announcements import Announcements
from producers.sensornet.config import EVENTS_EXCHANGE, Device, SensorNet, Source
from producers.sensornet.discovery import Announced
from producers.sensornet.formats import (
    announced as announced_format,
)
from producers.sensornet.formats import (
    esphome,
    shelly_gen1,
    shelly_gen2,
    tasmota,
    zigbee2mqtt,
)
from producers.sensornet.payload import (
    UNAVAILABLE,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
)
from producers.sensornet.records import Motions, NotBelieved, moment
from producers.sensornet.report import UNIT, Counts, Reading, Report, read
from producers.sensornet.words import name, word

logger = logging.getLogger(__name__)

#: Format → what reads it.
_VENDORS: Mapping[str, Callable[[Sequence[str], bytes], Payload | Ignored]] = {
    "zigbee2mqtt": zigbee2mqtt.parse,
    "tasmota": tasmota.parse,
    "shelly_gen1": shelly_gen1.parse,
    "shelly_gen2": shelly_gen2.parse,
    "esphome": esphome.parse,
}

_NO_DEVICE = Device()

#: Name of the metrics of devices.
METRIC = "device"

_IMPOSSIBLE = "value that cannot be"
#: What no tag of a point can hold, nor a text field.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]+")
_LONGEST_LOCATION_CHARS = 100


class Published(NamedTuple):
    """What a device published.

    Attributes:
        routing_key: its topic, as the MQTT plugin translates it.
        body: as it was sent.
        received_at: epoch seconds.
    """

    routing_key: str
    body: bytes
    received_at: float


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
        described: how many say a time, a unit or an address of others.
    """

    messages: tuple[Outgoing, ...] = ()
    dead: Dead | None = None
    counted: Counts = field(default_factory=Counter)
    remarks: Counts = field(default_factory=Counter)
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
        config: config/producers/sensornet.yaml.
        announcements: what devices said of themselves so far; added to.
    """

    def __init__(self, config: SensorNet, announcements: Announcements) -> None:
        self._config = config
        self._announcements = announcements
        self._motions = Motions(config.motion_repeat_seconds)

    def normalise(self, published: Published) -> Normalised:
        """The mesh's messages for one of a device's.

        Never raises: whatever cannot be read is dead, with the reason.
        """
        try:
            report = self._read(published)
            if isinstance(report, Ignored):
                return Normalised(counted=Counter([(report.reason, "")]))
            return self._messages(published, report)
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

    def _read(self, published: Published) -> Report | Ignored:
        key = published.routing_key
        source = self._config.source_of(key)
        if source is None:
            message = f"no source in sensornet.yaml has the topic of {key}"
            raise SchemaMismatch(message)
        levels = source.levels_of(key)
        if not any(levels):
            return Ignored("no device")
        if source.format == "discovery":
            return self._announced(key, levels, published.body)
        if not published.body.strip():
            return Ignored("cleared")  # a retained message was withdrawn
        announced = self._announcements.at(key)
        payload = _parsed(source, levels, published.body, announced)
        if isinstance(payload, Ignored):
            return payload
        everything: list[tuple[Path, Announced]] = [((), each) for each in announced]
        for elsewhere, path in payload.elsewhere.items():
            everything += [(path, each) for each in self._announcements.at(elsewhere)]
        return read(payload, everything)

    def _announced(self, key: str, levels: Sequence[str], body: bytes) -> Ignored:
        found = discovery.parse(levels, body)
        if isinstance(found, Ignored):
            return found
        has_room = self._announcements.put(key, found)
        return Ignored("discovery" if has_room else "one announcement too many")

    def _messages(self, published: Published, report: Report) -> Normalised:
        device = report.payload.device
        announced = self._announcements.at(published.routing_key)
        own = self._config.devices_by_name.get(name(device), _NO_DEVICE)
        making = _Making(published, self._config, report)
        of_topic = self._called(device, own, announced)
        for reading in report.readings:
            called, location = (
                self._called(device, own, [reading.entity])
                if reading.entity
                else of_topic
            )
            self._make(making, reading, own, called, location)
        messages = tuple(making.addressed())
        counted = +making.counted
        if not messages and not report.faults and not counted:
            counted["no reading", ""] += 1
        return Normalised(
            messages,
            _dead(report.faults),
            counted,
            making.remarks,
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

    def _make(
        self,
        making: _Making,
        reading: Reading,
        own: Device,
        device: str,
        location: str,
    ) -> None:
        """One reading becomes a message, a field of one, or is counted."""
        kind, value = reading.kind, reading.value
        destination = self._config.kinds.get(kind.name, "ignore")
        sensor_id = making.sensor_id(device, reading)
        if destination == "ignore":
            making.count(f"kind {kind.name}", reading)
        elif isinstance(value, str):
            making.event(sensor_id, reading, value, location)
        elif kind.form == "state":
            if (
                destination == "sensors"
                and kind.name == "motion"
                and self._motions.is_repeated(
                    sensor_id, making.published.received_at, state=bool(value)
                )
            ):
                making.count("repeated motion", reading)
            else:
                making.value(destination, sensor_id, reading, bool(value), "", location)
        else:
            configured = own.units.get(kind.name)
            unit = reading.unit or configured or reading.usual or kind.unit
            try:
                converted = kind.converted(value, unit)
            except UnknownUnit:
                making.count(UNIT, reading, unit)
                return
            if value in kind.no_value or converted in kind.no_value:
                making.count(UNAVAILABLE, reading)
            elif not kind.lowest <= converted <= kind.highest:
                making.count(_IMPOSSIBLE, reading)
            else:
                said = value if destination == "sensors" else converted
                making.value(destination, sensor_id, reading, said, unit, location)


class _Making:
    """The messages of the mesh that come of one message of a device."""

    def __init__(self, published: Published, config: SensorNet, report: Report) -> None:
        self.published = published
        self.counted = report.counted
        self.remarks: Counts = Counter()
        self._zone = config.zone
        self._received_at = round(published.received_at, 3)  # as points have it
        self._stamp = report.payload.stamp
        self._time = self._moment(self._stamp, "time of the device")
        self._taken: set[tuple[str, str]] = set()
        self._outgoing: list[tuple[str, str, dict[str, Any]]] = []
        self._metrics: dict[tuple[str, float], dict[str, Any]] = {}

    def count(self, reason: str, reading: Reading, detail: str = "") -> None:
        """Pass a reading over."""
        shown = f"{reading.name} ({clip(detail, 30)})" if detail else reading.name
        self.counted[reason, shown] += 1

    def sensor_id(self, device: str, reading: Reading) -> str:
        """The name of a reading's sensor, which no other of its kind has here."""
        found = name(device, reading.part)
        if (found, reading.kind.name) in self._taken:
            found = name(device, reading.part, word(reading.name))
        number = 1
        distinct = found
        while (distinct, reading.kind.name) in self._taken:
            number += 1
            distinct = f"{found}-{number}"
        self._taken.add((distinct, reading.kind.name))
        return distinct

    def event(
        self, sensor_id: str, reading: Reading, happened: str, location: str
    ) -> None:
        """Something that happened."""
        record = {
            "automation": f"device.{sensor_id}",
            "trigger": writable(happened),
            "sensor_id": sensor_id,
            **self._shared(reading, location),
        }
        key = f"home.device.{sensor_id.replace('.', '_')}.trigger"
        self._outgoing.append((EVENTS_EXCHANGE, key, record))

    def value(
        self,
        destination: str,
        sensor_id: str,
        reading: Reading,
        value: float,
        unit: str,
        location: str,
    ) -> None:
        """A value, true and false among them, as a reading or in a metric."""
        shared = self._shared(reading, location)
        kind = reading.kind
        if destination == "metrics":
            metric = self._metrics.setdefault(
                (sensor_id, shared["timestamp"]),
                {
                    "name": METRIC,
                    "fields": {},
                    "tags": {"sensor_id": sensor_id} | _without_time(shared),
                    "timestamp": shared["timestamp"],
                },
            )
            metric["fields"][kind.field] = value
            return
        said = {"value": value, "unit": unit}
        if kind.form == "state":
            said = {kind.name: value}
        key = f"sensors.{kind.name}.{sensor_id}"
        self._outgoing.append(
            ("sensors", key, {"sensor_id": sensor_id, **said, **shared})
        )

    def addressed(self) -> Iterator[Outgoing]:
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
        for place, (exchange, key, record) in enumerate(everything):
            time = record["timestamp"]
            message_id = f"{round(time * 1000):012x}-{digest.hexdigest()}-{place}"
            yield Outgoing(exchange, key, encode(record), message_id, time)

    def _shared(self, reading: Reading, location: str) -> dict[str, Any]:
        """What every record has."""
        time = self._time
        if reading.stamp is not None:
            time = self._moment(reading.stamp, f"time of {reading.name}") or time
        shared: dict[str, Any] = {"timestamp": time or self._received_at}
        if location := writable(location)[:_LONGEST_LOCATION_CHARS].strip():
            shared["location"] = location
        return shared

    def _moment(self, stamp: object, called: str) -> float | None:
        try:
            found = moment(stamp, self.published.received_at, self._zone)
        except NotBelieved:
            self.remarks["clock not believed", called] += 1
            return None
        return None if found is None else round(found, 3)


def _parsed(
    source: Source, levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """What a source's format makes of a message. What it does not know, and cannot
    read, may still be announced.

    Raises:
        InvalidMessage: the body is not as it should be.
    """
    if source.format == "number":
        return _number(source, levels, body)
    vendor = _VENDORS.get(source.format)
    if vendor is None:
        return announced_format.parse(levels, body, announced)
    try:
        payload = vendor(levels, body)
    except InvalidMessage:
        if not announced:
            raise
        return announced_format.parse(levels, body, announced)
    if isinstance(payload, Ignored) and announced:
        with suppress(InvalidMessage):  # it need not be of what is announced there
            return announced_format.parse(levels, body, announced)
    return payload


def _number(source: Source, levels: Sequence[str], body: bytes) -> Payload:
    # The configuration has seen to it that there is a kind.
    meaning = Meaning(source.kind or "", unit=source.unit)

    def judge(path: Path, _raw: object) -> Judgement:
        return Passed() if path else meaning

    return Payload("/".join(levels), document_of(body), judge)


def _without_time(shared: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shared.items() if key != "timestamp"}


def writable(text: str) -> str:
    """A text that points can hold: without control characters and backslashes."""
    return _UNWRITABLE.sub(" ", text).strip()


def _dead(faults: Sequence[InvalidMessage]) -> Dead | None:
    if not faults:
        return None
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Dead(f"{first}{more}", type(first).__name__)
