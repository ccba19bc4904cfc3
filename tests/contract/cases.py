"""Every handler of the mesh: a line each makes it keep the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.handling import NOW

_TEXT = {"title": "t", "message": "m", "source": "test"}
_STATE = {"entity_id": "light.hall", "state": "on", "attributes": {}}
_WINDOW = {"name": "window", "shape": [1, 24], "datatype": "FP32", "data": [20.0] * 24}


@dataclass(frozen=True, slots=True)
class Case:
    """A handler's records.

    Attributes:
        queue: what it handles.
        routing_key: one that leads there.
        good: a record that it takes, with an effect that can be seen.
        bad: a record that it can never take.
        reason: words that say why.
        effect: some of the parts of its effect (see ``World.effects``).
    """

    queue: str
    routing_key: str
    good: Any
    bad: Any
    reason: str
    effect: tuple[object, ...]


CASES = [
    Case(
        "sensors.temperature",
        "sensors.temperature.attic",
        {"value": 21.5, "timestamp": NOW},
        {"value": "warm"},
        "expected a number",
        ("point", "temperature_celsius", 21.5),
    ),
    Case(
        "sensors.humidity",
        "sensors.humidity.bath",
        {"value": 55, "timestamp": NOW},
        {"value": 155},
        "between 0 and 100",
        ("point", "humidity_percent", 55),
    ),
    Case(
        "sensors.motion",
        "sensors.motion.hall",
        {"motion": True, "timestamp": NOW},
        {"motion": "on"},
        "expected true or false",
        ("call", "/webhook/any", "sensors.motion.hall"),
    ),
    Case(
        "home.events.state_changes",
        "home.light.hall.state_changed",
        {"entity_id": "light.hall", "old_state": None, "new_state": _STATE},
        {"entity_id": "light.hall", "old_state": None, "new_state": None},
        "expected an old state",
        ("call", "/webhook/any", "home.light.hall.state_changed"),
    ),
    Case(
        "home.events.automations",
        "home.automation.lamp.trigger",
        {"automation": "automation.lamp", "timestamp": NOW},
        {"trigger": "state"},
        "automation: this field is missing",
        ("call", "/webhook/any", "home.automation.lamp.trigger"),
    ),
    Case(
        "metrics.system",
        "metrics.system.nas",
        {"name": "cpu", "fields": {"load": 0.5}, "timestamp": NOW},
        {"name": "cpu", "fields": {"load": {}}},
        "fields.load: expected",
        ("point", "cpu_load", 0.5),
    ),
    Case(
        "metrics.application",
        "metrics.application.gateway",
        {"name": "requests", "value": 7, "timestamp": NOW},
        {"name": "requests"},
        "value: this field is missing",
        ("point", "requests_value", 7),
    ),
    Case(
        "ai.inference.requests",
        "ai.model.temperature-anomaly",
        {"model": "temperature-anomaly", "inputs": [_WINDOW], "timestamp": NOW},
        5,  # the only one that nobody has to be told of
        "expected a JSON object",
        ("ai.inference.results",),
    ),
    Case(
        "ai.inference.results",
        "ai.result.temperature-anomaly",
        {"request_id": "r1", "model": "temperature-anomaly", "error": "no"},
        {"request_id": "r1"},
        "model: this field is missing",
        ("point", "inference_ok"),
    ),
    Case(
        "alerts.critical",
        "alerts.critical.test",
        {**_TEXT, "severity": "critical"},
        {**_TEXT, "severity": "dire"},
        "severity",
        ("rows", "mesh.db", "alerts"),
    ),
    Case(
        "alerts.notifications",
        "alerts.warning.test",
        {**_TEXT, "severity": "warning"},
        {"severity": "warning"},
        "title: this field is missing",
        ("rows", "mesh.db", "alerts"),
    ),
    Case(
        "archive.events",
        "garden.gate",
        {"open": True, "timestamp": NOW},
        b'{"open": NaN}',
        "not JSON",
        ("line", "garden.gate"),
    ),
    Case(
        "archive.metrics",
        "metrics.system.nas",
        {"load": 1, "timestamp": NOW},
        b'{"load": Infinity}',
        "not JSON",
        ("line", "metrics.system.nas"),
    ),
    Case(
        "pending.timeseries",
        "pending.timeseries",
        {
            "lines": [f"waited value=1 {round(NOW * 1000)}"],
            "queue": "metrics.system",
            "exchange": "metrics",
            "routing_key": "metrics.system.nas",
            "received_at": NOW,
            "body": '{"name": "waited", "value": 1}',
        },
        {"lines": "waited value=1"},
        "lines: expected",
        ("point", "waited_value", 1),
    ),
]
