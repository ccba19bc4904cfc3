"""A producer of Home Assistant's events in this process, and what it published."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from meshtasks.amqp.publisher import Publisher
from meshtasks.errors import ConfigError
from meshtasks.producers.base import Producer
from meshtasks.producers.homeassistant.config import HomeAssistantConfig
from meshtasks.producers.homeassistant.follower import Access, Follower
from meshtasks.producers.homeassistant.publishing import (
    EventCounts,
    EventPublisher,
    KnownStates,
)
from meshtasks.timing import Backoff
from tests.support.amqp import Delivery
from tests.support.homeassistant import TOKEN, ReplayedHomeAssistant
from tests.support.waiting import wait_until

CHANGES = "home.events.state_changes"
TRIGGERS = "home.events.automations"
PRESENCE = "mesh.home_assistant"
PATIENCE_SECONDS = 60.0
#: Tries again at once, so that no test waits for a delay.
IMPATIENT = Backoff(first_seconds=0.02, longest_seconds=0.1)


class Running:
    """A producer that follows a house, until it is stopped.

    Attributes:
        error: why it ended by itself.
    """

    def __init__(
        self,
        access: Access,
        config: HomeAssistantConfig,
        broker_url: str,
        state_path: Path,
    ) -> None:
        self._producer = Producer(Publisher(broker_url))
        self._known = KnownStates(state_path)
        self._known.load()
        self._publisher = EventPublisher(config, self._producer, self._known)
        self._stop = threading.Event()
        self._follower = Follower(
            access,
            config.loops,
            self._publisher,
            self._stop,
            partial(self._known.save_confirmed, self._producer),
        )
        self._thread = threading.Thread(target=self._run)
        self.error: ConfigError | None = None

    @property
    def counts(self) -> EventCounts:
        return self._publisher.counts

    def start(self) -> None:
        self._producer.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop in order: all is confirmed, and the states are saved."""
        self._stop.set()
        self._thread.join()
        assert self._producer.stop(PATIENCE_SECONDS) == ()
        self._known.save()

    def die(self) -> None:
        """End without another word to the broker or the disk."""
        self._stop.set()
        self._thread.join()
        self._producer.stop(0.0)

    def wait_ended(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._follower()
        except ConfigError as error:
            self.error = error


#: Follows a house for a while, with a config and, if need be, another token, pings
#: or backoff.
Follow = Callable[..., AbstractContextManager[Running]]


def following(
    house: ReplayedHomeAssistant, broker_url: str, state_path: Path
) -> Follow:
    """Makes producers that follow a house, one after the other."""

    @contextmanager
    def follow(
        config: dict[str, Any] | None = None, **access: Any
    ) -> Iterator[Running]:
        running = Running(
            Access(house.url, **{"token": TOKEN, "backoff": IMPATIENT, **access}),
            HomeAssistantConfig.model_validate(config or {}),
            broker_url,
            state_path,
        )
        # The house may not have noticed yet that the one before it is gone.
        house.cut()
        running.start()
        try:
            yield running
        finally:
            running.die()

    return follow


def wait_heard(house: ReplayedHomeAssistant) -> None:
    wait_until(lambda: house.heard, PATIENCE_SECONDS, "a subscription")


def wait_taken(running: Running, events: list[Any]) -> None:
    """Until it has taken so many more events."""
    wait_until(
        lambda: running.counts.events >= len(events), PATIENCE_SECONDS, "its events"
    )


def wait_known(house: ReplayedHomeAssistant, running: Running) -> None:
    """Until it knows the house's states: it takes no event before."""
    wait_heard(house)
    wait_taken(running, house.tell(1))


def records(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    """Their records, Home Assistant's own presence left out."""
    found = [json.loads(each.body) for each in deliveries]
    return [each for each in found if each.get("entity_id") != PRESENCE]


def presence(deliveries: list[Delivery]) -> list[dict[str, Any]]:
    found = [json.loads(each.body) for each in deliveries]
    return [each["new_state"] for each in found if each.get("entity_id") == PRESENCE]


def changes_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["data"] for each in events if each["event_type"] == "state_changed"]


def triggers_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each["event_type"] == "automation_triggered"]


def wait_compared(running: Running) -> None:
    """Until it has published what came of a gap."""
    wait_until(lambda: running.counts.gaps, PATIENCE_SECONDS, "the comparison")
