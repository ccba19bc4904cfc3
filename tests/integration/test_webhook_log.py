"""The log of webhooks: what it remembers, and how long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from meshtasks.flows.webhooks.log import KEEP_SECONDS, WebhookLog
from meshtasks.state.database import StateLocation

NOW = 1_795_440_000.0


@pytest.fixture
def log(state_location: StateLocation) -> Iterator[WebhookLog]:
    with closing(WebhookLog(state_location)) as opened:
        yield opened


def test_what_was_noted_is_known_to_every_process(
    log: WebhookLog, state_location: StateLocation
) -> None:
    log.note({"r1": ["a", "b"], "r2": ["a"]}, NOW)

    with closing(WebhookLog(state_location)) as other:
        assert other.taken(["r1", "r3"]) == {("r1", "a"), ("r1", "b")}


def test_what_is_noted_again_is_noted_once(log: WebhookLog) -> None:
    log.note({"r1": ["a"]}, NOW)
    log.note({"r1": ["a", "b"]}, NOW)

    assert log.taken(["r1"]) == {("r1", "a"), ("r1", "b")}


def test_what_is_older_than_any_replay_is_forgotten(log: WebhookLog) -> None:
    log.note({"old": ["a"], "new": []}, NOW)
    log.note({"new": ["a"]}, NOW + KEEP_SECONDS + 1)

    assert log.taken(["old", "new"]) == {("new", "a")}
