"""One message of a device becomes messages of the mesh; no I/O.

A reading whose kind goes to ``sensors`` is a message of its own,
``sensors.<kind>.<name>``, in the device's unit. All others of the same sensor that go
to ``metrics`` are one metric, ``metrics.system.<name>.device``, in the units that its
fields name.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshtasks.domain.errors import InvalidMessage, SchemaMismatch
from meshtasks.domain.outcome import Dead
from meshtasks.messaging.publisher import Outgoing
from producers.arrays import encode
from producers.sensornet import discovery
from producers.sensornet.announcements import Announcements
from producers.sensornet.clock import moment
from producers.sensornet.config import Device, SensorNet, Source
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
from producers.sensornet.motion import Motions
from producers.sensornet.naming import name
from producers.sensornet.payload import text_of
from producers.sensornet.report import Ignored, Reading, Report

#: Format → what reads it.
_VENDORS: Mapping[str, Callable[[Sequence[str], bytes], Report | Ignored]] = {
    "zigbee2mqtt": zigbee2mqtt.parse,
    "tasmota": tasmota.parse,
    "shelly_gen1": shelly_gen1.parse,
    "shelly_gen2": shelly_gen2.parse,
}
#: The same, for formats that say little without the device's discovery messages.
_ANNOUNCERS: Mapping[
    str, Callable[[Sequence[str], bytes, Sequence[Announced]], Report | Ignored]
] = {"esphome": esphome.parse, "announced": announced_format.parse}

_NO_DEVICE = Device()

#: Name of the metrics of devices.
METRIC = "device"


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

    Attributes:
        messages: to be published.
        dead: why it goes to the dead letters too, if it does. One with a bad value
            among good ones has both.
        skipped: reason → how many values, or messages without a value, were passed
            over on purpose.
    """

    messages: tuple[Outgoing, ...] = ()
    dead: Dead | None = None
    skipped: Counter[str] = field(default_factory=Counter)


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
        except InvalidMessage as error:
            return Normalised(dead=Dead(str(error), type(error).__name__))
        if isinstance(report, Ignored):
            return Normalised(skipped=Counter([report.reason]))
        return self._messages(published, report)

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
            found = discovery.parse(levels, published.body)
            if isinstance(found, Ignored):
                return found
            self._announcements.put(key, found)
            return Ignored("discovery")
        if not published.body.strip():
            return Ignored("cleared")  # a retained message was withdrawn
        return self._parsed(source, levels, published)

    def _parsed(
        self, source: Source, levels: Sequence[str], published: Published
    ) -> Report | Ignored:
        body = published.body
        if parse := _VENDORS.get(source.format):
            return parse(levels, body)
        if source.format == "number":
            return _number(source, levels, body)
        announced = self._announcements.at(published.routing_key)
        return _ANNOUNCERS[source.format](levels, body, announced)

    def _messages(self, published: Published, report: Report) -> Normalised:
        announced = self._announcements.at(published.routing_key)
        own = self._config.devices_by_name.get(name(report.device), _NO_DEVICE)
        device = own.name or self._announcements.device_name(announced)
        location = own.location or next((a.area for a in announced if a.area), "")
        measured_at = moment(report.stamp, published.received_at, self._config.zone)
        timestamp = round(measured_at or published.received_at, 3)  # as points have it
        shared: dict[str, Any] = {"timestamp": timestamp}
        if location:
            shared["location"] = location
        skipped = Counter({"unavailable": report.unavailable})
        faults = list(report.faults)
        outgoing: list[tuple[str, str, dict[str, Any]]] = []
        metrics: dict[str, dict[str, float | bool]] = defaultdict(dict)
        for reading in report.readings:
            kind = reading.kind
            sensor_id = name(device or report.device, reading.part)
            unit = reading.unit or _unit(reading, own, announced)
            match self._config.kinds.get(kind.name, "ignore"):
                case "ignore":
                    skipped[f"kind {kind.name}"] += 1
                case "sensors" if kind.name == "motion" and self._motions.is_repeated(
                    sensor_id, published.received_at, state=bool(reading.value)
                ):
                    skipped["repeated motion"] += 1
                case "sensors":
                    values = _record(reading, unit)
                    record = {"sensor_id": sensor_id, **values, **shared}
                    key = f"sensors.{kind.name}.{sensor_id}"
                    outgoing.append(("sensors", key, record))
                case _:
                    try:
                        value = _metric_value(reading, unit)
                    except InvalidMessage as error:
                        faults.append(error)
                    else:
                        metrics[sensor_id][kind.field] = value
        outgoing += _metrics(metrics, shared)
        if not outgoing and not faults and not skipped.total():
            skipped["no reading"] += 1
        messages = _addressed(outgoing, published, shared["timestamp"])
        return Normalised(tuple(messages), _dead(faults), +skipped)


def _number(source: Source, levels: Sequence[str], body: bytes) -> Report:
    report = Report("/".join(levels))
    kind = source.kind or ""  # the configuration has seen to it that there is one
    report.add(kind, text_of(body), "the body", unit=source.unit)
    return report


def _unit(reading: Reading, own: Device, announced: Sequence[Announced]) -> str:
    """The unit of a reading that names none."""
    kind = reading.kind
    configured = own.units.get(kind.name)
    said = (each.unit for each in announced if each.kind == kind.name and each.unit)
    return configured or next(said, None) or kind.unit


def _record(reading: Reading, unit: str) -> dict[str, Any]:
    if reading.kind.is_state:
        return {reading.kind.name: reading.value}
    return {"value": reading.value, "unit": unit}


def _metric_value(reading: Reading, unit: str) -> float | bool:
    if reading.kind.is_state:
        return reading.value
    return reading.kind.converted(reading.value, unit)


def _metrics(
    metrics: dict[str, dict[str, float | bool]], shared: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for sensor_id, fields in metrics.items():
        tags = {"sensor_id": sensor_id}
        if location := shared.get("location"):
            tags["location"] = location
        record = {
            "name": METRIC,
            "fields": fields,
            "tags": tags,
            "timestamp": shared["timestamp"],
        }
        yield "metrics", f"metrics.system.{sensor_id}.{METRIC}", record


def _addressed(
    outgoing: Sequence[tuple[str, str, dict[str, Any]]],
    published: Published,
    timestamp: float,
) -> Iterator[Outgoing]:
    """The messages with ids that follow from what was published and when.

    So a message that a device or the broker delivers twice, with a time of its own,
    has the same ids both times.
    """
    digest = hashlib.blake2b(published.body, digest_size=8)
    digest.update(published.routing_key.encode("utf-8", "surrogatepass"))
    for place, (exchange, key, record) in enumerate(outgoing):
        message_id = f"{round(timestamp * 1000):012x}-{digest.hexdigest()}-{place}"
        yield Outgoing(exchange, key, encode(record), message_id, timestamp)


def _dead(faults: Sequence[InvalidMessage]) -> Dead | None:
    if not faults:
        return None
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Dead(f"{first}{more}", type(first).__name__)
