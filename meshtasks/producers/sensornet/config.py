"""config/producers/sensornet.yaml, and what it must agree on with topology.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import takewhile
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from meshtasks.amqp.entities import MQTT_EXCHANGE, topic_matches
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import TimeZone
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError, UnknownUnit
from meshtasks.producers.sensornet.kinds import KINDS, name

#: Where what happened goes.
EVENTS_EXCHANGE = "home.events"

Format = Literal[
    "zigbee2mqtt",
    "tasmota",
    "shelly_gen1",
    "shelly_gen2",
    "esphome",
    "announced",
    "number",
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


class Source(ConfigModel):
    """Topics, and the format of what is published there.

    Attributes:
        topic: an MQTT topic filter: ``+`` is one level, a final ``#`` all others.
        kind: with ``number``, what it is a number of.
        unit: with ``number``, its unit; the kind's own by default.
    """

    topic: Annotated[str, AfterValidator(_filter)]
    format: Format
    kind: _KindName | None = None
    unit: str | None = None

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
        """The same filter for routing keys, as the MQTT plugin translates topics."""
        return self.topic.replace("/", ".").replace("+", "*")

    @cached_property
    def fixed_levels(self) -> int:
        """Levels before the first that is ``+`` or ``#``; 0 if none is."""
        levels = self.topic.split("/")
        fixed = [*takewhile(lambda level: level not in ("+", "#"), levels)]
        return len(fixed) if len(fixed) < len(levels) else 0

    def levels_of(self, routing_key: str) -> list[str]:
        """The levels of a topic that tell its devices apart."""
        levels = routing_key.split(".")
        if self.format != "number":
            return levels[self.fixed_levels :]
        found: list[str] = []
        for index, level in enumerate(self.topic.split("/")):
            if level == "+":
                found.append(levels[index])
            elif level == "#":
                found += levels[index:]
        return found or levels


class Device(ConfigModel):
    """What a device does not announce, or announces wrong.

    Attributes:
        name: instead of the one in its topic, or that it announces.
        location: where it is.
        units: kind → unit of the values that it names none for.
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
    """The file.

    Attributes:
        queue: queue of topology.yaml that holds what devices publish.
        sources: the first whose topic matches is taken.
        kinds: kind → what becomes of its readings; those not named are ignored.
        motion_repeat_seconds: the same state of a motion sensor within this time is
            not passed on again.
        timezone: of devices that give local times; None not to use those.
        devices: device, as in its topic → what is set right.
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
        """The time zone of local times."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @cached_property
    def devices_by_name(self) -> Mapping[str, Device]:
        """The devices by their name in routing keys."""
        return {name(device): rest for device, rest in self.devices.items()}

    def source_of(self, routing_key: str) -> Source | None:
        """The source of what was published with a routing key."""
        return next(
            (each for each in self.sources if topic_matches(each.pattern, routing_key)),
            None,
        )


def _check(config: SensorNet, settings: Settings) -> Iterator[ConfigError]:
    """What does not agree with topology.yaml."""
    topology = settings.read(TOPOLOGY)
    if config.queue not in topology.queue_names:
        expected = f"a queue of topology.yaml, which has no {config.queue}"
        yield settings.fault(CONFIG, "queue", expected)
        return
    for index, source in enumerate(config.sources):
        reached = [
            topology.queues_reached(MQTT_EXCHANGE, sample)
            for sample in _samples(source.pattern)
        ]
        if not all(config.queue in queues for queues in reached):
            expected = (
                f"topology.yaml to bind {MQTT_EXCHANGE} to {config.queue} with "
                f'"{source.pattern}", or nothing of it would arrive'
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
            expected = f"{others}ignore: no queue of topology.yaml takes {key}"
            yield settings.fault(CONFIG, f"kinds.{kind}", expected)


CONFIG = ConfigFile("producers/sensornet.yaml", SensorNet, _check)


def _samples(pattern: str) -> Iterator[str]:
    """Routing keys that only bindings as wide as the pattern all match."""
    for words in (("",), ("x",), ("x", "y", "z")):
        some = pattern.replace("*", "\0").replace("#", ".".join(words))
        yield some.rstrip(".")
