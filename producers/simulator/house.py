"""The house: which rooms, which sensors, and what they say, moment by moment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import count, cycle
from typing import NamedTuple

from producers.buffer import encode
from producers.simulator import homeassistant, inference, metrics
from producers.simulator.badmessages import BadKind, Deck, bad_body
from producers.simulator.climate import Climate, Episode, Overheating, Room, Weather
from producers.simulator.sensors import (
    CAPACITIVE_HYGROMETER,
    HUMIDITY_FORMATS,
    TEMPERATURE_FORMATS,
    THERMISTOR,
    FaultySensor,
    Format,
    Logger,
    MotionSensor,
    Probe,
    Sensor,
    Source,
)
from producers.simulator.specimens import SPECIMENS
from producers.simulator.troubles import Troubles

ROOMS = (
    Room("living_room", 21.5, episode=Episode(20.0, 1.5, 0.8, 0.8)),
    Room("kitchen", 20.5, episode=Episode(18.5, 0.5, 2.5, 5.0)),
    Room("bedroom", 18.5, swing_celsius=0.6, episode=Episode(3.0, 2.5, 0.3, 2.0)),
    Room("bathroom", 22.0, episode=Episode(7.0, 0.3, 2.0, 9.0)),
    Room("kids_room", 20.5, episode=Episode(3.0, 2.5, 0.3, 1.5)),
    Room("office", 21.0, swing_celsius=1.2, episode=Episode(14.0, 2.5, 1.5, 0.5)),
    Room("hallway", 18.0, exposure=0.15),
    Room("laundry", 19.0, moisture_celsius=7.0),
    Room("cellar", 13.0, swing_celsius=0.1, exposure=0.1, moisture_celsius=1.5),
    Room("attic", 15.0, swing_celsius=2.0, exposure=0.5, moisture_celsius=0.5),
    Room("garage", 11.0, swing_celsius=1.5, exposure=0.7, moisture_celsius=0.5),
    Room("greenhouse", 17.0, swing_celsius=5.0, exposure=0.6, moisture_celsius=8.0),
)

_LOGGER_PROBES = 8
_MOTION_ROOMS = ("hallway", "living_room", "kitchen", "garage", "cellar")
_ASKED_ROOMS = ("living_room", "greenhouse")


class Domain(StrEnum):
    """What parts of a house can speak of: the first word of their routing keys."""

    SENSORS = "sensors"
    HOME = "home"
    METRICS = "metrics"
    AI = "ai"
    ALERTS = "alerts"


DOMAINS = frozenset(Domain)


@dataclass(frozen=True, slots=True)
class HouseOptions:
    """What kind of house it is.

    Attributes:
        seed: the same seed gives the same weather, sensors, faults and bad
            messages.
        start_ms: the house's clock at the first message, epoch milliseconds.
        step_ms: how far that clock goes from one message to the next.
        bad_share: share of bad messages, 0 to 1.
        fault_interval_seconds: mean time between the faults of one sensor; 0
            for sensors that have none.
        overheating_room: name of a room that overheats one second after the
            start and every five minutes.
        to_be_packed: only sensors that send single records with an id and a
            timestamp, so that the producer can pack many into one message.
        domains: what it speaks of.
        asks_models: whether it asks the sample model of config/triton, too.
    """

    seed: int
    start_ms: int
    step_ms: float
    bad_share: float = 0.0
    fault_interval_seconds: float = 0.0
    overheating_room: str | None = None
    to_be_packed: bool = False
    domains: frozenset[Domain] = DOMAINS
    asks_models: bool = True


class SimulatedMessage(NamedTuple):
    """One message of the house.

    Attributes:
        exchange: where to.
        routing_key: as what.
        timestamp: epoch seconds, by the house's clock.
        records: the JSON records of a good message; several are an array.
        bad: what is wrong with the message; None for a good one.
        bad_body: the bytes of a bad one.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object] = ()
    bad: BadKind | None = None
    bad_body: bytes = b""

    @property
    def body(self) -> bytes:
        """The bytes to publish."""
        if self.bad:
            return self.bad_body
        first, *others = self.records
        return encode([first, *others] if others else first)

    @property
    def record_count(self) -> int:
        """How many records that is, good and bad."""
        if self.bad:
            return self.bad.good_records + self.bad.bad_records
        return len(self.records)


class House:
    """An endless sequence of messages, the same for the same options."""

    def __init__(self, options: HouseOptions) -> None:
        self.options = options
        #: Faults that began, by name.
        self.faults: Counter[str] = Counter()
        rng = random.Random(options.seed)
        self._sources = build_sources(options, rng, self.faults)
        rng.shuffle(self._sources)
        self._rng = rng
        self._specimens = {
            name: specimen
            for name, specimen in SPECIMENS.items()
            if name.partition(".")[0] in options.domains
            and (options.asks_models or name != "ai.inference.requests")
        }
        self._deck = Deck(self._specimens, rng)

    def messages(self) -> Iterator[SimulatedMessage]:
        """The messages in the order of the house's clock. Call it once."""
        options = self.options
        sources = cycle(self._sources)
        late_ms = 0
        for number in count():
            now_ms = options.start_ms + int(number * options.step_ms) + late_ms
            if self._is_bad(number):
                yield self._bad_message(now_ms)
                continue
            silent = 0
            while (emission := next(sources).emit(now_ms)) is None:
                silent += 1
                if silent % len(self._sources) == 0:
                    # All have spoken at this moment: the clock has to move on.
                    late_ms += 1
                    now_ms += 1
            yield SimulatedMessage(*emission)

    def _is_bad(self, number: int) -> bool:
        """Spread evenly, so that the share is exact at any length."""
        share = self.options.bad_share
        return int((number + 1) * share) > int(number * share)

    def _bad_message(self, now_ms: int) -> SimulatedMessage:
        kind, domain_kind = self._deck.deal()
        room = self._rng.choice(ROOMS).name
        specimen = self._specimens[domain_kind](room, self._rng)
        return SimulatedMessage(
            specimen.exchange,
            specimen.routing_key,
            now_ms / 1000,
            bad=kind,
            bad_body=bad_body(kind, specimen, now_ms, self._rng),
        )


def build_sources(
    options: HouseOptions, rng: random.Random, faults: Counter[str]
) -> list[Source]:
    """Everything in the house that speaks."""
    overheating = options.overheating_room and Overheating(
        options.overheating_room, options.start_ms / 1000 + 1.0
    )
    climate = Climate(Weather(rng), overheating or None)
    builders: dict[Domain, Callable[[], Sequence[Source]]] = {
        Domain.SENSORS: lambda: [
            *_climate_sources(options, climate, rng, faults),
            *_motion_sources(options),
        ],
        Domain.HOME: lambda: _home_sources(rng),
        Domain.METRICS: lambda: _metric_sources(options, rng),
        Domain.AI: lambda: _ai_sources(options, climate, rng),
        Domain.ALERTS: lambda: [Troubles([room.name for room in ROOMS])],
    }
    return [
        source
        for domain, build in builders.items()
        if domain in options.domains
        for source in build()
    ]


def _climate_sources(
    options: HouseOptions, climate: Climate, rng: random.Random, faults: Counter[str]
) -> list[Source]:
    """A room has two thermometers and a hygrometer of differing makes; of makes
    that give no id it has at most one of a kind, since its room is its id. A
    logger with eight probes hangs in the cellar, if arrays are allowed.
    """

    def probe(kind: str, room: Room) -> Probe:
        own = random.Random(rng.getrandbits(64))
        interval = options.fault_interval_seconds
        faulty = FaultySensor(own, interval, faults) if interval else None
        if kind == "temperature":
            placed = replace(room, celsius=room.celsius + own.uniform(-0.4, 0.4))
            return Probe(THERMISTOR, partial(climate.celsius, placed), own, faulty)
        humidity = partial(climate.humidity_percent, room)
        return Probe(CAPACITIVE_HYGROMETER, humidity, own, faulty)

    def usable(formats: tuple[Format, ...]) -> list[Format]:
        return [form for form in formats if form.complete or not options.to_be_packed]

    best = TEMPERATURE_FORMATS[0]
    thermometers = cycle(usable(TEMPERATURE_FORMATS))
    hygrometers = cycle(usable(HUMIDITY_FORMATS))
    sources: list[Source] = []
    for room in ROOMS:
        for kind, place, form in (
            ("temperature", "ceiling", best),
            ("temperature", "window", next(thermometers)),
            ("humidity", "wall", next(hygrometers)),
        ):
            sensor_id = f"{room.name}-{kind}-{place}"
            sources.append(Sensor(kind, room.name, sensor_id, probe(kind, room), form))
    if options.to_be_packed:
        return sources
    cellar = next(room for room in ROOMS if room.name == "cellar")
    probes = {
        f"cellar-pipe-{number}": probe("temperature", cellar)
        for number in range(1, _LOGGER_PROBES + 1)
    }
    sources.append(Logger("temperature", cellar.name, probes, best))
    return sources


def _motion_sources(options: HouseOptions) -> list[Source]:
    """Every other one leaves all but the motion out, if that is allowed."""
    return [
        MotionSensor(room, complete=options.to_be_packed or number % 2 == 0)
        for number, room in enumerate(_MOTION_ROOMS)
    ]


def _home_sources(rng: random.Random) -> list[Source]:
    return [
        *(homeassistant.Entity(thing, rng) for thing in homeassistant.THINGS),
        *(
            homeassistant.Automation(name, trigger)
            for name, trigger in homeassistant.AUTOMATIONS.items()
        ),
    ]


def _metric_sources(options: HouseOptions, rng: random.Random) -> list[Source]:
    gauges = [
        metrics.Gauge(key(owner), name, measure, {tag: owner}, rng)
        for tag, owners, key, gauge in (
            ("host", metrics.HOSTS, metrics.host_key, metrics.HOST_METRICS),
            (
                "service",
                metrics.SERVICES,
                metrics.service_key,
                metrics.SERVICE_METRICS,
            ),
        )
        for owner in owners
        for name, measure in gauge.items()
    ]
    if options.to_be_packed:
        return [*gauges]
    return [*gauges, *(metrics.Processor(host, rng) for host in metrics.HOSTS)]


def _ai_sources(
    options: HouseOptions, climate: Climate, rng: random.Random
) -> list[Source]:
    askers = [
        inference.Asker(room.name, partial(climate.celsius, room), rng)
        for room in ROOMS
        if room.name in _ASKED_ROOMS and options.asks_models
    ]
    return [*askers, inference.Camera(rng)]
