"""Records of every kind that the mesh takes, to make bad messages of.

Their ids end in ``broken``, so no good record of the house is ever the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from producers.simulator import (
    homeassistant,
    inference,
    metrics,
    sensors,
    troubles,
)
from producers.simulator.badmessages import Change, Specimen

_BROKEN = "broken"


def _reading(kind: str, room: str, rng: random.Random) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return {
            "sensor_id": f"{room}-{kind}-{_BROKEN}{suffix}",
            "value": round(rng.uniform(18.0, 24.0), 2),
            "timestamp": timestamp,
        }

    wrong = [Change("value", text) for text in ("warm", "unavailable", "21.5", "21,5")]
    key = f"sensors.{kind}.{room}"
    return Specimen(sensors.EXCHANGE, key, record, "value", wrong)


def _temperature(room: str, rng: random.Random) -> Specimen:
    return _reading("temperature", room, rng)


def _humidity(room: str, rng: random.Random) -> Specimen:
    return _reading("humidity", room, rng)


def _motion(room: str, _rng: random.Random) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return sensors.motion_record(room, f"{room}-{_BROKEN}{suffix}", timestamp)

    wrong = [Change("motion", "on"), Change("motion", 1), Change("sensor_id", 7)]
    key = sensors.motion_key(room)
    return Specimen(sensors.EXCHANGE, key, record, "motion", wrong)


def _state_change(room: str, rng: random.Random) -> Specimen:
    entity_id = f"light.{room}_{_BROKEN}"

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        name = entity_id + suffix.replace("-", "_")
        context = f"{rng.getrandbits(80):020x}"
        thing = homeassistant.Thing(name, ("on",))
        state = homeassistant.state_object(thing, "on", context, timestamp)
        return {"entity_id": name, "old_state": None, "new_state": state}

    wrong = [Change("new_state", "on"), Change("entity_id", 7), Change("old_state", [])]
    key = homeassistant.state_key(entity_id)
    return Specimen(homeassistant.EXCHANGE, key, record, "entity_id", wrong)


def _automation(room: str, _rng: random.Random) -> Specimen:
    name = f"{room}_{_BROKEN}"

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return homeassistant.trigger_record(name + suffix, "time pattern", timestamp)

    wrong = [Change("automation", 7), Change("automation", "")]
    key = homeassistant.trigger_key(name)
    return Specimen(homeassistant.EXCHANGE, key, record, "automation", wrong)


def _metric(key: str, tag: str) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        tags = {tag: _BROKEN + suffix}
        return metrics.metric_record("uptime", {"seconds": 86_400.0}, tags, timestamp)

    wrong = [Change("name", 7), Change("fields", [1.0]), Change("tags", "nas")]
    return Specimen(metrics.EXCHANGE, key, record, "name", wrong)


def _host_metric(_room: str, _rng: random.Random) -> Specimen:
    return _metric(metrics.host_key(_BROKEN), "host")


def _service_metric(_room: str, _rng: random.Random) -> Specimen:
    return _metric(metrics.service_key(_BROKEN), "service")


def _request(room: str, rng: random.Random) -> Specimen:
    number = rng.getrandbits(32)

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        window = [20.0] * inference.WINDOW_READINGS
        sensor_id = f"{room}-{_BROKEN}{suffix}"
        return inference.request_record(sensor_id, room, window, number, timestamp)

    wrong = [Change("inputs", "20.0 °C"), Change("inputs", []), Change("version", "x")]
    key = f"ai.model.{inference.MODEL}"
    return Specimen(inference.EXCHANGE, key, record, "inputs", wrong)


def _result(room: str, rng: random.Random) -> Specimen:
    model = f"{room}-{_BROKEN}"
    number = rng.getrandbits(32)

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        result = inference.result_record(0.5, number, timestamp)
        return {**result, "model": model + suffix}

    wrong = [Change("request_id", 7), Change("latency_ms", "fast")]
    key = f"ai.result.{model}"
    return Specimen(inference.EXCHANGE, key, record, "request_id", wrong)


def _alert(room: str, _rng: random.Random) -> Specimen:
    trouble = troubles.Trouble("info", _BROKEN, "{} is broken", "Look at the {}.")

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return troubles.alert_record(trouble, room + suffix, timestamp)

    wrong = [Change("severity", "bad"), Change("labels", [room]), Change("title", "")]
    key = troubles.alert_key(trouble)
    return Specimen(troubles.EXCHANGE, key, record, "severity", wrong, lenient=True)


#: By what they are counted as; each takes a room.
SPECIMENS: Mapping[str, Callable[[str, random.Random], Specimen]] = {
    "sensors.temperature": _temperature,
    "sensors.humidity": _humidity,
    "sensors.motion": _motion,
    "home.events.state_changes": _state_change,
    "home.events.automations": _automation,
    "metrics.system": _host_metric,
    "metrics.application": _service_metric,
    "ai.inference.requests": _request,
    "ai.inference.results": _result,
    "alerts": _alert,
}
