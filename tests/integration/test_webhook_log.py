"""The log of webhooks: what it remembers, how long, and what its faults mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.errors import SinkUnavailable
from meshtasks.state.webhook_log import KEEP_SECONDS, WebhookLog

NOW = 1_795_440_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "webhooks.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[WebhookLog]:
    with closing(WebhookLog(path)) as opened:
        yield opened


def test_what_was_noted_is_known_to_every_process(log: WebhookLog, path: Path) -> None:
    log.note({"r1": ["a", "b"], "r2": ["a"]}, NOW)

    with closing(WebhookLog(path)) as other:
        assert other.taken(["r1", "r3"]) == {("r1", "a"), ("r1", "b")}


def test_what_is_noted_again_is_noted_once(log: WebhookLog) -> None:
    log.note({"r1": ["a"]}, NOW)
    log.note({"r1": ["a", "b"]}, NOW)

    assert log.taken(["r1"]) == {("r1", "a"), ("r1", "b")}


def test_what_is_older_than_any_replay_is_forgotten(log: WebhookLog) -> None:
    log.note({"old": ["a"], "new": []}, NOW)
    log.note({"new": ["a"]}, NOW + KEEP_SECONDS + 1)

    assert log.taken(["old", "new"]) == {("new", "a")}


def test_a_file_that_cannot_be_used_is_an_unavailable_sink_until_it_is_removed(
    log: WebhookLog, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1_000)

    with pytest.raises(SinkUnavailable) as caught:
        log.taken(["r1"])
    with pytest.raises(SinkUnavailable):
        log.probe()
    assert caught.value.sink == "webhook_log"

    path.unlink()
    log.probe()
    log.note({"r1": ["a"]}, NOW)


def test_a_file_that_others_write_to_is_there(
    log: WebhookLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtasks.state.sqlite.BUSY_TIMEOUT_SECONDS", 0.05)
    log.note({}, NOW)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.probe()
