"""Small topologies for tests, and the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshtasks.amqp.topology import Topology

SHIPPED = Path(__file__).parents[2] / "config" / "topology.yaml"


def shipped_document() -> dict[str, Any]:
    """config/topology.yaml as plain data, to be changed at will."""
    document: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return document


def shipped_topology() -> Topology:
    """config/topology.yaml."""
    return Topology.model_validate(shipped_document())


def small_document() -> dict[str, Any]:
    """The least that is a topology: one domain queue, dead letters, commands."""
    return {
        "defaults": {
            "exchange": {"alternate": "unrouted"},
            "queue": {
                "dead_letter_exchange": "dead.letter",
                "dead_letter_routing_key": "#",
            },
        },
        "exchanges": [
            {"name": "sensors", "type": "topic"},
            {"name": "dead.letter", "type": "direct"},
            {"name": "commands", "type": "direct"},
            {"name": "unrouted", "type": "fanout", "alternate": None},
        ],
        "queues": [
            {"name": "sensors.temperature"},
            {"name": "dead.letter.queue", "dead_letter_exchange": None},
            {"name": "commands"},
        ],
        "bindings": [
            {
                "exchange": "sensors",
                "queue": "sensors.temperature",
                "routing_key": "sensors.temperature.#",
            },
            {
                "exchange": "dead.letter",
                "queue": "dead.letter.queue",
                "routing_key": "#",
            },
            {"exchange": "unrouted", "queue": "dead.letter.queue"},
            {"exchange": "commands", "queue": "commands", "routing_key": "commands"},
        ],
        "retry_levels": [1, 5],
        "commands_queue": "commands",
    }


#: Publications to the shipped topology, (exchange, routing key), and the queues
#: that get them.
ROUTES: list[tuple[str, str, set[str]]] = [
    ("home.events", "home.light.kitchen.state_changed", {"home.events.state_changes"}),
    ("home.events", "home.light.kitchen.trigger", {"home.events.automations"}),
    ("home.events", "home.kitchen.state_changed", {"dead.letter.queue"}),
    ("sensors", "sensors.temperature", {"sensors.temperature"}),
    ("sensors", "sensors.temperature.attic.north", {"sensors.temperature"}),
    ("sensors", "sensors.humidity.attic", {"sensors.humidity"}),
    ("sensors", "sensors.motion.hall", {"sensors.motion"}),
    ("sensors", "sensors.pressure.attic", {"dead.letter.queue"}),
    ("sensors", "", {"dead.letter.queue"}),
    ("metrics", "metrics.system.nas.cpu", {"metrics.system"}),
    ("metrics", "metrics.application.web", {"metrics.application"}),
    ("metrics", "metrics.systems", {"dead.letter.queue"}),
    ("ai", "ai.model.yolo", {"ai.inference.requests"}),
    ("ai", "ai.result.yolo", {"ai.inference.results"}),
    ("ai", "ai", {"dead.letter.queue"}),
    ("alerts", "anything", {"alerts.critical", "alerts.notifications"}),
    ("archive", "sensors.temperature.attic", {"archive.events", "archive.metrics"}),
    ("dead.letter", "#", {"dead.letter.queue"}),
    ("dead.letter", "sensors.temperature.attic", {"dead.letter.queue"}),
    ("unrouted", "anything", {"dead.letter.queue"}),
    ("commands", "commands", {"commands"}),
    ("commands", "elsewhere", {"dead.letter.queue"}),
    ("amq.topic", "sensors.temperature.attic", {"sensors.temperature"}),
    ("amq.topic", "sensors.pressure.attic", {"dead.letter.queue"}),
    ("amq.topic", "home.light.kitchen.trigger", {"home.events.automations"}),
    ("amq.topic", "zigbee2mqtt.kitchen", {"devices"}),
    ("amq.topic", "shellyplusht-08b6.status.temperature:0", {"devices"}),
    ("amq.topic", "printer.status", set()),
    ("amq.topic", "sensor.temperature.attic", {"dead.letter.queue"}),
    ("amq.topic", ".home.light.kitchen.trigger", {"dead.letter.queue"}),
    ("amq.topic", "metrics.system.nas", {"dead.letter.queue"}),
    ("retry.600", "sensors.temperature", {"retry.600"}),
]
