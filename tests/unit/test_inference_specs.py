"""Whether a request gives a model what it takes."""

from __future__ import annotations

import pytest

from meshtasks.errors import SchemaMismatch
from meshtasks.flows.inference.tensors import (
    InputSpec,
    JsonTensor,
    ModelSpec,
    model_input,
)

WINDOW = InputSpec("window", "FP32", (-1, 3), optional=False)
WEIGHT = InputSpec("weight", "FP32", (-1, 1), optional=True)
BATCHING = ModelSpec("anomaly", "", {"window": WINDOW, "weight": WEIGHT}, 4)
SINGLE = ModelSpec(
    "words", "", {"text": InputSpec("text", "BYTES", (-1,), optional=False)}, 0
)


def window(rows: int = 1) -> JsonTensor:
    data = [0.5] * 3 * rows
    return {"name": "window", "shape": [rows, 3], "datatype": "FP32", "data": data}


def weight(rows: int = 1) -> JsonTensor:
    data = [1.0] * rows
    return {"name": "weight", "shape": [rows, 1], "datatype": "FP32", "data": data}


def refusal(*inputs: JsonTensor, spec: ModelSpec = BATCHING) -> str:
    with pytest.raises(SchemaMismatch) as caught:
        model_input(inputs, spec)
    return str(caught.value)


def test_inputs_are_put_in_one_order_and_the_rows_counted() -> None:
    request = model_input([window(2), weight(2)], BATCHING)

    assert [tensor.name for tensor in request.tensors] == ["weight", "window"]
    assert request.rows == 2


def test_an_optional_input_may_be_missing() -> None:
    assert len(model_input([window()], BATCHING).tensors) == 1


def test_what_a_model_without_batches_takes_has_no_rows_to_count() -> None:
    text: JsonTensor = {
        "name": "text",
        "shape": [2],
        "datatype": "BYTES",
        "data": ["a", "b"],
    }

    assert model_input([text], SINGLE).rows == 1


def test_an_input_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    assert refusal({**window(), "name": "windows"}) == (
        "anomaly has no input windows; "
        "expected window (FP32 [-1, 3]), weight (FP32 [-1, 1])"
    )


def test_a_missing_input_is_named_with_what_it_should_be() -> None:
    reason = "anomaly takes the input window (FP32 [-1, 3]); it is missing"

    assert refusal(weight()) == reason


def test_an_input_given_twice_is_refused() -> None:
    assert refusal(window(), window()) == "inputs: the same name is given twice"


def test_another_datatype_is_refused_with_the_expected_one() -> None:
    reason = "window: expected the datatype FP32, got FP64"

    assert refusal({**window(), "datatype": "FP64"}) == reason


@pytest.mark.parametrize("shape", [[3], [1, 2], [1, 3, 1], []])
def test_another_shape_is_refused_with_the_expected_one(shape: list[int]) -> None:
    reason = f"window: expected the shape [-1, 3], got {shape}"

    assert refusal({**window(), "shape": shape}) == reason


@pytest.mark.parametrize("rows", [0, 5])
def test_a_batch_must_be_of_a_size_that_the_model_takes(rows: int) -> None:
    assert refusal(window(rows)) == f"anomaly takes batches of 1 to 4, got {rows}"


def test_all_inputs_must_have_the_same_batch_size() -> None:
    assert refusal(window(2), weight(1)) == (
        "expected all inputs to have the same batch size, "
        "got {'window': 2, 'weight': 1}"
    )
