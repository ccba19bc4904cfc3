"""Home Assistant's MQTT discovery: what devices say of themselves.

``homeassistant/<component>/[<node>/]<object>/config`` describes one entity,
``homeassistant/device/<object>/config`` all those of a device; keys may be
abbreviated. https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from producers.sensornet.payload import object_of
from producers.sensornet.report import Ignored
from producers.sensornet.words import BINARY_CLASSES, SENSOR_CLASSES

_CLASSES: Mapping[str, Mapping[str, str]] = {
    "sensor": SENSOR_CLASSES,
    "binary_sensor": BINARY_CLASSES,
}

#: Abbreviation → key, of the keys that are read.
_LONG: Mapping[str, str] = {
    "stat_t": "state_topic",
    "dev_cla": "device_class",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
    "dev": "device",
    "cmps": "components",
    "p": "platform",
    "ids": "identifiers",
    "sa": "suggested_area",
}

#: A template that takes one value out, and at most rounds it. Others compute; they
#: are not run.
_TEMPLATE = re.compile(
    r"\{\{-?\s*value(?P<json>_json)?(?P<path>(?:\.\w+|\[\s*(?:'[^']*'|\"[^\"]*\"|\d+)\s*\])*)"
    r"\s*(?:\|\s*(?:float|int|round|is_defined)\s*(?:\([\d\s,]*\))?\s*)*-?\}\}"
)
_STEP = re.compile(r"\.(\w+)|\[\s*(?:'([^']*)'|\"([^\"]*)\"|(\d+))\s*\]")


class Announced(BaseModel):
    """One entity, as far as readings are concerned.

    Attributes:
        state_topic: where its state is published.
        kind: kind of its readings.
        unit: their unit, if it says.
        path: where the value stands in a JSON body; empty for the whole body, None
            when only a computation would give it.
        entity: its own name among those of the device.
        device_id: identifies the device.
        device: the device's name, if it says.
        area: where the device is, if it says.
    """

    model_config = ConfigDict(frozen=True)

    state_topic: str
    kind: str
    unit: str | None = None
    path: tuple[str, ...] | None = ()
    entity: str
    device_id: str = ""
    device: str = ""
    area: str = ""


def parse(levels: Sequence[str], body: bytes) -> tuple[Announced, ...] | Ignored:
    """The entities that a discovery message announces; none when it withdraws them.

    Args:
        levels: of the topic, behind the discovery prefix.
        body: empty to withdraw what was announced on this topic.

    Raises:
        InvalidMessage: a config topic's body is no JSON object.
    """
    if levels[-1] != "config":
        return Ignored("discovery status")
    component = levels[0]
    if component != "device" and component not in _CLASSES:
        return Ignored("discovery of no sensor")
    if not body.strip():
        return ()
    config = _long(object_of(body))
    device = config.get("device")
    of_device = _long(device) if isinstance(device, dict) else {}
    entity = levels[-2]
    if component != "device":
        return tuple(_entity(component, entity, config, of_device))
    found: list[Announced] = []
    parts = config.get("components")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if isinstance(part, dict):
            merged = config | _long(part)
            found += _entity(_text(merged.get("platform")), name, merged, of_device)
    return tuple(found)


def value_at(document: object, path: Sequence[str]) -> object:
    """The value at a path of a JSON document; None when there is none."""
    for step in path:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal():
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    return document


def _entity(
    component: str, entity: str, config: Mapping[str, Any], device: Mapping[str, Any]
) -> Iterator[Announced]:
    kind = _CLASSES.get(component, {}).get(_text(config.get("device_class")))
    topic = _text(config.get("state_topic"))
    if kind is None or not topic:
        return
    base = _text(config.get("~"))
    if topic.startswith("~"):
        topic = base + topic[1:]
    elif topic.endswith("~"):
        topic = topic[:-1] + base
    ids = device.get("identifiers")
    yield Announced(
        state_topic=topic,
        kind=kind,
        unit=_text(config.get("unit_of_measurement")) or None,
        path=_path(_text(config.get("value_template"))),
        entity=entity,
        device_id=_text(ids[0] if isinstance(ids, list) and ids else ids),
        device=_text(device.get("name")),
        area=_text(device.get("suggested_area")),
    )


def _path(template: str) -> tuple[str, ...] | None:
    if not template:
        return ()
    found = _TEMPLATE.fullmatch(template.strip())
    if found is None or (found["path"] and not found["json"]):
        return None
    return tuple(
        next(group for group in step if group) if any(step) else ""
        for step in _STEP.findall(found["path"])
    )


def _long(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same object with its keys written out."""
    return {_LONG.get(key, key): value for key, value in config.items()}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
