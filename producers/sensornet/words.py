"""Home Assistant's device classes, and kinds from names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from producers.sensornet.kinds import KINDS

#: A routing key has at most 255 bytes; this leaves room for what stands before.
_LONGEST_BYTES = 200
_DIGEST_BYTES = 4

#: A device has few names; a longer text is none of them.
_CACHED_CHARS = 64

_NOT_OF_A_WORD = re.compile(r"[^\w-]+")


def word(text: str) -> str:
    """One word of a routing key: letters, digits, ``_`` and ``-``, in lower case.

    ``Wohnzimmer Süd`` → ``wohnzimmer_süd``. Letters of any script are kept; blanks,
    dots and signs become ``_``. Of a text without letters its digest is the word.
    """
    return _word(text) if len(text) <= _CACHED_CHARS else _word.__wrapped__(text)


@lru_cache(maxsize=8_192)
def _word(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    if found := _NOT_OF_A_WORD.sub("_", plain).strip("_"):
        return found
    return f"x{_digest(text)}"


def name(*levels: str) -> str:
    """The name of a sensor: its levels as words, joined by dots.

    ``kitchen/floor lamp`` is two levels, so ``kitchen.floor_lamp``; empty levels are
    left out. A name too long for a routing key ends in a digest of all of it.
    """
    words = [word(each) for level in levels for each in level.split("/") if each]
    joined = ".".join(words) or word("")
    encoded = joined.encode()
    if len(encoded) <= _LONGEST_BYTES:
        return joined
    kept = encoded[: _LONGEST_BYTES - 2 * _DIGEST_BYTES - 1].decode(errors="ignore")
    return f"{kept.rstrip('.')}-{_digest(joined)}"


def _digest(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=_DIGEST_BYTES).hexdigest()


#: Of sensors: https://www.home-assistant.io/integrations/sensor#device-class
SENSOR_CLASSES: Mapping[str, str] = {
    "temperature": "temperature",
    "humidity": "humidity",
    "battery": "battery",
    "voltage": "voltage",
    "current": "current",
    "power": "power",
    "energy": "energy",
    "illuminance": "illuminance",
    "pressure": "pressure",
    "atmospheric_pressure": "pressure",
    "carbon_dioxide": "co2",
    "carbon_monoxide": "co",
    "volatile_organic_compounds": "voc",
    "volatile_organic_compounds_parts": "tvoc",
    "pm1": "pm1",
    "pm25": "pm25",
    "pm10": "pm10",
    "moisture": "soil_moisture",
    "signal_strength": "rssi",
}


class State(NamedTuple):
    """What a class of binary sensors is; inverted if ``on`` means that the kind is
    false."""

    kind: str
    inverted: bool = False


#: Of binary sensors: https://www.home-assistant.io/integrations/binary_sensor#device-class
BINARY_CLASSES: Mapping[str, State] = {
    "motion": State("motion"),
    "occupancy": State("motion"),
    "presence": State("motion"),
    "moving": State("motion"),
    "door": State("open"),
    "window": State("open"),
    "garage_door": State("open"),
    "opening": State("open"),
    "lock": State("locked", inverted=True),
    "moisture": State("water_leak"),
    "smoke": State("smoke"),
    "carbon_monoxide": State("carbon_monoxide"),
    "gas": State("gas"),
    "tamper": State("tamper"),
    "vibration": State("vibration"),
    "battery": State("battery_low"),
}

#: Kinds that a name is not taken for: ``button_action``, ``car_position``.
_NOT_BY_NAME = frozenset({"action", "position", "valve", "link_quality"})
_NAME = re.compile(
    "(?:(?P<of>.*)_)?(?P<kind>"
    + "|".join(sorted(KINDS.keys() - _NOT_BY_NAME, key=len, reverse=True))
    + r")(?:_\d+)?"
)
#: Temperatures of a processor, and those that are aimed at.
_CHIP = re.compile(
    r"(?:.*_)?(?:internal|chip|cpu|mcu|esp|esp32|processor|core|soc|die)"
)
_TARGET = re.compile(r"(?:.*_)?(?:target|set|setpoint|desired)")


def kind_in_name(object_id: str, *, is_binary: bool = False) -> str | None:
    """The kind that a name ends in: ``kitchen_temperature`` is a temperature. That
    of a binary sensor is no number."""
    found = _NAME.fullmatch(object_id.casefold())
    if found is None:
        return None
    kind = found["kind"]
    if kind == "temperature" and found["of"]:
        if _CHIP.fullmatch(found["of"]):
            kind = "chip_temperature"
        elif _TARGET.fullmatch(found["of"]):
            kind = "target_temperature"
    elif kind == "humidity" and found["of"] and found["of"].endswith("soil"):
        kind = "soil_moisture"
    expected = "state" if is_binary else "number"
    return kind if KINDS[kind].form == expected else None
