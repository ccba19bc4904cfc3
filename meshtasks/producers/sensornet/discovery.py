"""Home Assistant's MQTT discovery: devices announce their entities.

A message on ``homeassistant/<component>/[<node>/]<object>/config`` describes one
entity, one on ``homeassistant/device/<object>/config`` all entities of a device. Keys
may be abbreviated. https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from meshtasks.errors import SchemaMismatch, UnknownUnit
from meshtasks.producers.sensornet import template
from meshtasks.producers.sensornet.kinds import (
    BINARY_CLASSES,
    KINDS,
    SENSOR_CLASSES,
    Kind,
    State,
)
from meshtasks.producers.sensornet.payload import Ignored, object_of, state_of
from meshtasks.producers.sensornet.template import Template

_SENSORS = ("sensor", "binary_sensor")
#: Components with several values.
_CLIMATE = ("climate", "water_heater", "humidifier")

#: Abbreviation → key, for the keys that this module reads.
_LONG: Mapping[str, str] = {
    "stat_t": "state_topic",
    "dev_cla": "device_class",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
    "ent_cat": "entity_category",
    "pl_on": "payload_on",
    "pl_off": "payload_off",
    "dev": "device",
    "cmps": "components",
    "p": "platform",
    "curr_hum_t": "current_humidity_topic",
    "curr_hum_tpl": "current_humidity_template",
    "curr_temp_t": "current_temperature_topic",
    "curr_temp_tpl": "current_temperature_template",
    "temp_stat_t": "temperature_state_topic",
    "temp_stat_tpl": "temperature_state_template",
    "temp_unit": "temperature_unit",
    "ids": "identifiers",
    "cns": "connections",
    "sa": "suggested_area",
}

#: Prefix of a thermostat's keys → device class, suffix of the entity's name.
_OF_CLIMATE: Mapping[str, tuple[str, str]] = {
    "current_temperature": ("temperature", "current"),
    "temperature_state": ("temperature", "target"),
    "current_humidity": ("humidity", "current"),
}

#: Limit of entities per device; the largest devices have a few hundred.
_MOST_ENTITIES = 500
#: Longest text that is read from an announcement.
_LONGEST_TEXT = 1_000


class Announced(BaseModel):
    """One announced entity, with what is needed for readings.

    Attributes:
        state_topic: MQTT topic filter of its state.
        device_class: what it measures; empty if not announced.
        unit: of its values, if announced.
        value_template: template of its value; empty if the value is the whole message.
        payload_on: value of a binary sensor that means on (:func:`word_of`).
        payload_off: the same for off.
        is_diagnostic: whether it measures the device itself.
        is_target: whether it is the target of a thermostat.
        entity: name of the entity within its device.
        device_ids: identifiers of the device.
        device: name of the device.
        area: where the device is.
    """

    model_config = ConfigDict(frozen=True)

    state_topic: str
    component: Literal["sensor", "binary_sensor"]
    device_class: str = ""
    unit: str | None = None
    value_template: str = ""
    payload_on: str | None = None
    payload_off: str | None = None
    is_diagnostic: bool = False
    is_target: bool = False
    entity: str
    device_ids: tuple[str, ...] = ()
    device: str = ""
    area: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, data: Any) -> Any:
        """Convert the format that was saved until 2026, with ``kind`` and ``path``."""
        if not isinstance(data, dict) or "component" in data or "kind" not in data:
            return data
        found = {kind: ("sensor", name) for name, kind in SENSOR_CLASSES.items()}
        for name, state in BINARY_CLASSES.items():
            found[state.kind] = ("binary_sensor", name)
        component, device_class = found.get(data["kind"], (None, None))
        path = data.get("path")
        steps = "unknown()" if path is None else "".join(f"[{step!r}]" for step in path)
        return {
            **data,
            "component": component,
            "device_class": device_class,
            "value_template": f"{{{{ value_json{steps} }}}}" if steps else "",
            "device_ids": [each for each in [data.get("device_id")] if each],
        }

    @property
    def template(self) -> Template:
        """Its parsed value template."""
        return template.parse(self.value_template)

    @property
    def state(self) -> State | None:
        """Meaning of "on"; None if it is not known, or this is not a binary sensor."""
        if self.component != "binary_sensor":
            return None
        return BINARY_CLASSES.get(self.device_class)

    @property
    def kind(self) -> Kind | None:
        """Kind of its device class; None without a class, or for an unknown one."""
        if self.component == "binary_sensor":
            return KINDS[self.state.kind] if self.state else None
        name = SENSOR_CLASSES.get(self.device_class)
        if name == "temperature" and self.is_diagnostic:
            name = "chip_temperature"
        elif name == "temperature" and self.is_target:
            name = "target_temperature"
        return KINDS[name] if name else None

    def fits(self, kind: Kind) -> bool:
        """Return whether its component and unit are possible for a kind."""
        is_state = self.component == "binary_sensor"
        if (kind.form == "state") is not is_state:
            return kind.form == "event" and not is_state and self.unit is None
        if is_state or self.unit is None:
            return True
        try:
            kind.converted(0.0, self.unit)
        except UnknownUnit:
            return False
        return True

    def is_on(self, value: object) -> bool:
        """Return whether a value of a binary sensor means on.

        A value that is not announced is interpreted if it is clear. If ``false`` is
        announced for on, ``ON`` means off.

        Raises:
            SchemaMismatch: the value is neither on nor off.
        """
        word = word_of(value)
        on, off = self.payload_on, self.payload_off
        if word == (on or "on"):
            return True
        if word == (off or "off"):
            return False
        if on is not None:
            return state_of(value) is state_of(on)
        return state_of(value) is not state_of(off or "off")


def word_of(value: object) -> str:
    """Return a value in the form in which payloads of binary sensors are compared.

    The JSON type does not matter: ``false`` equals ``"False"``, and ``1`` equals
    ``"1.0"``.
    """
    if isinstance(value, bool):
        return str(value).casefold()
    text = str(value).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def parse(levels: Sequence[str], body: bytes) -> tuple[Announced, ...] | Ignored:
    """Return the entities that a discovery message announces.

    A message without a body withdraws them.

    Args:
        levels: levels of the topic after the discovery prefix.
        body: the message.

    Raises:
        InvalidMessage: the body of a config topic is not a JSON object, or announces
            too many entities.
    """
    if levels[-1] != "config":
        return Ignored("discovery status")
    component = levels[0]
    if component != "device" and component not in (*_SENSORS, *_CLIMATE):
        return Ignored("discovery of no sensor")
    if not body.strip():
        return ()
    config = _long(object_of(body))
    device = config.get("device")
    of_device = _long(device) if isinstance(device, dict) else {}
    if component != "device":
        return tuple(_entity(component, levels[-2], config, of_device))
    found: list[Announced] = []
    parts = config.get("components")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if len(found) >= _MOST_ENTITIES:
            message = f"a device of more than {_MOST_ENTITIES} entities"
            raise SchemaMismatch(message)
        if isinstance(part, dict):
            merged = config | _long(part)
            found += _entity(_text(merged.get("platform")), name, merged, of_device)
    return tuple(found)


def _entity(
    component: str, entity: str, config: Mapping[str, Any], device: Mapping[str, Any]
) -> Iterator[Announced]:
    if component in _CLIMATE:
        for which, (device_class, name) in _OF_CLIMATE.items():
            unit = _text(config.get("temperature_unit"))
            as_sensor = {
                "~": config.get("~"),
                "state_topic": config.get(f"{which}_topic"),
                "value_template": config.get(f"{which}_template"),
                "device_class": device_class,
            }
            if device_class == "temperature":
                in_degrees = f"°{unit}" if unit in ("C", "F") else unit
                as_sensor["unit_of_measurement"] = in_degrees
            for each in _entity("sensor", f"{entity}_{name}", as_sensor, device):
                yield each.model_copy(update={"is_target": name == "target"})
        return
    topic = _text(config.get("state_topic"))
    if component not in _SENSORS or not topic:
        return
    base = _text(config.get("~"))
    if topic.startswith("~"):
        topic = base + topic[1:]
    elif topic.endswith("~"):
        topic = topic[:-1] + base
    yield Announced(
        state_topic=topic,
        component="sensor" if component == "sensor" else "binary_sensor",
        device_class=_text(config.get("device_class")),
        unit=_text(config.get("unit_of_measurement")) or None,
        value_template=_text(config.get("value_template")),
        payload_on=_payload(config.get("payload_on")),
        payload_off=_payload(config.get("payload_off")),
        is_diagnostic=bool(_text(config.get("entity_category"))),
        entity=entity,
        device_ids=tuple(_ids(device)),
        device=_text(device.get("name")),
        area=_text(device.get("suggested_area")),
    )


def _ids(device: Mapping[str, Any]) -> Iterator[str]:
    """Yield everything that identifies a device: its identifiers and its addresses."""
    identifiers = device.get("identifiers")
    for each in identifiers if isinstance(identifiers, list) else [identifiers]:
        if isinstance(each, str | int):
            yield str(each)[:_LONGEST_TEXT]
    connections = device.get("connections")
    for each in connections if isinstance(connections, list) else []:
        if isinstance(each, list) and all(isinstance(part, str) for part in each):
            yield " ".join(each)[:_LONGEST_TEXT].casefold()


def _payload(value: object) -> str | None:
    is_scalar = isinstance(value, str | int | float)
    return word_of(value)[:_LONGEST_TEXT] if is_scalar else None


def _long(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with its keys unabbreviated."""
    return {_LONG.get(key, key): value for key, value in config.items()}


def _text(value: object) -> str:
    return value.strip()[: _LONGEST_TEXT + 1] if isinstance(value, str) else ""
