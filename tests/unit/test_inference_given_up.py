"""Whoever asked a model is told when the worker gives the request up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshtasks.amqp.publisher import Outgoing
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.inference.handler import run_models
from meshtasks.records.envelope import Envelope
from tests.support.handling import HANDLERS
from tests.support.inference import REQUESTS, envelope, request

SETTINGS = Settings(Environment(config_dir=Path(__file__).parents[2] / "config"))
KEY = "ai.model.obedient"


def told(lost: Envelope) -> list[Outgoing]:
    assert HANDLERS[REQUESTS] is run_models
    return list(HANDLERS[REQUESTS].on_exhausted(lost, "the model is busy", SETTINGS))


def test_the_answer_is_the_reason() -> None:
    (answer,) = told(envelope(request("r1", sensor_id="attic"), KEY))

    said = json.loads(answer.body)
    assert (answer.exchange, answer.routing_key) == ("ai", "ai.result.obedient")
    assert (said["request_id"], said["error"]) == ("r1", "the model is busy")
    assert said["sensor_id"] == "attic"


def test_each_request_of_an_array_is_answered() -> None:
    answers = told(envelope([request("r1"), request("r2")], KEY))

    assert [json.loads(each.body)["request_id"] for each in answers] == ["r1", "r2"]


@pytest.mark.parametrize("body", ["text", 7, None, [[]], [{}]])
def test_there_is_no_result_without_a_requester(body: Any) -> None:
    assert told(envelope(body, "ai.model")) == []


@pytest.mark.parametrize("body", [b"", b"not JSON", b"\xff", b"[" * 100_000])
def test_what_cannot_be_read_is_left_to_its_dead_letter(body: bytes) -> None:
    assert told(replace(envelope(None, KEY), body=body)) == []
