"""Home Assistant's MQTT discovery: how devices describe themselves.

``homeassistant/<component>/[<node>/]<object>/config`` describes one entity,
``homeassistant/device/<object>/config`` all those of a device; keys may be
abbreviated. https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError, model_validator

from meshtasks.amqp.entities import topic_matches
from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.errors import ConfigError, SchemaMismatch, UnknownUnit
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

logger = logging.getLogger(__name__)

_COMPONENTS = ("sensor", "binary_sensor", "climate")

#: Abbreviation → key, of the keys that are read.
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
    "curr_temp_t": "current_temperature_topic",
    "curr_temp_tpl": "current_temperature_template",
    "temp_stat_t": "temperature_state_topic",
    "temp_stat_tpl": "temperature_state_template",
    "temp_unit": "temperature_unit",
    "ids": "identifiers",
    "cns": "connections",
    "sa": "suggested_area",
}

#: What a thermostat measures and what it aims at → its own name.
_OF_CLIMATE: Mapping[str, str] = {
    "current_temperature": "current",
    "temperature_state": "target",
}

#: More entities of one device are not taken; the largest have some hundred.
_MOST_ENTITIES = 500
#: More config topics are not kept: a house has hundreds.
MAX_TOPICS = 20_000
#: A longer text is none of a device's words.
_LONGEST_TEXT = 1_000


class Announced(BaseModel):
    """One entity, as far as readings are concerned.

    Attributes:
        state_topic: where its state is published: an MQTT topic filter.
        device_class: what it measures; empty when it is not given.
        value_template: what its value is made of; empty for the whole message.
        payload_on: of a binary sensor, the value that is on (:func:`word_of`).
        is_diagnostic: whether it is about the device rather than the house.
        is_target: whether it is what a thermostat aims at.
        entity: its own name among those of the device.
        device_ids: what identifies the device.
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
        """An entity as it was kept until 2026: with its kind and its value's path."""
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
        """Its value template, understood or not."""
        return template.parse(self.value_template)

    @property
    def state(self) -> State | None:
        """What it being on means; None if that is not known, or it is a number."""
        if self.component != "binary_sensor":
            return None
        return BINARY_CLASSES.get(self.device_class)

    @property
    def kind(self) -> Kind | None:
        """The kind of its class; None when it has none, or none that is known."""
        if self.component == "binary_sensor":
            return KINDS[self.state.kind] if self.state else None
        name = SENSOR_CLASSES.get(self.device_class)
        if name == "temperature" and self.is_diagnostic:
            name = "chip_temperature"
        elif name == "temperature" and self.is_target:
            name = "target_temperature"
        return KINDS[name] if name else None

    def fits(self, kind: Kind) -> bool:
        """Whether its values may be of a kind, by its component and its unit."""
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
        """Whether a value of a binary sensor is on.

        Values other than the announced ones are understood as far as both are clear:
        where ``false`` is announced for on, ``ON`` is off.

        Raises:
            SchemaMismatch: it is neither on nor off.
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
    """A value as payloads of binary sensors are compared, whatever its JSON type:
    ``false`` is ``False``, and ``1`` is ``"1.0"``."""
    if isinstance(value, bool):
        return str(value).casefold()
    text = str(value).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def parse(levels: Sequence[str], body: bytes) -> tuple[Announced, ...] | Ignored:
    """The entities that a discovery message announces; none when it withdraws them.

    Args:
        levels: of the topic, behind the discovery prefix.

    Raises:
        InvalidMessage: a config topic's body is no JSON object, or has no end.
    """
    if levels[-1] != "config":
        return Ignored("discovery status")
    component = levels[0]
    if component != "device" and component not in _COMPONENTS:
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
    if component == "climate":
        for which, name in _OF_CLIMATE.items():
            unit = _text(config.get("temperature_unit"))
            as_sensor = {
                "~": config.get("~"),
                "state_topic": config.get(f"{which}_topic"),
                "value_template": config.get(f"{which}_template"),
                "device_class": "temperature",
                "unit_of_measurement": f"°{unit}" if unit in ("C", "F") else unit,
            }
            for each in _entity("sensor", f"{entity}_{name}", as_sensor, device):
                yield each.model_copy(update={"is_target": name == "target"})
        return
    topic = _text(config.get("state_topic"))
    if component not in _COMPONENTS or not topic:
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
    """Everything that identifies a device: its identifiers and its addresses."""
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
    """The same object with its keys written out."""
    return {_LONG.get(key, key): value for key, value in config.items()}


def _text(value: object) -> str:
    return value.strip()[: _LONGEST_TEXT + 1] if isinstance(value, str) else ""


#: Config topic → the entities it announced.
SavedAnnouncements = RootModel[dict[str, tuple[Announced, ...]]]


class Announcements:
    """The announced entities; ``known`` are those of an earlier run.

    Attributes:
        changed: whether :attr:`saved` is not what it was when this was last false.
    """

    def __init__(self, known: Mapping[str, tuple[Announced, ...]]) -> None:
        self._by_config: dict[str, tuple[Announced, ...]] = {}
        #: Pattern of routing keys → config topics, with the number of their entities.
        self._by_pattern: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._wildcards: set[str] = set()
        self._by_device: defaultdict[str, Counter[str]] = defaultdict(Counter)
        #: Name of a device and of an entity → how many there are.
        self._same_name: Counter[tuple[str, str]] = Counter()
        #: Name of a device → whether it is one device's own; forgotten at each change.
        self._own_names: dict[str, bool] = {}
        for config_key, entities in known.items():
            self.put(config_key, entities)
        self.changed = False

    @property
    def saved(self) -> SavedAnnouncements:
        """What is to be kept for the next run."""
        return SavedAnnouncements(self._by_config)

    def put(self, config_key: str, entities: tuple[Announced, ...]) -> bool:
        """Take what a config topic announces, nothing to withdraw what it had;
        whether there was room for it."""
        before = self._by_config.get(config_key, ())
        if before == entities:
            return True
        if not before and len(self._by_config) >= MAX_TOPICS:
            return False
        if before:
            self._count(config_key, self._by_config.pop(config_key), -1)
        if entities:
            self._by_config[config_key] = entities
            self._count(config_key, entities, 1)
        self.changed = True
        return True

    def at(self, routing_key: str) -> Sequence[Announced]:
        """The entities whose state is published with this routing key."""
        patterns = [
            routing_key,
            *(each for each in self._wildcards if topic_matches(each, routing_key)),
        ]
        return [
            self._named(config_key, entity)
            for pattern in patterns
            for config_key in self._by_pattern.get(pattern, ())
            for entity in self._by_config[config_key]
            if _pattern(entity) == pattern
        ]

    def _named(self, config_key: str, entity: Announced) -> Announced:
        """The entity; by a longer name if its device has another one of this name."""
        if not entity.device or self._same_name[entity.device, entity.entity] == 1:
            return entity
        longer = f"{config_key.removesuffix('.config')}.{entity.entity}"
        return entity.model_copy(update={"entity": longer.replace(".", "_")})

    def device_name(self, entities: Iterable[Announced]) -> str:
        """Name of the device of these entities; empty when it has none of its own,
        or they are of several devices. A name that several devices share would make
        one series of their readings."""
        name, *others = {entity.device for entity in entities} or {""}
        if others or not name:
            return ""
        if name not in self._own_names:
            self._own_names[name] = self._is_of_one_device(name)
        return name if self._own_names[name] else ""

    def _is_of_one_device(self, name: str) -> bool:
        """Whether all that go by a name are tied together by their identifiers."""
        apart: list[set[str]] = []
        for config_key in self._by_device.get(name, ()):
            for entity in self._by_config[config_key]:
                if entity.device == name:
                    ids = set(entity.device_ids or [config_key])
                    touching = [each for each in apart if each & ids]
                    others = [each for each in apart if not each & ids]
                    apart = [*others, ids.union(*touching)]
        return len(apart) <= 1

    def _count(
        self, config_key: str, entities: tuple[Announced, ...], change: int
    ) -> None:
        for entity in entities:
            pattern = _pattern(entity)
            for counters, key in (
                (self._by_pattern, pattern),
                (self._by_device, entity.device),
            ):
                counters[key][config_key] += change
                if not counters[key][config_key]:
                    del counters[key][config_key]
                if not counters[key]:
                    del counters[key]
            if pattern not in self._by_pattern:
                self._wildcards.discard(pattern)
            elif {"*", "#"} & set(pattern.split(".")):
                self._wildcards.add(pattern)
            named = entity.device, entity.entity
            self._same_name[named] += change
            if not self._same_name[named]:
                del self._same_name[named]
        self._own_names.clear()


def _pattern(entity: Announced) -> str:
    """Its topic filter for routing keys, as the broker translates it."""
    return entity.state_topic.replace("/", ".").replace("+", "*")


class AnnouncementsFile(Announcements):
    """Announcements that are kept from one run to the next.

    Discovery messages are sent seldom (when a device or Home Assistant starts), and the
    broker hands retained ones to MQTT clients only, not to a queue.

    Args:
        path: made at the first change, with its directory.

    Raises:
        ConfigError: it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known = {}
        try:
            known = SavedAnnouncements.model_validate_json(path.read_bytes()).root
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            expected = (
                "what an earlier run has written; without the file, devices are called "
                "as in their topics until they announce themselves again"
            )
            raise ConfigError(str(path), "-", expected) from error
        super().__init__(known)

    def save(self) -> None:
        """Write what is new. A disk that is full is logged, and tried again with the
        next change: readings need not wait for it."""
        if not self.changed:
            return
        try:
            make_private_directory(self._path.parent)
            replace_private(self._path, self.saved.model_dump_json())
        except OSError as error:
            logger.error("cannot keep what devices announced: %s", error)  # noqa: TRY400 - the text says it
        else:
            self.changed = False
