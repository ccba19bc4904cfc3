"""The thread that notes what explains holes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meshtasks.amqp.dead_letters import FailedMessage, dead_message
from meshtasks.amqp.delivery import Delivery
from meshtasks.config.environment import Environment
from meshtasks.outcome import Dead
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import Count
from meshtasks.worker.recording import Recorder
from meshtasks.worker.resolution import Resolution
from meshtasks.worker.results import BatchResult
from tests.support.waiting import wait_until

NOW = 1_795_440_000.0
QUEUE = "sensors.temperature"
SEEN = (
    *("sensors.temperature.attic", "attic", "temperature", "loft", "°C", 21.5),
    *(((NOW, NOW, 1),), NOW, 0.0, 0.0, 0, ""),
)
DELIVERY = Delivery(
    *(1, b'{"unit": "X"}', "sensors", f"{QUEUE}.attic", {}),
    redelivered=False,
    received_at=NOW,
)
RESULT = BatchResult(1, 1, done=1, seen=(SEEN,))


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(state_dir=tmp_path / "state")


@pytest.fixture
def history(env: Environment) -> Iterator[History]:
    with closing(History(StateLocation.of(env))) as opened:
        yield opened


def sensors(history: History) -> list[str]:
    return [each.sensor_id for each in history.sensors()]


def test_batches_dead_letters_and_outages_are_noted(
    env: Environment, history: History
) -> None:
    recorder = Recorder(env, "w1", "worker")
    recorder.start(QUEUE)
    recorder.finished(QUEUE, RESULT)
    letter = dead_message(
        FailedMessage(DELIVERY, QUEUE, b"{}"),
        Dead('unit "X" is not a temperature unit', "UnknownUnit"),
        task_id="t",
        worker="w1",
        now=NOW,
    )
    recorder.moved(QUEUE, Resolution(outgoing=[letter], dead=Counter(UnknownUnit=1)))
    recorder.goes("sink", "timeseries", "refused")
    recorder.stop(within_seconds=60)

    assert sensors(history) == ["attic"]
    (incident,) = history.incidents(0.0)
    assert (incident.cause, incident.sensor_id) == ("bad unit", "attic")
    assert history.counts(0.0) == {QUEUE: Count(1, 1)}
    spans = {(each.kind, each.name): each for each in history.spans(0.0)}
    assert spans["worker", "w1"].reason == QUEUE
    assert spans["worker", "w1"].ends_at is not None
    assert spans["sink", "timeseries"].ends_at is None


def test_while_the_state_is_away_what_happens_is_kept(
    env: Environment, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    env.state_dir.write_text("no directory")
    recorder = Recorder(env, "w1", "worker")
    recorder.start(QUEUE)
    recorder.finished(QUEUE, RESULT)
    wait_until(lambda: "cannot be noted" in caplog.text, 60, "the fault")
    recorder.finished(QUEUE, RESULT)

    env.state_dir.unlink()

    wait_until(lambda: "is noted again" in caplog.text, 60, "the state")
    recorder.stop(within_seconds=60)
    assert history.counts(0.0) == {QUEUE: Count(2)}
    assert [each.number for each in history.sensors()] == [2]


def test_a_worker_that_was_killed_is_known_to_have_ended(
    env: Environment, history: History
) -> None:
    killed = Recorder(env, "w1", "worker")
    killed.start(QUEUE)
    wait_until(lambda: history.spans(0.0), 60, "the first worker")
    again = Recorder(env, "w1", "worker")
    again.start(QUEUE)

    wait_until(lambda: len(history.spans(0.0)) == 2, 60, "the second one")

    first, second = history.spans(0.0)
    assert first.ends_at is not None
    assert second.ends_at is None
    killed.stop(within_seconds=60)
    again.stop(within_seconds=60)
