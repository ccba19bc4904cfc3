"""Requests are stacked, and the answers cut up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from meshtasks.errors import SinkRejected, SinkUnavailable
from meshtasks.flows.inference.tensors import (
    Inference,
    ModelInput,
    StackResults,
    Tensor,
    infer_stacked,
    split,
    stacked,
    stacks,
)

WIDTH = 3


def request(first: int, rows: int = 1, width: int = WIDTH) -> ModelInput:
    """Rows whose values count up from ``first``."""
    data = list(range(first, first + rows * width))
    return ModelInput((Tensor("x", "INT32", (rows, width), data),), rows)


def doubled(inputs: Sequence[Tensor]) -> Inference:
    (x,) = inputs
    y = x._replace(name="y", data=[2 * value for value in x.data])
    return Inference("1", (y,), 1.0)


def ran(
    requests: Sequence[ModelInput],
    infer: Callable[[Sequence[Tensor]], Inference] = doubled,
    limit: int = 4,
    go_on: Callable[[], bool] = lambda: True,
) -> StackResults:
    return infer_stacked(requests, limit, infer, go_on)


def values(served: StackResults) -> dict[int, list[int]]:
    return {
        place: answer.outputs[0].data
        for place, answer in served.results.items()
        if isinstance(answer, Inference)
    }


def test_requests_of_one_form_are_stacked_up_to_the_limit() -> None:
    requests = [request(0) for _ in range(5)]

    assert list(stacks(requests, 2)) == [[0, 1], [2, 3], [4]]


def test_rows_count_not_requests() -> None:
    requests = [request(0, rows=rows) for rows in (2, 2, 1, 3, 4)]

    assert list(stacks(requests, 4)) == [[0, 1], [2, 3], [4]]


def test_requests_of_another_shape_are_stacked_apart() -> None:
    requests = [request(0), request(0, width=2), request(0), request(0, width=2)]

    assert list(stacks(requests, 4)) == [[0, 2], [1, 3]]


def test_requests_with_other_inputs_are_stacked_apart() -> None:
    plain = request(0)
    named = ModelInput((plain.tensors[0]._replace(name="z"),), 1)

    assert list(stacks([plain, named, plain], 4)) == [[0, 2], [1]]


def test_without_batches_each_request_goes_alone() -> None:
    assert list(stacks([request(0), request(0)], 0)) == [[0], [1]]


def test_a_request_that_is_to_go_alone_does_so_after_the_others() -> None:
    requests = [request(0), request(0)._replace(single=True), request(0)]

    assert list(stacks(requests, 4)) == [[0, 2], [1]]


def test_a_stack_has_the_rows_of_its_requests_in_their_order() -> None:
    (x,) = stacked([request(0, rows=2), request(100)])

    assert x == ("x", "INT32", (3, 3), [0, 1, 2, 3, 4, 5, 100, 101, 102])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(4, 8))
def test_what_is_stacked_and_split_is_what_each_would_get_alone(
    rows: list[int], limit: int
) -> None:
    requests = [request(100 * n, rows=count) for n, count in enumerate(rows)]

    served = ran(requests, limit=limit)

    assert values(served) == {
        place: doubled(each.tensors).outputs[0].data
        for place, each in enumerate(requests)
    }
    for place, answer in served.results.items():
        assert isinstance(answer, Inference)
        assert answer.outputs[0].shape == (rows[place], WIDTH)
    assert served.fault is None


def test_the_answer_to_a_single_request_is_not_cut() -> None:
    whole = Inference("1", (Tensor("y", "INT32", (7,), list(range(7))),), 1.0)

    assert split(whole, [2]) == [whole]


def test_a_stack_that_is_refused_is_halved_until_the_culprits_stand_alone() -> None:
    sizes = []

    def infer(inputs: Sequence[Tensor]) -> Inference:
        (x,) = inputs
        sizes.append(x.shape[0])
        if 300 in x.data or 600 in x.data:
            message = "no"
            raise SinkRejected(message)
        return doubled(inputs)

    served = ran([request(100 * n) for n in range(8)], infer, limit=8)

    refused = [
        n for n, each in served.results.items() if isinstance(each, SinkRejected)
    ]
    assert sorted(refused) == [3, 6]
    assert sorted(values(served)) == [0, 1, 2, 4, 5, 7]
    assert sizes == [8, 4, 2, 2, 1, 1, 4, 2, 2, 1, 1]


def test_a_result_without_a_row_for_each_row_is_retried_one_by_one() -> None:
    def infer(inputs: Sequence[Tensor]) -> Inference:
        (y,) = doubled(inputs).outputs
        return Inference("1", (y._replace(shape=(1, 3), data=y.data[:3]),), 1.0)

    served = ran([request(0), request(100)], infer)

    assert values(served) == {0: [0, 2, 4], 1: [200, 202, 204]}


def test_a_fault_ends_it_and_names_the_stack_that_met_it() -> None:
    def infer(inputs: Sequence[Tensor]) -> Inference:
        if 200 in inputs[0].data:
            raise SinkUnavailable("triton")
        return doubled(inputs)

    served = ran([request(100 * n) for n in range(6)], infer, limit=2)

    assert sorted(values(served)) == [0, 1]
    assert isinstance(served.fault, SinkUnavailable)
    assert served.tried == {2, 3}


def test_out_of_time_the_rest_is_left() -> None:
    moments = iter([True, True, False])

    served = ran(
        [request(100 * n) for n in range(6)], limit=2, go_on=lambda: next(moments)
    )

    assert sorted(values(served)) == [0, 1, 2, 3]
    assert served.fault is None
