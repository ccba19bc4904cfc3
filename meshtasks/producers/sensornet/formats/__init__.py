"""Formats of vendors, one module each.

A format is a function of levels and body. It returns a
:class:`~meshtasks.producers.sensornet.payload.Payload`, or the reason for having none.
``levels`` are the topic's levels after the fixed beginning of its source:
``zigbee2mqtt/kitchen/lamp`` with the source ``zigbee2mqtt/#`` gives ``kitchen`` and
``lamp``. It raises :class:`~meshtasks.errors.InvalidMessage` for a body that should
contain readings but cannot be read. Values of a device that may differ must have
different kinds or parts, whatever else a message contains, because each is a permanent
series of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from meshtasks.errors import InvalidMessage
from meshtasks.producers.sensornet.config import Source
from meshtasks.producers.sensornet.discovery import Announced
from meshtasks.producers.sensornet.formats import shelly, tasmota, zigbee2mqtt
from meshtasks.producers.sensornet.kinds import kind_in_name
from meshtasks.producers.sensornet.payload import (
    COMPUTED,
    DeviceTime,
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
    json_of,
    object_of,
    value_at,
)

_NOT_ANNOUNCED = "not announced"
_NOT_CONFIGURED = "not configured"


def _parse_number(source: Source, levels: Sequence[str], body: bytes) -> Payload:
    """Parse the value of a topic whose kind is configured."""
    # The model of the configuration requires a kind here.
    meaning = Meaning(source.kind or "", unit=source.unit)

    def judge(path: Path, _raw: object) -> Judgement:
        return Passed() if path else meaning

    return Payload("/".join(levels), document_of(body), judge)


def _parse_json(source: Source, levels: Sequence[str], body: bytes) -> Payload:
    """Parse an object whose values are configured by their paths."""
    document = object_of(body)

    def judge(path: Path, _raw: object) -> Judgement:
        place = ".".join(path)
        if place == source.time:
            return None
        return source.meanings.get(place) or Passed(_NOT_CONFIGURED)

    time = value_at(document, tuple(source.time.split(".")))
    stamp = DeviceTime(time) if isinstance(time, str) else time
    return Payload("/".join(levels), document, judge, stamp)


def _parse_announced(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """Parse the values of a topic that is announced by discovery."""
    if not announced:
        return Ignored(_NOT_ANNOUNCED)
    templates = [entity.template for entity in announced]
    # A template that is not understood may read any of the values.
    others = COMPUTED if any(not each.paths for each in templates) else _NOT_ANNOUNCED

    def judge(_path: Path, _raw: object) -> Judgement:
        return Passed(others)

    inside = any(path for each in templates for path in each.paths)
    document = json_of(body) if inside else document_of(body)
    return Payload("/".join(levels), document, judge, name=levels[-1] or "the body")


def _parse_esphome(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """Parse ESPHome's ``<node>/sensor/<object>/state``: a bare number, or ``ON``.

    Topics: https://esphome.io/components/mqtt.html. The kind is in the discovery
    message (sent by default), else it is guessed from the object's name.
    """
    match list(levels):
        case [*_, "status"]:
            return Ignored("availability")
        case [*device, "sensor" | "binary_sensor" as component, sensor, "state"]:
            pass
        case _:
            return Ignored("no reading")
    kind = kind_in_name(sensor, is_binary=component == "binary_sensor")

    def judge(path: Path, _raw: object) -> Judgement:
        if kind is None or path:
            return Passed(part=sensor)
        return Meaning(kind, part=sensor, is_guess=True)

    return Payload("/".join(device), document_of(body), judge, name=sensor)


_VENDORS: Mapping[str, Callable[[Sequence[str], bytes], Payload | Ignored]] = {
    "zigbee2mqtt": zigbee2mqtt.parse,
    "tasmota": tasmota.parse,
    "shelly_gen1": shelly.parse_gen1,
    "shelly_gen2": shelly.parse_gen2,
    "esphome": _parse_esphome,
}


def parse(
    source: Source, levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """Parse a message in the format of its source.

    If the format does not know the topic, or cannot read the body, announcements apply.

    Raises:
        InvalidMessage: the body cannot be read.
    """
    if source.format == "number":
        return _parse_number(source, levels, body)
    if source.format == "json":
        return _parse_json(source, levels, body)
    vendor = _VENDORS.get(source.format)
    if vendor is None:
        return _parse_announced(levels, body, announced)
    try:
        payload = vendor(levels, body)
    except InvalidMessage:
        if not announced:
            raise
        return _parse_announced(levels, body, announced)
    if isinstance(payload, Ignored) and announced:
        with suppress(InvalidMessage):  # the topic may carry other messages as well
            return _parse_announced(levels, body, announced)
    return payload
