"""Tensors in JSON: what fits, and what is said of what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from meshtasks.errors import SchemaMismatch, SinkRejected
from meshtasks.flows.inference.tensors import (
    JsonTensor,
    Tensor,
    json_tensor,
    tensor_of,
)


def given(datatype: str, shape: list[int], data: list[Any]) -> JsonTensor:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": data}


def refusal(datatype: str, shape: list[int], data: list[Any]) -> str:
    with pytest.raises(SchemaMismatch) as caught:
        tensor_of(given(datatype, shape, data))
    return str(caught.value)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_values_come_flat_or_nested_as_the_shape(data: list[Any]) -> None:
    assert tensor_of(given("INT32", [2, 3], data)).data == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "data", [[[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5]], [[1, 2, 3], 4], [[[1]]]]
)
def test_values_nested_otherwise_are_refused(data: list[Any]) -> None:
    reason = "x: data is nested otherwise than the shape [2, 3]"

    assert refusal("INT32", [2, 3], data) == reason


def test_a_tensor_without_values_is_one() -> None:
    assert tensor_of(given("FP32", [0, 3], [])).data == []


@pytest.mark.parametrize(("shape", "count"), [([2, 2], 4), ([0], 0), ([], 1)])
def test_values_must_be_as_many_as_the_shape_holds(
    shape: list[int], count: int
) -> None:
    reason = f"x: the shape {shape} holds {count} values, got 3"

    assert refusal("FP32", shape, [1.0, 2.0, 3.0]) == reason


def test_texts_become_bytes() -> None:
    assert tensor_of(given("BYTES", [1], ["Küche"])).data == ["Küche".encode()]


@pytest.mark.parametrize(
    ("datatype", "value", "reason"),
    [
        ("FP32", "1", 'expected a number, got the text "1"'),
        ("FP32", True, "expected a number, got true"),
        ("FP32", None, "expected a number, got null"),
        ("FP32", math.nan, "expected a finite number, got NaN"),
        ("FP32", 3.5e38, "input should be less than or equal to 34028234663852886"),
        ("FP16", -65_505.0, "input should be greater than or equal to -65504"),
        ("FP64", [1.0], "expected a number, got an array"),
        ("INT8", 128, "input should be less than 128, got the number 128"),
        ("INT8", 1.0, "expected a whole number, got the number 1.0"),
        ("UINT64", -1, "input should be greater than or equal to 0"),
        ("UINT64", 2**64, "input should be less than 18446744073709551616"),
        ("BOOL", 1, "expected true or false, got the number 1"),
        ("BYTES", 1, "expected text, got the number 1"),
    ],
)
def test_a_value_of_another_datatype_is_named_with_its_place(
    datatype: str, value: Any, reason: str
) -> None:
    good = {"BOOL": True, "BYTES": "text"}.get(datatype, 0)

    assert refusal(datatype, [3], [good, value, value]).startswith(
        f"x: value 1: {reason}"
    )


def test_a_datatype_that_json_cannot_carry_is_refused_with_those_it_can() -> None:
    assert "expected one of the datatypes BOOL, UINT8" in refusal("BF16", [1], [1])


def test_an_output_is_given_as_it_would_be_taken() -> None:
    output = Tensor("y", "BYTES", (2, 1), ["ä".encode(), b""])

    assert json_tensor(output) == {
        "name": "y",
        "shape": [2, 1],
        "datatype": "BYTES",
        "data": ["ä", ""],
    }


@pytest.mark.parametrize(
    ("datatype", "value", "reason"),
    [
        ("FP32", math.nan, "output y holds NaN or Infinity"),
        ("FP64", -math.inf, "output y holds NaN or Infinity"),
        ("BYTES", b"\xff", "output y is not UTF-8 text"),
    ],
)
def test_an_output_that_json_cannot_carry_is_refused(
    datatype: str, value: Any, reason: str
) -> None:
    with pytest.raises(SinkRejected, match=reason):
        json_tensor(Tensor("y", datatype, (1,), [value]))
