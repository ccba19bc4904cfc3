"""One module per vendor: a function of levels and body gives a
:class:`~meshtasks.producers.sensornet.payload.Payload` or the reason why there is none.

``levels`` are those of the topic behind the fixed beginning of its source, of
``zigbee2mqtt/kitchen/lamp`` for ``zigbee2mqtt/#`` thus ``kitchen`` and ``lamp``. A
body that ought to hold readings and cannot be read raises
:class:`~meshtasks.errors.InvalidMessage`. Two values of a device that may
differ have different kinds or parts, whatever else a message holds: each is a series
of its own for ever.
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
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
    json_of,
)

_NOT_ANNOUNCED = "not announced"


def _parse_number(source: Source, levels: Sequence[str], body: bytes) -> Payload:
    """The value of a topic whose kind the configuration gives."""
    # The configuration has seen to it that there is a kind.
    meaning = Meaning(source.kind or "", unit=source.unit)

    def judge(path: Path, _raw: object) -> Judgement:
        return Passed() if path else meaning

    return Payload("/".join(levels), document_of(body), judge)


def _parse_announced(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """The values of a topic that a discovery message describes."""
    if not announced:
        return Ignored(_NOT_ANNOUNCED)
    templates = [entity.template for entity in announced]
    # What is computed in a way that is not understood may be made of anything.
    others = COMPUTED if any(not each.paths for each in templates) else _NOT_ANNOUNCED

    def judge(_path: Path, _raw: object) -> Judgement:
        return Passed(others)

    inside = any(path for each in templates for path in each.paths)
    document = json_of(body) if inside else document_of(body)
    return Payload("/".join(levels), document, judge, name=levels[-1] or "the body")


def _parse_esphome(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """ESPHome's ``<node>/sensor/<object>/state``: a bare number or ``ON``.

    Topics: https://esphome.io/components/mqtt.html. What it is a number of stands in
    the discovery message (on by default), or else in the object's name."""
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
    """What a source's format makes of a message. What it does not know, and cannot
    read, may still be announced.

    Raises:
        InvalidMessage: the body is not as it should be.
    """
    if source.format == "number":
        return _parse_number(source, levels, body)
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
        with suppress(InvalidMessage):  # it need not be of what is announced there
            return _parse_announced(levels, body, announced)
    return payload
