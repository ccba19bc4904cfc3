"""Alerts, policies and batches for tests of the alert manager."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, TypeAdapter

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS, AlertPolicy
from meshtasks.flows.alerts.handler import notify_due
from meshtasks.flows.alerts.service import ALERT_STATE, AlertService, AlertUpdate
from meshtasks.flows.alerts.store import AlertTables
from meshtasks.flows.contract import Batch
from meshtasks.flows.sinks import Sinks
from meshtasks.records.alert import Alert
from meshtasks.records.envelope import Envelope
from tests.support import batches

NOW = 1_795_440_000.0  # 23 November 2026, 13:20:00 UTC

#: alerts.yaml: one route for everything.
CONFIG: dict[str, Any] = {
    "receivers": ["phone", "mail"],
    "time_zone": "UTC",
    "defaults": {
        "receivers": ["phone"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "4h",
    },
    "routes": [{"name": "all"}],
}

_MANY = TypeAdapter(list[Alert])
_ONE = TypeAdapter(Alert)


def alert_fields(**changes: Any) -> dict[str, Any]:
    """An alert as it is published: the attic is damp, a warning."""
    fields = {
        "title": "attic is damp",
        "message": "attic has 85 % humidity.",
        "severity": "warning",
        "source": "rules.damp",
        "labels": {"location": "attic"},
    }
    return fields | changes


def alert(**changes: Any) -> Alert:
    """An alert record."""
    return Alert.model_validate(alert_fields(**changes))


def policy(*routes: Mapping[str, Any], **changes: Any) -> AlertPolicy:
    """A policy: one route for everything, unless others are given."""
    fields: dict[str, Any] = {
        "receivers": ["phone", "mail"],
        "routes": list(routes) or [{"name": "all", "receivers": ["phone"]}],
        "time_zone": "UTC",
    }
    return AlertPolicy.model_validate(fields | changes)


def batch_of(
    *contents: Any,
    queue: str = "alerts.notifications",
    timestamp: float | None = None,
    message_ids: bool = True,
) -> Batch[Alert]:
    """A batch as the worker makes it; a list is an array message."""
    batch: Batch[Alert] = Batch(queue, [], [], [])
    for content in contents:
        body = json.dumps(content).encode()
        name = f"m{hash(body)}" if message_ids else None
        envelope = Envelope(body, "alerts", "alerts.x", queue, name, timestamp, NOW, {})
        adapter = _MANY if isinstance(content, list) else _ONE
        batches.add(batch, envelope, adapter.validate_python(content))
    return batch


class Manager:
    """An alert manager whose clock stands still until it is moved.

    Args:
        directory: for its state and its configuration; another one on the same
            directory goes on where the first was.
        receivers: URLs by name.
        config: alerts.yaml; one route for everything to ``phone`` if not given.
    """

    def __init__(
        self,
        directory: Path,
        receivers: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        path = directory / "config" / "alerts.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**CONFIG, **(config or {})}))
        env = Environment(
            config_dir=path.parent,
            state_dir=directory / "state",
            receivers={name: SecretStr(url) for name, url in receivers.items()},
        )
        self.sinks = Sinks(Settings(env))
        self.now = NOW
        self.service = AlertService(
            self.sinks[ALERT_STATE], self.sinks.settings.read(ALERTS)
        )
        self._numbers = itertools.count()

    def update(self, **changes: Any) -> None:
        """Take an alert in now, and look what is due, as the worker does then."""
        name = f"r{self.now}-{next(self._numbers)}"
        self.service.receive([AlertUpdate(name, alert(**changes), self.now)], self.now)
        self.notify()

    def notify(self) -> None:
        """Send what is due now."""
        notify_due(self.sinks, lambda: self.now)

    def at(self, *seconds: float) -> None:
        """Move the clock to so many seconds after the start, step by step."""
        for second in seconds:
            self.now = NOW + second
            self.notify()

    @contextmanager
    def tables(self) -> Iterator[AlertTables]:
        """A look into its state."""
        with self.sinks[ALERT_STATE].tables() as tables:
            yield tables

    def events(self) -> list[tuple[str, str]]:
        """Kind and receiver (or fingerprint) of what happened, oldest first."""
        with self.tables() as tables:
            return [(each.kind, each.who) for each in tables.history(1_000)[::-1]]

    def close(self) -> None:
        """End it; a new one may go on."""
        self.sinks.close()


def receive(environment: Environment, *alerts: Alert) -> None:
    """Have the alert manager of a mesh receive alerts now."""
    with closing(Sinks(Settings(environment))) as sinks:
        service = AlertService(sinks[ALERT_STATE], sinks.settings.read(ALERTS))
        now = time.time()
        updates = [AlertUpdate(f"{now}/{n}", it, now) for n, it in enumerate(alerts)]
        service.receive(updates, now)
