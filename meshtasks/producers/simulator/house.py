"""The house: climate of its rooms, its sensors, and their messages in order of time.

Temperatures are functions of the time, not simulated step by step. So they can be
computed for any time, at any speed.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import count, cycle
from typing import NamedTuple

from meshtasks.producers.buffer import encode
from meshtasks.producers.simulator import devices
from meshtasks.producers.simulator.badmessages import SPECIMENS, BadKind, Deck, bad_body
from meshtasks.producers.simulator.sensors import (
    CAPACITIVE_HYGROMETER,
    HUMIDITY_FORMATS,
    TEMPERATURE_FORMATS,
    THERMISTOR,
    Emitter,
    FaultySensor,
    Format,
    Probe,
    motion_sensor,
    readings,
)

_DAY_SECONDS = 86_400.0
_OVERHEATING_CELSIUS, _OVERHEATS_EVERY_SECONDS = 45.0, 300.0

#: Magnus formula with the constants of Alduchov and Eskridge (1996), equation 21.
_MAGNUS_A = 17.625
_MAGNUS_B_CELSIUS = 243.04


def relative_humidity_percent(celsius: float, dew_point_celsius: float) -> float:
    """Return the relative humidity (0 to 100) of air with this dew point."""

    def saturation(temperature: float) -> float:
        return math.exp(_MAGNUS_A * temperature / (_MAGNUS_B_CELSIUS + temperature))

    ratio = saturation(dew_point_celsius) / saturation(celsius)
    return min(100.0, max(0.0, 100.0 * ratio))


class Weather:
    """A temperate climate with seasons, days, and fronts that last days.

    Times are epoch seconds; the time of day is UTC.
    """

    def __init__(self, rng: random.Random) -> None:
        # The periods have no common multiple in practice, so nothing repeats.
        self._fronts = [
            (days, rng.uniform(0.8, 2.2), rng.uniform(0.0, math.tau))
            for days in (2.3, 5.1, 9.7)
        ]

    def outdoor_celsius(self, seconds: float) -> float:
        """Return the outdoor temperature, lowest in mid-January and at 3 am."""
        day = math.cos(math.tau * (_hour(seconds) - 15.0) / 24.0)
        return self._mean_celsius(seconds) + 4.0 * day

    def dew_point_celsius(self, seconds: float) -> float:
        """Return the outdoor dew point, which does not follow the time of day."""
        return self._mean_celsius(seconds) - 3.5

    def _mean_celsius(self, seconds: float) -> float:
        days = seconds / _DAY_SECONDS
        season = -9.0 * math.cos(math.tau * (days - 15.0) / 365.25)
        fronts = sum(
            strength * math.sin(math.tau * days / period + phase)
            for period, strength, phase in self._fronts
        )
        return 10.0 + season + fronts


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that happens every day, such as cooking or a shower.

    Attributes:
        hour: hour of the day at its peak.
        width_hours: standard deviation of its course.
        celsius: increase of the temperature at the peak.
        dew_point_celsius: increase of the dew point at the peak.
    """

    hour: float
    width_hours: float
    celsius: float
    dew_point_celsius: float

    def strength(self, seconds: float) -> float:
        """Return its strength at a time, 0 to 1."""
        apart = (_hour(seconds) - self.hour + 12.0) % 24.0 - 12.0
        return math.exp(-0.5 * (apart / self.width_hours) ** 2)


@dataclass(frozen=True, slots=True)
class Room:
    """A room, and how its climate follows day and weather.

    Attributes:
        celsius: mean temperature at 10 °C outdoors.
        swing_celsius: half the difference between day and night.
        exposure: share of an outdoor change that takes effect indoors, 0 to 1.
        moisture_celsius: difference between indoor and outdoor dew point.
        episode: what happens in it every day.
    """

    name: str
    celsius: float
    swing_celsius: float = 0.8
    exposure: float = 0.05
    moisture_celsius: float = 5.0
    episode: Episode | None = None


@dataclass(frozen=True, slots=True)
class Overheating:
    """A room that overheats every five minutes, to cause alerts.

    It heats up within four seconds, stays hot for forty, and is back to normal half a
    minute later.
    """

    room: str
    from_seconds: float

    def celsius(self, seconds: float) -> float:
        """Return the increase of the temperature at a time."""
        if seconds < self.from_seconds:
            return 0.0
        since = (seconds - self.from_seconds) % _OVERHEATS_EVERY_SECONDS
        share = min(since / 4.0, 1.0, max(0.0, 1.0 - (since - 44.0) / 30.0))
        return _OVERHEATING_CELSIUS * share


@dataclass(frozen=True, slots=True)
class Climate:
    """The climate of every room at any time."""

    weather: Weather
    overheating: Overheating | None

    def celsius(self, room: Room, seconds: float) -> float:
        """Return the temperature of a room."""
        day = math.cos(math.tau * (_hour(seconds) - 17.0) / 24.0)
        outside = self.weather.outdoor_celsius(seconds) - 10.0
        value = room.celsius + room.swing_celsius * day + room.exposure * outside
        if room.episode:
            value += room.episode.celsius * room.episode.strength(seconds)
        if self.overheating and self.overheating.room == room.name:
            value += self.overheating.celsius(seconds)
        return value

    def humidity_percent(self, room: Room, seconds: float) -> float:
        """Return the relative humidity of a room.

        It follows from the outdoor moisture, the use of the room and its temperature.
        """
        dew_point = self.weather.dew_point_celsius(seconds) + room.moisture_celsius
        if room.episode:
            raised = room.episode.dew_point_celsius
            dew_point += raised * room.episode.strength(seconds)
        return relative_humidity_percent(self.celsius(room, seconds), dew_point)


def _hour(seconds: float) -> float:
    return seconds % _DAY_SECONDS / 3_600.0


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
_REQUESTING_ROOMS = ("living_room", "greenhouse")


class Domain(StrEnum):
    """A group of senders: the first word of their routing keys."""

    SENSORS = "sensors"
    HOME = "home"
    METRICS = "metrics"
    AI = "ai"
    ALERTS = "alerts"


DOMAINS = frozenset(Domain)


@dataclass(frozen=True, slots=True)
class HouseOptions:
    """Options of a house.

    Attributes:
        seed: the same seed gives the same weather, sensors, faults and bad messages.
        start_ms: the house's clock at the first message, epoch milliseconds.
        step_ms: time of the house's clock between two messages, milliseconds.
        bad_share: share of bad messages, 0 to 1.
        fault_interval_seconds: mean time between the faults of one sensor; 0 for no
            faults.
        overheating_room: name of a room that overheats one second after the start and
            every five minutes.
        to_be_packed: only use sensors whose records are single and have id and
            timestamp, so that the producer can pack them into arrays.
        domains: groups of senders to use.
        with_requests: whether to send requests to the sample model of config/triton.
    """

    seed: int
    start_ms: int
    step_ms: float
    bad_share: float = 0.0
    fault_interval_seconds: float = 0.0
    overheating_room: str | None = None
    to_be_packed: bool = False
    domains: frozenset[Domain] = DOMAINS
    with_requests: bool = True


class SimulatedMessage(NamedTuple):
    """One message of the house.

    Attributes:
        timestamp: epoch seconds by the house's clock.
        records: records of a good message; several are an array.
        bad: what is wrong with the message; None for a good one.
        bad_body: body of a bad message.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object] = ()
    bad: BadKind | None = None
    bad_body: bytes = b""

    @property
    def body(self) -> bytes:
        """Body to publish."""
        if self.bad:
            return self.bad_body
        first, *others = self.records
        return encode([first, *others] if others else first)

    @property
    def record_count(self) -> int:
        """Number of records, good and bad."""
        if self.bad:
            return self.bad.good_records + self.bad.bad_records
        return len(self.records)


class House:
    """An endless sequence of messages; the same options give the same messages."""

    def __init__(self, options: HouseOptions) -> None:
        self.options = options
        #: Number of sensor faults by name.
        self.faults: Counter[str] = Counter()
        rng = random.Random(options.seed)
        self._emitters = _emitters(options, rng, self.faults)
        rng.shuffle(self._emitters)
        self._rng = rng
        self._specimens = {
            name: specimen
            for name, specimen in SPECIMENS.items()
            if name.partition(".")[0] in options.domains
            and (options.with_requests or name != "ai.inference.requests")
        }
        self._deck = Deck(self._specimens, rng)

    def messages(self) -> Iterator[SimulatedMessage]:
        """Yield the messages in order of the house's clock. Call it only once."""
        options = self.options
        emitters = cycle(self._emitters)
        late_ms = 0
        for number in count():
            now_ms = options.start_ms + int(number * options.step_ms) + late_ms
            if self._is_bad(number):
                yield self._bad_message(now_ms)
                continue
            silent = 0
            while (emission := next(emitters).emit(now_ms)) is None:
                silent += 1
                if silent % len(self._emitters) == 0:
                    # All emitters have sent at this time: advance the clock.
                    late_ms += 1
                    now_ms += 1
            yield SimulatedMessage(*emission)

    def _is_bad(self, number: int) -> bool:
        """Return whether a message is bad, so that the share is exact at any length."""
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


def _emitters(
    options: HouseOptions, rng: random.Random, faults: Counter[str]
) -> list[Emitter]:
    """Return all senders of the house."""
    overheating = options.overheating_room and Overheating(
        options.overheating_room, options.start_ms / 1000 + 1.0
    )
    climate = Climate(Weather(rng), overheating or None)
    builders: dict[Domain, Callable[[], Sequence[Emitter]]] = {
        Domain.SENSORS: lambda: [
            *_climate_sensors(options, climate, rng, faults),
            # Every other one sends incomplete records, unless they are to be packed.
            *(
                motion_sensor(room, complete=options.to_be_packed or number % 2 == 0)
                for number, room in enumerate(_MOTION_ROOMS)
            ),
        ],
        Domain.HOME: lambda: [
            *(devices.entity(thing, rng) for thing in devices.THINGS),
            *(devices.automation(*each) for each in devices.AUTOMATIONS.items()),
        ],
        Domain.METRICS: lambda: [
            *devices.gauges(rng),
            *(
                devices.processor(host, rng)
                for host in devices.HOSTS
                if not options.to_be_packed
            ),
        ],
        Domain.AI: lambda: [
            *(
                devices.window_requests(room.name, partial(climate.celsius, room), rng)
                for room in ROOMS
                if room.name in _REQUESTING_ROOMS and options.with_requests
            ),
            devices.camera(rng),
        ],
        Domain.ALERTS: lambda: [devices.alerts([room.name for room in ROOMS])],
    }
    return [
        emitter
        for domain, build in builders.items()
        if domain in options.domains
        for emitter in build()
    ]


def _climate_sensors(
    options: HouseOptions, climate: Climate, rng: random.Random, faults: Counter[str]
) -> list[Emitter]:
    """Return the temperature and humidity sensors.

    Each room has two thermometers and a hygrometer, in different formats. A room has at
    most one sensor of a kind whose format has no id, since the room becomes its id. The
    cellar also has a logger with eight probes, unless records are to be packed.
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
    sensors: list[Emitter] = []
    for room in ROOMS:
        for kind, mounted, form in (
            ("temperature", "ceiling", best),
            ("temperature", "window", next(thermometers)),
            ("humidity", "wall", next(hygrometers)),
        ):
            own = {f"{room.name}-{kind}-{mounted}": probe(kind, room)}
            sensors.append(readings(kind, room.name, own, form))
    if not options.to_be_packed:
        cellar = next(room for room in ROOMS if room.name == "cellar")
        probes = {
            f"cellar-pipe-{number}": probe("temperature", cellar)
            for number in range(1, _LOGGER_PROBES + 1)
        }
        sensors.append(readings("temperature", cellar.name, probes, best))
    return sensors
