"""Many requests to one model become few: rows stacked along the batch axis; pure.

A request to a model costs the round trip whatever is in it, and models (on a GPU
above all) compute many rows in little more than the time of one. So requests whose
tensors have the same shapes apart from the batch are sent as one, and the result is
split into theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from meshtasks.errors import SinkRejected, Transient
from meshtasks.flows.inference.tensors import ModelInput, Tensor


class Inference(NamedTuple):
    """What a model returned, and how long it took, in a stack or single."""

    version: str
    outputs: tuple[Tensor, ...]
    latency_ms: float


class StackResults(NamedTuple):
    """Results of requests to one model, by their indices: inferences and refusals; the
    fault that ended it before all requests were sent, and those that met the fault."""

    results: dict[int, Inference | SinkRejected]
    fault: Transient | None
    tried: frozenset[int]


class NoSuchModel(SinkRejected):
    """The server has no such model, or not in this version."""


class ModelNotReady(Transient):
    """The server has the model, but it is not loaded."""


class ModelCrashed(Transient):
    """The model's process died; it does not run until it is loaded again."""


class UnsplittableError(SinkRejected):
    """The model did not return one row for each row of its input."""


def infer_stacked(
    requests: Sequence[ModelInput],
    max_batch_size: int,
    infer: Callable[[Sequence[Tensor]], Inference],
    go_on: Callable[[], bool],
) -> StackResults:
    """Run a model on requests, in as few stacks of ``max_batch_size`` rows as it takes
    (0: no stacks), until ``go_on`` is false.

    A stack that is refused is halved until the requests at fault are single: one bad
    request does not fail its neighbours. Models have no memory, so running one again
    does no harm."""
    results: dict[int, Inference | SinkRejected] = {}
    ahead = list(stacks(requests, max_batch_size))[::-1]
    while ahead and go_on():
        stack = ahead.pop()
        try:
            whole = infer(stacked([requests[index] for index in stack]))
            parts = split(whole, [requests[index].rows for index in stack])
        except SinkRejected as refusal:
            if len(stack) == 1:
                results[stack[0]] = refusal
            else:
                middle = len(stack) // 2
                ahead += [stack[middle:], stack[:middle]]
        except Transient as fault:
            return StackResults(results, fault, frozenset(stack))
        else:
            results.update(zip(stack, parts, strict=True))
    return StackResults(results, None, frozenset())


def stacks(requests: Sequence[ModelInput], max_batch_size: int) -> Iterator[list[int]]:
    """Which requests go together, by index, in order of arrival; last those that are
    single. Takes what :func:`infer_stacked` takes."""
    alike: dict[tuple[object, ...], list[int]] = {}
    single: list[int] = []
    for index, request in enumerate(requests):
        if max_batch_size and not request.single:
            form = tuple((tensor.name, tensor.shape[1:]) for tensor in request.tensors)
            alike.setdefault(form, []).append(index)
        else:
            single.append(index)
    for indices in alike.values():
        stack: list[int] = []
        rows = 0
        for index in indices:
            if rows + requests[index].rows > max_batch_size:
                yield stack
                stack, rows = [], 0
            stack.append(index)
            rows += requests[index].rows
        yield stack
    yield from ([index] for index in single)


def stacked(requests: Sequence[ModelInput]) -> Sequence[Tensor]:
    """The inputs of one or more requests of the same form, as one request's."""
    first = requests[0]
    if len(requests) == 1:
        return first.tensors
    rows = sum(request.rows for request in requests)
    return [
        tensor._replace(
            shape=(rows, *tensor.shape[1:]),
            data=[
                value for request in requests for value in request.tensors[index].data
            ],
        )
        for index, tensor in enumerate(first.tensors)
    ]


def split(whole: Inference, rows: Sequence[int]) -> list[Inference]:
    """The result of a stack, split into those of its requests, of so many rows each.

    Raises UnsplittableError if an output has not one row for each row of the input."""
    if len(rows) == 1:
        return [whole]
    ends = list(accumulate(rows))
    for output in whole.outputs:
        if output.shape[:1] != (ends[-1],):
            message = (
                f"the model's output {output.name} has the shape {list(output.shape)} "
                f"for a batch of {ends[-1]}"
            )
            raise UnsplittableError(message)
    return [
        Inference(
            whole.version,
            tuple(_rows(output, end - count, end) for output in whole.outputs),
            whole.latency_ms,
        )
        for count, end in zip(rows, ends, strict=True)
    ]


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    size = math.prod(tensor.shape[1:])
    data = tensor.data[start * size : end * size]
    return tensor._replace(shape=(end - start, *tensor.shape[1:]), data=data)
