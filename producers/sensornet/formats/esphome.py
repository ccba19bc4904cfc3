"""ESPHome: ``<node>/sensor/<object>/state``, a bare number or ``ON``.

Topics: https://esphome.io/components/mqtt.html. What it is a number of stands in the
discovery message (on by default), or else in the object's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from producers.sensornet.payload import (
    Ignored,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    document_of,
)
from producers.sensornet.words import kind_in_name


def parse(levels: Sequence[str], body: bytes) -> Payload | Ignored:
    """The value of a sensor's state.

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
