"""ESPHome: ``<node>/sensor/<object>/state``, a bare number or ``ON``.

Topics: https://esphome.io/components/mqtt.html. What it is a number of stands in the
discovery message (on by default), or else in the object's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from producers.sensornet.discovery import Announced
from producers.sensornet.payload import text_of
from producers.sensornet.report import Ignored, Report
from producers.sensornet.words import kind_in_name


def parse(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Report | Ignored:
    """The reading of a sensor's state.

    Args:
        announced: what discovery says of this topic.

    Raises:
        InvalidMessage: the body is not UTF-8.
    """
    match list(levels):
        case [*_, "status"]:
            return Ignored("availability")
        case [*device, "sensor" | "binary_sensor", sensor, "state"]:
            pass
        case _:
            return Ignored("no reading")
    kind = next((each.kind for each in announced), None) or kind_in_name(sensor)
    if kind is None:
        return Ignored("kind unknown")
    report = Report("/".join(device))
    report.add(kind, text_of(body), sensor, part=sensor)
    return report
