"""One module per vendor: a function of levels and body gives a
:class:`~producers.sensornet.payload.Payload` or the reason why there is none.

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
from producers.sensornet.config import Source
from producers.sensornet.discovery import Announced
from producers.sensornet.formats import named, shelly, tasmota, zigbee2mqtt
from producers.sensornet.payload import Ignored, Payload

_VENDORS: Mapping[str, Callable[[Sequence[str], bytes], Payload | Ignored]] = {
    "zigbee2mqtt": zigbee2mqtt.parse,
    "tasmota": tasmota.parse,
    "shelly_gen1": shelly.parse_gen1,
    "shelly_gen2": shelly.parse_gen2,
    "esphome": named.parse_esphome,
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
        return named.parse_number(source, levels, body)
    vendor = _VENDORS.get(source.format)
    if vendor is None:
        return named.parse_announced(levels, body, announced)
    try:
        payload = vendor(levels, body)
    except InvalidMessage:
        if not announced:
            raise
        return named.parse_announced(levels, body, announced)
    if isinstance(payload, Ignored) and announced:
        with suppress(InvalidMessage):  # it need not be of what is announced there
            return named.parse_announced(levels, body, announced)
    return payload
