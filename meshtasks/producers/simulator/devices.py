"""Other senders in the house: Home Assistant, hosts and services, models, alerts.

Each kind has a function that makes its record, which is also used for bad messages, and
a function that makes the emitter of these records.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

from meshtasks.producers.simulator.sensors import Emission, Emitter, single, utc_time

HOME_EVENTS, METRICS, AI, ALERTS = "home.events", "metrics", "ai", "alerts"


class Thing(NamedTuple):
    """An entity of Home Assistant, and the states that it goes through in turn."""

    entity_id: str
    states: Sequence[str]
    attributes: Mapping[str, object] = {}


_DOOR: Mapping[str, object] = {"device_class": "door", "battery_level": 64}
THINGS = (
    Thing("light.kitchen", ("off", "on"), {"brightness": 180}),
    Thing("light.living_room", ("off", "on"), {"brightness": 90}),
    Thing("switch.coffee_machine", ("off", "on")),
    Thing("binary_sensor.front_door", ("off", "on"), _DOOR),
    Thing("binary_sensor.balcony_door", ("off", "on"), _DOOR),
    Thing("media_player.living_room", ("idle", "playing", "paused")),
    Thing(
        "sensor.washing_machine_power",
        ("2.1", "2140.0", "310.5", "unavailable"),
        {"device_class": "power", "unit_of_measurement": "W"},
    ),
    Thing("cover.bedroom_blind", ("open", "closing", "closed", "opening")),
)
AUTOMATIONS = {
    "hall_light": "state of binary_sensor.hall_motion",
    "good_night": "time pattern",
}


def state_object(
    thing: Thing, state: str, context: str, timestamp: object
) -> dict[str, object]:
    """Return a state as in Home Assistant's ``state_changed``.

    See https://www.home-assistant.io/docs/configuration/events/.
    """
    return {
        "entity_id": thing.entity_id,
        "state": state,
        "attributes": dict(thing.attributes),
        "last_changed": timestamp,
        "last_reported": timestamp,
        "last_updated": timestamp,
        "context": {"id": context, "parent_id": None, "user_id": None},
    }


def trigger_record(name: str, trigger: str, timestamp: object) -> dict[str, object]:
    """Return the record of an automation's trigger."""
    automation = f"automation.{name}"
    return {"automation": automation, "trigger": trigger, "timestamp": timestamp}


def entity(thing: Thing, rng: random.Random) -> Emitter:
    """Return the emitter of an entity's changes; the first has no old state."""
    states = cycle(thing.states)
    last: dict[str, object] | None = None

    def record(now_ms: int) -> dict[str, object]:
        nonlocal last
        context = f"{rng.getrandbits(80):020x}"
        old, last = last, state_object(thing, next(states), context, utc_time(now_ms))
        return {"entity_id": thing.entity_id, "old_state": old, "new_state": last}

    return single(HOME_EVENTS, f"home.{thing.entity_id}.state_changed", record)


def automation(name: str, trigger: str) -> Emitter:
    """Return the emitter of an automation's triggers."""
    return single(
        HOME_EVENTS,
        f"home.automation.{name}.trigger",
        lambda now_ms: trigger_record(name, trigger, utc_time(now_ms)),
    )


#: A value, or several named values.
_Value = Mapping[str, float] | float
_Measure = Callable[[float, random.Random], _Value]
#: Cores of a host; their records are one array message.
_CORES = 4


def _wave(seconds: float, period_seconds: float, low: float, high: float) -> float:
    share = (1.0 + math.sin(math.tau * seconds / period_seconds)) / 2.0
    return low + (high - low) * share


def _memory(seconds: float, rng: random.Random) -> _Value:
    used = _wave(seconds, 3_000.0, 35.0, 60.0) + rng.gauss(0.0, 0.5)
    return {"used_percent": round(used, 2), "used_bytes": int(used * 2**30 / 12)}


def _disk(seconds: float, rng: random.Random) -> _Value:
    used = _wave(seconds, 86_400.0, 60.0, 70.0) + rng.gauss(0.0, 0.01)
    return {"used_percent": round(used, 3), "free_bytes": int((100 - used) * 10**10)}


def _network(seconds: float, rng: random.Random) -> _Value:
    received = _wave(seconds, 600.0, 1e4, 2e6) * rng.uniform(0.8, 1.2)
    return {"received_bytes": int(received), "sent_bytes": int(received / 9)}


def _requests(seconds: float, rng: random.Random) -> _Value:
    count = rng.randint(0, 40)
    return {
        "count": count,
        "errors": rng.choice((0, 0, 0, 1)),
        "p95_ms": round(_wave(seconds, 900.0, 8.0, 60.0) * rng.uniform(0.8, 1.5), 2),
    }


def _backlog(seconds: float, rng: random.Random) -> _Value:
    return float(max(0, round(_wave(seconds, 300.0, -3.0, 8.0) + rng.gauss(0.0, 1.0))))


HOSTS = ("nas", "pi", "mini")
#: Tag, routing key, owners of the metrics, and metrics by name. Names have no
#: underscore, because some stores join name and field with one.
GAUGES: Sequence[tuple[str, str, Sequence[str], Mapping[str, _Measure]]] = (
    (
        "host",
        "metrics.system",
        HOSTS,
        {"mem": _memory, "disk": _disk, "net": _network},
    ),
    (
        "service",
        "metrics.application",
        ("home-assistant", "jellyfin", "zigbee2mqtt"),
        {"requests": _requests, "backlog": _backlog},
    ),
)


def metric_record(
    name: str, value: _Value, tags: Mapping[str, str], timestamp: object
) -> dict[str, object]:
    """Return the record of a metric."""
    what = "fields" if isinstance(value, Mapping) else "value"
    return {"name": name, what: value, "tags": dict(tags), "timestamp": timestamp}


def gauges(rng: random.Random) -> list[Emitter]:
    """Return an emitter for each metric of hosts and services."""

    def gauge(key: str, tag: str, owner: str, name: str, measure: _Measure) -> Emitter:
        def record(now_ms: int) -> dict[str, object]:
            value = measure(now_ms / 1000, rng)
            return metric_record(name, value, {tag: owner}, utc_time(now_ms))

        return single(METRICS, f"{key}.{owner}", record)

    return [
        gauge(key, tag, owner, name, measure)
        for tag, key, owners, metrics in GAUGES
        for owner in owners
        for name, measure in metrics.items()
    ]


def processor(host: str, rng: random.Random) -> Emitter:
    """Return the emitter of the load of a host's cores, as one array message."""

    def emit(now_ms: int) -> Emission:
        records = []
        for core in range(_CORES):
            busy = _wave(now_ms / 1000, 120.0 + 17 * core, 3.0, 70.0)
            user = round(busy * rng.uniform(0.6, 0.8), 2)
            value = {"user_percent": user, "busy_percent": round(busy, 2)}
            tags = {"host": host, "core": str(core)}
            records.append(metric_record("cpu", value, tags, utc_time(now_ms)))
        return Emission(METRICS, f"metrics.system.{host}", now_ms / 1000, records)

    return Emitter(emit)


#: The sample model of config/triton, and the number of temperatures it needs.
MODEL = "temperature-anomaly"
WINDOW_READINGS = 24
_WINDOW_STEP_SECONDS = 240.0
_NOISE_CELSIUS = 0.06
#: A model that runs in the camera at the door.
_CAMERA_MODEL = "doorbell-person"


def _tensor(name: str, columns: int, data: Sequence[float]) -> dict[str, object]:
    shape = [1, columns]
    return {"name": name, "shape": shape, "datatype": "FP32", "data": list(data)}


def request_record(
    sensor_id: str, room: str, window: Sequence[float], number: int, timestamp: object
) -> dict[str, object]:
    """Return a request to the sample model; the window is in °C, latest value last."""
    return {
        "request_id": f"{sensor_id}-{number}",
        "model": MODEL,
        "inputs": [_tensor("window", WINDOW_READINGS, window)],
        "sensor_id": sensor_id,
        "location": room,
        "timestamp": timestamp,
    }


def result_record(
    probability: float, number: int, timestamp: object
) -> dict[str, object]:
    """Return a result of the camera's model."""
    return {
        "request_id": f"frame-{number}",
        "model": _CAMERA_MODEL,
        "version": "3",
        "outputs": [_tensor("person", 1, [round(probability, 4)])],
        "latency_ms": round(20.0 + 15.0 * probability, 3),
        "timestamp": timestamp,
    }


def window_requests(
    room: str, celsius: Callable[[float], float], rng: random.Random
) -> Emitter:
    """Return the emitter of requests about the last temperatures of a room.

    Args:
        celsius: returns the temperature at a time in epoch seconds.
    """

    def record(now_ms: int) -> dict[str, object]:
        moments = (
            now_ms / 1000 - steps * _WINDOW_STEP_SECONDS
            for steps in range(WINDOW_READINGS - 1, -1, -1)
        )
        window = [
            round(celsius(moment) + rng.gauss(0.0, _NOISE_CELSIUS), 2)
            for moment in moments
        ]
        sensor_id, timestamp = f"{room}-window", utc_time(now_ms)
        return request_record(sensor_id, room, window, now_ms, timestamp)

    return single(AI, f"ai.model.{MODEL}", record)


def camera(rng: random.Random) -> Emitter:
    """Return the emitter of results of the camera's model."""
    return single(
        AI,
        f"ai.result.{_CAMERA_MODEL}",
        lambda now_ms: result_record(rng.random(), now_ms, utc_time(now_ms)),
    )


class Warned(NamedTuple):
    """A kind of alert."""

    severity: str
    source: str
    title: str
    message: str

    @property
    def routing_key(self) -> str:
        """Routing key of its alerts."""
        return f"alerts.{self.severity}.{self.source}"


WARNINGS = (
    Warned("info", "washing_machine", "{} laundry is done", "It waits in the {}."),
    Warned("warning", "leak_sensor", "Water in the {}", "The {} is wet."),
    Warned("critical", "smoke_detector", "Smoke in the {}", "Smoke in the {}!"),
    Warned("warning", "window_contact", "{} window is open", "It rains; see the {}."),
)
#: Time between two alerts by the house's clock.
_ALERT_INTERVAL_MS = 1_000
#: Limit of active alerts; at the limit the oldest is resolved.
_ALERTS_AT_ONCE = 4


def alert_record(
    warned: Warned, room: str, starts_at: object, *, resolved: bool = False
) -> dict[str, object]:
    """Return the record of an alert that starts or is resolved."""
    location = room.replace("_", " ")
    title = warned.title.format(location)
    return {
        "title": title[:1].upper() + title[1:],
        "message": "It is over." if resolved else warned.message.format(location),
        "severity": warned.severity,
        "source": warned.source,
        "labels": {"location": room, "device": f"{warned.source}-{room}"},
        "starts_at": starts_at,
        "resolved": resolved,
    }


def alerts(rooms: Sequence[str]) -> Emitter:
    """Return the emitter of alerts, in one room after the other.

    Each alert is resolved some seconds later.
    """
    active: deque[tuple[Warned, str, int]] = deque()
    begun = 0

    def emit(now_ms: int) -> Emission:
        nonlocal begun
        resolved = len(active) == _ALERTS_AT_ONCE
        if resolved:
            warned, room, since_ms = active.popleft()
        else:
            rounds, index = divmod(begun, len(rooms))
            warned = WARNINGS[(index + rounds) % len(WARNINGS)]
            room, since_ms = rooms[index], now_ms
            active.append((warned, room, since_ms))
            begun += 1
        record = alert_record(warned, room, utc_time(since_ms), resolved=resolved)
        return Emission(ALERTS, warned.routing_key, now_ms / 1000, [record])

    return Emitter(emit, _ALERT_INTERVAL_MS)
