"""Single values whose kind is configured, announced, or in a name."""

from __future__ import annotations

from collections.abc import Sequence

from producers.sensornet.config import Source
from producers.sensornet.discovery import Announced
from producers.sensornet.payload import (
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
from producers.sensornet.words import kind_in_name

_NOT_ANNOUNCED = "not announced"


def parse_number(source: Source, levels: Sequence[str], body: bytes) -> Payload:
    """The value of a topic whose kind the configuration gives.

    Raises:
        InvalidMessage: the body is not UTF-8.
    """
    # The configuration has seen to it that there is a kind.
    meaning = Meaning(source.kind or "", unit=source.unit)

    def judge(path: Path, _raw: object) -> Judgement:
        return Passed() if path else meaning

    return Payload("/".join(levels), document_of(body), judge)


def parse_announced(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """The values of a topic that a discovery message describes.

    Raises:
        InvalidMessage: a value is announced inside JSON, and the body is none.
    """
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


def parse_esphome(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """ESPHome's ``<node>/sensor/<object>/state``: a bare number or ``ON``.

    Topics: https://esphome.io/components/mqtt.html. What it is a number of stands in
    the discovery message (on by default), or else in the object's name.

    Raises:
        InvalidMessage: the body is not UTF-8.
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
