"""Many requests to one model become few: rows stacked along the batch axis.

A request to a model costs the round trip whatever is in it, and models (on a GPU
above all) compute many rows in little more than the time of one. So requests whose
tensors have the same shapes apart from the batch are sent as one, and the answer is
cut into theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from meshtasks.errors import SinkRejected, Transient
from meshtasks.flows.inference.specs import Fitting
from meshtasks.flows.inference.tensors import Tensor


class Inference(NamedTuple):
    """What a model answered.

    Attributes:
        version: of the model that answered.
        outputs: its outputs.
        latency_ms: how long that took, from our side, in a stack or alone.
    """

    version: str
    outputs: tuple[Tensor, ...]
    latency_ms: float


class Served(NamedTuple):
    """What became of the requests to one model, by their places.

    Attributes:
        answers: the answers, and the refusals.
        fault: what put an end to it before all were served; None at the end.
        tried: those that met the fault.
    """

    answers: dict[int, Inference | SinkRejected]
    fault: Transient | None
    tried: frozenset[int]


class UnsplittableError(SinkRejected):
    """The model did not answer with one row for each row of its input."""


Infer = Callable[[Sequence[Tensor]], Inference]


def serve(
    requests: Sequence[Fitting],
    max_batch_size: int,
    infer: Infer,
    go_on: Callable[[], bool],
) -> Served:
    """Have a model answer requests, in as few stacks as it takes.

    A stack that is refused is halved until the requests at fault stand alone: one
    bad request does not fail its neighbours. Models have no memory, so it does no
    harm to ask again.

    Args:
        requests: to one model.
        max_batch_size: the most rows in a stack; 0: each request goes alone.
        infer: asks the model.
        go_on: false when there is no time for another stack.
    """
    answers: dict[int, Inference | SinkRejected] = {}
    ahead = list(stacks(requests, max_batch_size))[::-1]
    while ahead and go_on():
        stack = ahead.pop()
        try:
            whole = infer(stacked([requests[place] for place in stack]))
            parts = split(whole, [requests[place].rows for place in stack])
        except SinkRejected as refusal:
            if len(stack) == 1:
                answers[stack[0]] = refusal
            else:
                middle = len(stack) // 2
                ahead += [stack[middle:], stack[:middle]]
        except Transient as fault:
            return Served(answers, fault, frozenset(stack))
        else:
            answers.update(zip(stack, parts, strict=True))
    return Served(answers, None, frozenset())


def stacks(requests: Sequence[Fitting], max_batch_size: int) -> Iterator[list[int]]:
    """Which requests go together, by their places, in order of arrival; last those
    that go alone.

    Args:
        requests: to one model.
        max_batch_size: the most rows in a stack; 0: each request goes alone.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    alone: list[int] = []
    for place, request in enumerate(requests):
        if max_batch_size and not request.alone:
            alike.setdefault(_form(request), []).append(place)
        else:
            alone.append(place)
    for places in alike.values():
        stack: list[int] = []
        rows = 0
        for place in places:
            if rows + requests[place].rows > max_batch_size:
                yield stack
                stack, rows = [], 0
            stack.append(place)
            rows += requests[place].rows
        yield stack
    yield from ([place] for place in alone)


def stacked(requests: Sequence[Fitting]) -> Sequence[Tensor]:
    """The inputs of one or more requests of the same form, as one request's."""
    first = requests[0]
    if len(requests) == 1:
        return first.inputs
    rows = sum(request.rows for request in requests)
    return [
        tensor._replace(
            shape=(rows, *tensor.shape[1:]),
            data=[
                value for request in requests for value in request.inputs[place].data
            ],
        )
        for place, tensor in enumerate(first.inputs)
    ]


def split(whole: Inference, rows: Sequence[int]) -> list[Inference]:
    """The answer to a stack, cut into the answers to its requests.

    Args:
        whole: the answer.
        rows: of each request.

    Raises:
        UnsplittableError: an output has not one row for each row of the input.
    """
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


def _form(request: Fitting) -> tuple[object, ...]:
    """Equal for requests that can be stacked."""
    return tuple((tensor.name, tensor.shape[1:]) for tensor in request.inputs)


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    size = math.prod(tensor.shape[1:])
    shape = (end - start, *tensor.shape[1:])
    data = tensor.data[start * size : end * size]
    return Tensor(tensor.name, tensor.datatype, shape, data)
