"""A handler with a bug: seen at once, and without harm to its neighbours."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from typing_extensions import override

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import SchemaMismatch
from meshtasks.flows.contract import Batch, Handler
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from meshtasks.text import keep_secret
from meshtasks.worker.results import BatchResult
from meshtasks.worker.runner import BatchRunner
from tests.support.docs import ROOT

QUEUE = "sensors.motion"


def handle(batch: Batch[dict[str, Any]], _sinks: Sinks) -> list[Outcome]:
    """Do as the records say; one of them spoils the whole batch."""
    done: list[Outcome] = [DONE] * len(batch.records)
    for record in batch.records:
        match record["do"]:
            case "bug":
                record["do"].no_such_attribute()
            case "sum":
                _ = 1 + record["do"]
            case "spoil":
                record["do"] = None
            case "empty":
                batch.records.clear()
                batch.indexes.clear()
                raise TypeError
            case action if action in ERRORS:
                raise ERRORS[action].with_traceback(None)  # that of earlier tests
            case action if action in ANSWERS:
                return ANSWERS[action](done)
            case _:
                pass
    return done


class Mute(Exception):
    """It cannot say what happened."""

    @override
    def __str__(self) -> str:
        raise RuntimeError


ERRORS: dict[str, BaseException] = {
    "fault": RuntimeError("the other side answered nonsense"),
    "exit": SystemExit(3),
    "cancel": asyncio.CancelledError(),
    "mute": Mute(),
    "invalid": SchemaMismatch("it is not for me"),
}
ANSWERS: dict[str, Callable[[list[Outcome]], list[Outcome]]] = {
    "forget": lambda _: [],
    "nothing": lambda _: None,  # type: ignore[dict-item, return-value]
    "text": lambda done: "done"[: len(done)],  # type: ignore[dict-item, return-value]
    "odd": lambda done: ["done"] * len(done),  # type: ignore[list-item]
}


@pytest.fixture
def runner() -> BatchRunner:
    handler = Handler(QUEUE, handle, dict[str, Any], (), False)
    return BatchRunner(handler, Settings(Environment()))


def run(
    runner: BatchRunner, *actions: str, tried: dict[str, Any] | None = None
) -> BatchResult:
    """Run a batch; ``tried`` are headers of its first message."""
    bodies = [json.dumps({"do": action}).encode() for action in actions]
    return runner(
        [
            Delivery(tag, body, "sensors", QUEUE, {}, False, 0.0).to_wire()
            if tag or not tried
            else Delivery(
                0, body, "sensors", QUEUE, {"application_headers": tried}, True, 0.0
            ).to_wire()
            for tag, body in enumerate(bodies)
        ]
    )


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("invalid", "SchemaMismatch"),
        ("bug", "AttributeError"),
        ("sum", "TypeError"),
        ("empty", "TypeError"),
        *((odd, "HandlerFault") for odd in ANSWERS),
    ],
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
        assert ("Traceback" in outcome.traceback) is (action != "invalid")


@pytest.mark.parametrize("action", ["fault", "exit", "cancel", "mute"])
def test_what_may_pass_is_tried_again(runner: BatchRunner, action: str) -> None:
    result = run(runner, "go", action)

    assert [type(each.outcome) for each in result.failures] == [Retry, Retry]


def test_what_always_fails_takes_no_neighbour_along_when_it_comes_again(
    runner: BatchRunner,
) -> None:
    result = run(runner, "go", "fault", "go", tried={headers.ATTEMPT: 1})

    (failure,) = result.failures
    assert (failure.position, type(failure.outcome)) == (1, Retry)


def test_what_all_fail_of_is_not_tried_for_each(runner: BatchRunner) -> None:
    result = run(runner, *["fault"] * 9, tried={headers.ATTEMPT: 1})

    tried = [isinstance(e.outcome, Retry) and e.outcome.tried for e in result.failures]
    assert tried == [True] * 3 + [False] * 6


def test_a_handler_that_changes_its_records_spoils_none_when_it_fails(
    runner: BatchRunner,
) -> None:
    result = run(runner, "spoil", "sum", "spoil")

    assert [each.position for each in result.failures] == [1]


def test_an_outcome_goes_out_as_plain_text_without_secrets() -> None:
    keep_secret(["Zq7token-8f3a"])
    text, wait = KeyError("not with Zq7token-8f3a", "\ud800"), float("nan")
    given: Any = [Dead(text), Retry(None, retry_after_seconds=wait)]  # type: ignore[arg-type]
    handler = Handler(QUEUE, lambda *_: given, dict[str, Any], ())

    result = run(BatchRunner(handler, Settings(Environment())), "go", "go")

    dead, retry = (each.outcome for each in result.failures)
    assert dead == Dead(r"('not with ***', '\ud800')")
    assert retry == Retry("None")


class Locked(BaseModel):
    """What validates it has a bug."""

    do: str

    @field_validator("do")
    @classmethod
    def is_known(cls, do: str) -> str:
        return {"go": do}[do]


def test_a_record_whose_model_fails_is_dead_and_its_neighbours_are_done() -> None:
    handler = Handler(QUEUE, lambda batch, _: [DONE] * len(batch.records), Locked, ())

    result = run(BatchRunner(handler, Settings(Environment())), "go", "stop", "go")

    (failure,) = result.failures
    assert failure.position == 1
    assert isinstance(failure.outcome, Dead)
    assert "what validates the record failed: KeyError: 'stop'" in (
        failure.outcome.reason
    )


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
