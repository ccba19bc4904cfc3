"""Requests as records, and the messages that answer them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtasks.errors import InvalidMessage, SinkRejected
from meshtasks.flows.inference.messages import (
    RequestOrigin,
    error_message,
    origin_of,
    request_of,
    result_message,
)
from meshtasks.flows.inference.tensors import Inference, Tensor
from tests.support.inference import NOW, envelope, request

KEY = "ai.model.obedient"
ORIGIN = RequestOrigin("obedient", "r1", NOW, {"sensor_id": "attic"})
ANSWER = Inference("3", (Tensor("y", "FP32", (1,), [0.5]),), 1.23456)
LIMIT_BYTES = 1_000


def refusal(record: dict[str, Any]) -> str:
    with pytest.raises(InvalidMessage) as caught:
        request_of(record, envelope(record, KEY))
    return str(caught.value)


# --- requests


def test_a_request_keeps_the_requesters_own_fields() -> None:
    record = request(sensor_id="attic", error="mine?", timestamp=NOW - 5)

    found = request_of(record, envelope(record, KEY))

    assert found.origin == ("obedient", "r1", NOW - 5, {"sensor_id": "attic"})
    assert found.version == ""
    assert found.inputs == record["inputs"]


@pytest.mark.parametrize(("version", "text"), [(2, "2"), ("2", "2"), (None, "")])
def test_a_version_is_a_number_or_text(version: Any, text: str) -> None:
    record = request(version=version)

    assert request_of(record, envelope(record, KEY)).version == text


@pytest.mark.parametrize("version", [0, -1, True, 1.5, "latest", "1/../2", "", "01"])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    assert refusal(request(version=version)).startswith("version: ")


@pytest.mark.parametrize(
    "model", ["", "../secret", "a/b", "a b", "a\n", ".hidden", "ä", "x" * 101, 1, None]
)
def test_a_model_that_could_not_be_part_of_a_url_is_refused(model: Any) -> None:
    assert refusal(request(model=model)).startswith("model: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "inputs.0.name: string should have at least 1 character"),
        ({"shape": [-1]}, "inputs.0.shape.0: input should be greater than or equal"),
        ({"shape": [1.0]}, "inputs.0.shape.0: expected a whole number"),
        ({"shape": None}, "inputs.0.shape: expected an array, got null"),
        ({"data": "1,2"}, 'inputs.0.data: expected an array, got the text "1,2"'),
    ],
)
def test_an_input_that_is_none_is_named(change: dict[str, Any], reason: str) -> None:
    record = request()
    record["inputs"][0].update(change)

    assert refusal(record).startswith(reason)


def test_a_request_without_an_id_has_that_of_its_message() -> None:
    record = request()
    del record["request_id"]

    message = envelope(record, KEY, message_id="m1")

    assert request_of(record, message).origin.request_id == "m1"


def test_requests_of_an_array_without_ids_have_one_each_and_again_the_same() -> None:
    records = [request(number=number) for number in (1.0, 2.0)]
    for record in records:
        del record["request_id"]
    message = envelope(records, KEY, message_id="m1")

    ids = [request_of(record, message).origin.request_id for record in records]

    assert ids[0] != ids[1]
    assert ids == [request_of(each, message).origin.request_id for each in records]


# --- whom to tell


def test_without_a_model_the_origin_has_that_of_the_routing_key() -> None:
    origin = origin_of({"request_id": "r1"}, envelope({}, KEY))

    assert origin == RequestOrigin("obedient", "r1", NOW, {})


def test_without_a_model_anywhere_there_is_no_origin() -> None:
    assert origin_of({"request_id": "r1", "model": 7}, envelope({}, "ai.model")) is None


def test_a_bad_timestamp_does_not_prevent_a_result() -> None:
    origin = origin_of(request(timestamp="noon"), envelope({}, KEY))

    assert origin is not None
    assert origin.time == NOW


# --- answers


def test_a_result_carries_outputs_latency_and_the_requesters_fields() -> None:
    message = result_message(ORIGIN, ANSWER, LIMIT_BYTES)

    assert json.loads(message.body) == {
        "request_id": "r1",
        "model": "obedient",
        "version": "3",
        "outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [0.5]}],
        "latency_ms": 1.235,
        "timestamp": "2026-11-23T13:20:00.000Z",
        "sensor_id": "attic",
    }
    assert message.exchange == "ai"
    assert message.routing_key == "ai.result.obedient"
    assert message.message_id == "obedient/r1/result"


def test_an_error_carries_the_reason() -> None:
    message = error_message(ORIGIN, "no such model", LIMIT_BYTES)

    assert json.loads(message.body)["error"] == "no such model"
    assert message.message_id == "obedient/r1/error"


def test_a_result_that_is_too_large_is_refused() -> None:
    size_bytes = len(result_message(ORIGIN, ANSWER, LIMIT_BYTES).body)

    with pytest.raises(SinkRejected, match=f"the result has {size_bytes} bytes"):
        result_message(ORIGIN, ANSWER, size_bytes - 1)


def test_an_error_that_is_too_large_goes_without_the_requesters_fields() -> None:
    large = ORIGIN._replace(attributes={"note": "n" * LIMIT_BYTES})

    message = error_message(large, "no such model", LIMIT_BYTES)

    assert len(message.body) < LIMIT_BYTES
    assert "note" not in json.loads(message.body)


def test_an_id_that_amqp_could_not_carry_is_digested() -> None:
    long = ORIGIN._replace(request_id="ü" * 200)

    one, again = (
        str(error_message(long, "", LIMIT_BYTES).message_id) for _ in range(2)
    )

    assert one == again
    assert one.startswith("obedient/")
    assert len(one.encode()) <= 255
    assert json.loads(error_message(long, "", 10_000).body)["request_id"] == "ü" * 200
