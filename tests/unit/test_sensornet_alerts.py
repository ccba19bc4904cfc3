"""What the shipped rules make of devices: from MQTT to an alert."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.pipeline import metric_points
from meshtasks.records.alert import Alert
from meshtasks.records.envelope import Envelope
from meshtasks.rules.config import RULES
from meshtasks.rules.evaluation import evaluate
from tests.support.devices import NOW, SHIPPED, Devices

SHIPPED_RULES = Settings(Environment(config_dir=SHIPPED.parents[1])).read(RULES)


def alerts_of(payload: dict[str, Any]) -> list[Alert]:
    """The alerts that a Zigbee2MQTT device in the cellar raises."""
    normalised = Devices().publish("zigbee2mqtt/cellar", json.dumps(payload))
    (message,) = normalised.messages
    envelope = Envelope(
        *(message.body, message.exchange, message.routing_key, "metrics.system"),
        *(message.message_id, NOW, NOW, {}),
    )
    metric = json.loads(message.body)
    watched = metric_points([metric], [envelope], SHIPPED_RULES).watched
    return [
        alert
        for each in watched
        for alert in evaluate(each.rules, each.series, None, each.samples, NOW)[1]
    ]


@pytest.mark.parametrize(
    ("payload", "title"),
    [
        ({"water_leak": True}, "Water: cellar"),
        ({"smoke": True}, "Smoke: cellar"),
        ({"carbon_monoxide": True}, "Carbon monoxide: cellar"),
        ({"gas": True}, "Gas: cellar"),
        ({"battery": 4}, "cellar needs a battery"),
    ],
)
def test_a_device_in_trouble_is_an_alert(payload: dict[str, Any], title: str) -> None:
    (alert,) = alerts_of(payload)

    assert alert.title == title


@pytest.mark.parametrize(
    "payload", [{"water_leak": False, "gas": False}, {"battery": 90}]
)
def test_a_device_that_is_well_is_none(payload: dict[str, Any]) -> None:
    assert alerts_of(payload) == []
