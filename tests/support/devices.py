"""Messages that devices really sent (tests/data/devices), and what comes of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from meshtasks.producers.sensornet.announcements import Announcements
from meshtasks.producers.sensornet.config import SensorNet
from meshtasks.producers.sensornet.message_records import Published
from meshtasks.producers.sensornet.normaliser import Normalised, Normaliser

DIRECTORY = Path(__file__).parents[1] / "data" / "devices"
SHIPPED = Path(__file__).parents[2] / "config" / "producers" / "sensornet.yaml"
#: 2026-11-23 12:00 UTC.
NOW = 1_795_435_200.0


class Example(NamedTuple):
    """A message as it was published."""

    topic: str
    body: bytes


def example(vendor: str, name: str) -> Example:
    """One of tests/data/devices."""
    entry = document_at(DIRECTORY / f"{vendor}.yaml")[name]
    return Example(entry["topic"], entry["body"].encode())


def shipped(**changes: Any) -> SensorNet:
    """config/producers/sensornet.yaml, with some keys of it replaced."""
    return SensorNet.model_validate(document_at(SHIPPED) | changes)


@cache
def document_at(path: Path) -> dict[str, Any]:
    """A YAML file of the tests or of the product."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


class Devices:
    """A normaliser that devices publish to, with the shipped configuration."""

    def __init__(self, **changes: Any) -> None:
        self.announcements = Announcements({})
        self._normaliser = Normaliser(shipped(**changes), self.announcements)

    def publish(
        self, topic: str, body: bytes | str, received_at: float = NOW
    ) -> Normalised:
        """What becomes of one message."""
        if isinstance(body, str):
            body = body.encode()
        key = topic.replace("/", ".")
        return self._normaliser.normalise(Published(key, body, received_at))


def records(normalised: Normalised) -> dict[str, dict[str, Any]]:
    """The bodies of its messages, by routing key."""
    return {each.routing_key: json.loads(each.body) for each in normalised.messages}


def values(normalised: Normalised) -> dict[str, Any]:
    """What its messages say, by routing key: value and unit, state, or fields."""
    return {key: _said(record) for key, record in records(normalised).items()}


def _said(record: dict[str, Any]) -> Any:
    if "fields" in record:
        return record["fields"]
    if "value" in record:
        return record["value"], record["unit"]
    if "trigger" in record:
        return record["trigger"]
    return record["motion"]
