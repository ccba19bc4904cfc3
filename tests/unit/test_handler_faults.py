"""A handler with a bug: seen at once, and without harm to its neighbours."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from meshtasks.amqp.delivery import Delivery
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from meshtasks.worker.results import BatchResult
from meshtasks.worker.runner import BatchRunner
from tests.support.docs import ROOT

QUEUE = "sensors.motion"


def handle(batch: Batch[dict[str, Any]], _sinks: Sinks) -> list[Outcome]:
    """Do as the records say; one of them spoils the whole batch."""
    for record in batch.records:
        match record["do"]:
            case "bug":
                record["do"].no_such_attribute()
            case "sum":
                _ = 1 + record["do"]
            case "fault":
                message = "the other side answered nonsense"
                raise RuntimeError(message)
            case "forget":
                return []
            case _:
                pass
    return [DONE] * len(batch.records)


@pytest.fixture
def runner() -> BatchRunner:
    handler = Handler(QUEUE, handle, dict[str, Any], (), False)
    return BatchRunner(handler, Settings(Environment()))


def run(runner: BatchRunner, *actions: str) -> BatchResult:
    bodies = [json.dumps({"do": action}).encode() for action in actions]
    return runner(
        [
            Delivery(tag, body, "sensors", QUEUE, {}, False, 0.0).to_wire()
            for tag, body in enumerate(bodies)
        ]
    )


@pytest.mark.parametrize(
    ("action", "kind"),
    [("bug", "AttributeError"), ("sum", "TypeError"), ("forget", "HandlerFault")],
)
def test_what_meets_a_bug_is_dead_at_once_and_its_neighbours_are_done(
    runner: BatchRunner, action: str, kind: str
) -> None:
    result = run(runner, "go", action, "go", action, "go")

    dead = {each.position: each.outcome for each in result.failures}
    assert dead.keys() == {1, 3}
    for outcome in dead.values():
        assert isinstance(outcome, Dead)
        assert outcome.error_type == kind
        assert "Traceback" in outcome.traceback


def test_what_may_pass_is_tried_again(runner: BatchRunner) -> None:
    result = run(runner, "go", "fault")

    assert [type(each.outcome) for each in result.failures] == [Retry, Retry]


def test_the_log_has_each_traceback_once_and_a_line_for_each_batch(
    runner: BatchRunner, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        run(runner, "bug", "go", "bug")
    run(runner, "fault")

    tracebacks = [text for text in caplog.messages if "Traceback" in text]
    assert [("no_such_attribute" in text) for text in tracebacks] == [True, False]
    assert len(caplog.messages) == 4
    assert {record.levelname for record in caplog.records} == {"ERROR"}


@pytest.mark.parametrize("started_by", ["Procfile", "docker-compose.yml"])
def test_flower_shows_state_and_result_of_a_batch(started_by: str) -> None:
    (columns,) = re.findall(r"--tasks_columns=(\S+)", (ROOT / started_by).read_text())

    assert {"name", "state", "result"} <= set(columns.split(","))
