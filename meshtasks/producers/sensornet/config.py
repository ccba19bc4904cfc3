"""config/producers/sensornet.yaml, and its checks against topology.yaml."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import takewhile
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from meshtasks.amqp.entities import MQTT_EXCHANGE, topic_matches
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import TimeZone
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError, UnknownUnit
from meshtasks.producers.sensornet.kinds import KINDS, name
from meshtasks.producers.sensornet.payload import Meaning
from meshtasks.records.kinds import KINDS as MESH_KINDS

#: Exchange of events, such as presses of buttons.
EVENTS_EXCHANGE = "home.events"

Format = Literal[
    "zigbee2mqtt",
    "tasmota",
    "shelly_gen1",
    "shelly_gen2",
    "esphome",
    "announced",
    "number",
    "json",
    "discovery",
]
Destination = Literal["sensors", "metrics", "events", "ignore"]


def _filter(text: str) -> str:
    levels = text.split("/")
    for index, level in enumerate(levels):
        if level == "#" and index < len(levels) - 1:
            message = "# should be the last level"
            raise ValueError(message)
        if level not in ("#", "+") and ({"#", "+"} & set(level)):
            message = "# and + should be levels of their own"
            raise ValueError(message)
    if not text:
        message = "should not be empty"
        raise ValueError(message)
    return text


def _kind(text: str) -> str:
    if text not in KINDS:
        message = f'"{text}" is not a kind; expected one of {", ".join(KINDS)}'
        raise ValueError(message)
    return text


_KindName = Annotated[str, AfterValidator(_kind)]


def _check_unit(kind: str, unit: str) -> None:
    try:
        KINDS[kind].converted(0.0, unit)
    except UnknownUnit as error:
        raise ValueError(str(error)) from error


class Value(ConfigModel):
    """What a value of a JSON object is.

    Attributes:
        unit: its unit; by default the kind's.
    """

    kind: _KindName
    unit: str | None = None

    @model_validator(mode="after")
    def _unit_fits(self) -> Self:
        if self.unit is not None:
            _check_unit(self.kind, self.unit)
        return self


def _value(given: object) -> object:
    return {"kind": given} if isinstance(given, str) else given


class Source(ConfigModel):
    """Topics, and the format of their messages.

    Attributes:
        topic: MQTT topic filter: ``+`` is one level, a final ``#`` all further levels.
        kind: kind of the numbers; only with the format ``number``.
        unit: their unit; only with ``number``, by default the kind's.
        values: path of a value in the JSON object, its names and indexes joined by
            dots → what the value is, or only its kind; only with the format ``json``.
        time: path of the time of measurement; only with ``json``.
    """

    topic: Annotated[str, AfterValidator(_filter)]
    format: Format
    kind: _KindName | None = None
    unit: str | None = None
    values: dict[str, Annotated[Value, BeforeValidator(_value)]] = Field(default={})
    time: str = ""

    @model_validator(mode="after")
    def _json_has_values(self) -> Self:
        if (self.format == "json") != bool(self.values):
            message = "values belong to the format json, and to no other"
            raise ValueError(message)
        if self.time and not self.values:
            message = "a time belongs to the format json, and to no other"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _number_has_a_kind(self) -> Self:
        if (self.format == "number") != (self.kind is not None):
            message = "a kind belongs to the format number, and to no other"
            raise ValueError(message)
        if self.unit is not None:
            if self.kind is None:
                message = "a unit belongs to the format number, and to no other"
                raise ValueError(message)
            _check_unit(self.kind, self.unit)
        return self

    @cached_property
    def pattern(self) -> str:
        """The filter as a pattern of routing keys, as the MQTT plugin translates it."""
        return self.topic.replace("/", ".").replace("+", "*")

    @cached_property
    def fixed_levels(self) -> int:
        """Number of levels before the first ``+`` or ``#``; 0 without wildcards."""
        levels = self.topic.split("/")
        fixed = [*takewhile(lambda level: level not in ("+", "#"), levels)]
        return len(fixed) if len(fixed) < len(levels) else 0

    @cached_property
    def meanings(self) -> Mapping[str, Meaning]:
        """Meaning of each value of a JSON object, by its path.

        If several have one kind, their paths tell their sensors apart.
        """
        count = Counter(value.kind for value in self.values.values())
        return {
            path: Meaning(
                value.kind,
                unit=value.unit,
                part=path.replace(".", "/") if count[value.kind] > 1 else "",
            )
            for path, value in self.values.items()
        }

    def levels_of(self, routing_key: str) -> list[str]:
        """Return the levels of a topic that identify the device."""
        levels = routing_key.split(".")
        if self.format not in ("number", "json"):
            return levels[self.fixed_levels :]
        found: list[str] = []
        for index, level in enumerate(self.topic.split("/")):
            if level == "+":
                found.append(levels[index])
            elif level == "#":
                found += levels[index:]
        return found or levels


class Device(ConfigModel):
    """Corrections of what a device announces, or does not announce.

    Attributes:
        name: replaces the name in the topic or announcement.
        location: where the device is.
        units: kind → unit of values without a unit in the message.
    """

    name: str | None = None
    location: str | None = None
    units: dict[_KindName, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        for kind, unit in self.units.items():
            _check_unit(kind, unit)
        return self


class SensorNet(ConfigModel):
    """Content of the configuration file.

    Attributes:
        queue: queue in topology.yaml that receives the messages of devices.
        sources: the first source whose topic matches applies.
        kinds: kind → destination of its readings; other kinds are ignored.
        motion_repeat_seconds: a motion sensor's state that repeats within this time is
            skipped.
        timezone: of devices that send local times; None ignores such times.
        devices: device, as in its topic → corrections.
    """

    queue: str = "devices"
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    kinds: dict[_KindName, Destination]
    motion_repeat_seconds: Annotated[float, Field(ge=0)] = 60.0
    timezone: TimeZone | None = None
    devices: dict[str, Device] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _events_are_events(self) -> Self:
        for kind, destination in self.kinds.items():
            is_event = KINDS[kind].form == "event"
            if destination != "ignore" and (destination == "events") is not is_event:
                expected = "events" if is_event else "sensors, metrics"
                message = f"{kind} should go to {expected} or ignore"
                raise ValueError(message)
        return self

    @cached_property
    def zone(self) -> ZoneInfo | None:
        """Time zone of local times, if there is one."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @cached_property
    def devices_by_name(self) -> Mapping[str, Device]:
        """Corrections by the devices' names in routing keys."""
        return {name(device): rest for device, rest in self.devices.items()}

    def source_of(self, routing_key: str) -> Source | None:
        """Return the source that matches a routing key, if there is one."""
        return next(
            (each for each in self.sources if topic_matches(each.pattern, routing_key)),
            None,
        )


def _check(config: SensorNet, settings: Settings) -> Iterator[ConfigError]:
    """Yield the contradictions to topology.yaml."""
    topology = settings.read(TOPOLOGY)
    if config.queue not in topology.queue_names:
        expected = f"expected a queue of topology.yaml, which has no {config.queue}"
        yield settings.fault(CONFIG, "queue", expected)
        return
    for index, source in enumerate(config.sources):
        reached = [
            topology.queues_reached(MQTT_EXCHANGE, sample)
            for sample in _samples(source.pattern)
        ]
        if not all(config.queue in queues for queues in reached):
            expected = (
                f"expected topology.yaml to bind {MQTT_EXCHANGE} to {config.queue} "
                f'with "{source.pattern}", or nothing of it would arrive'
            )
            yield settings.fault(CONFIG, f"sources.{index}.topic", expected)
    for kind, destination in config.kinds.items():
        match destination:
            case "sensors":
                exchange, key, others = "sensors", f"sensors.{kind}.any", "metrics or "
            case "events":
                exchange, key, others = EVENTS_EXCHANGE, "home.device.any.trigger", ""
            case _:
                continue
        queues = topology.queues_reached(exchange, key)
        if not queues - {topology.dead_letter_queue}:
            expected = f"expected {others}ignore: no queue of topology.yaml takes {key}"
            yield settings.fault(CONFIG, f"kinds.{kind}", expected)
        quantity = settings.read(MESH_KINDS).quantities.get(kind)
        if destination == "sensors" and quantity is not None:
            try:
                quantity.affine(KINDS[kind].unit)
            except UnknownUnit as error:  # all readings would be dead letters
                expected = f"expected kinds.yaml to have the devices' unit: {error}"
                yield settings.fault(CONFIG, f"kinds.{kind}", expected)


CONFIG = ConfigFile("producers/sensornet.yaml", SensorNet, _check)


def _samples(pattern: str) -> Iterator[str]:
    """Yield keys; a binding that matches all of them covers the whole pattern."""
    for words in (("",), ("x",), ("x", "y", "z")):
        some = pattern.replace("*", "\0").replace("#", ".".join(words))
        yield some.rstrip(".")
